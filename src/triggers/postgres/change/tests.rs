//! Events by table.

use super::*;
use crate::triggers::postgres::pgoutput::{OldKind, RelationColumn, Row};

fn relation(identity: Identity, columns: &[(&'static str, u32, bool)]) -> Relation<'static> {
    let column = |(name, ty, identity): &(&'static str, u32, bool)| RelationColumn {
        identity: *identity,
        name: (*name).into(),
        ty: *ty,
        modifier: -1,
    };
    let columns = columns.iter().map(column).collect();
    Relation { oid: 16_385, schema: "public".into(), name: "users".into(), identity, columns }
}

fn row(values: &[Option<&str>]) -> Row {
    let mut row = Row::new();
    for value in values {
        assert!(row.push(value.map(str::as_bytes)));
    }
    row
}

fn origin() -> Origin {
    Origin::new("7423", "shop")
}

fn transaction() -> Transaction {
    Transaction::new(742, Lsn(0x16_B374_D848), 823_176_000_500_000)
}

const USERS: [(&str, u32, bool); 3] = [("id", 20, true), ("name", 25, false), ("tags", 1009, false)];

#[test]
fn an_update_tells_what_it_knows_in_a_fixed_order() {
    let table = Table::new(&relation(Identity::Full, &USERS), &Types::new(), &["id".to_owned()]);
    let (old, new) = (row(&[Some("1"), Some("a"), Some("{x}")]), row(&[Some("1"), None, Some("{x}")]));
    let old = Old { kind: OldKind::Full, tuple: old.tuple() };
    let change = Change::Update { old: Some(old), new: new.tuple() };
    let event = table.event(&change, &transaction(), 3, &origin()).expect("it fits");
    let expected = concat!(
        r#"{"op":"update","before":{"id":1,"name":"a","tags":["x"]},"after":{"id":1,"name":null,"tags":["x"]},"#,
        r#""changed":["name"],"unchanged":[],"schema":"public","table":"users","xid":742,"#,
        r#""commit_lsn":"16/B374D848","commit_time":"2026-01-31T12:00:00.5Z","ordinal":3}"#
    );
    assert_eq!(std::str::from_utf8(&event.data), Ok(expected));
    assert_eq!(event.id, "7423-16/B374D848-3");
    assert_eq!(event.source, "postgres/shop");
    assert_eq!(event.ty, "postgres.public.users.update");
    assert_eq!(event.subject.as_deref(), Some("1"));
}

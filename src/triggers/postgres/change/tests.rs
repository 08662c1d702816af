//! Events by table, and what holds for every row.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::event::codec;
use crate::pgtype::TypeRow;
use crate::triggers::postgres::pgoutput::{Message, OldKind, RelationColumn, Row, decode};
use crate::{pattern, rules};

mod subject;

/// A column: its name, its type's number, whether it belongs to the replica identity.
type Declared = (&'static str, u32, bool);

const INT8: u32 = 20;
const TEXT: u32 = 25;
const USERS: [Declared; 3] = [("id", INT8, true), ("name", TEXT, false), ("tags", 1009, false)];

fn relation(identity: Identity, columns: &[Declared]) -> Relation<'static> {
    let column = |(name, ty, identity): &Declared| RelationColumn {
        identity: *identity,
        name: (*name).into(),
        ty: *ty,
        modifier: -1,
    };
    let columns = columns.iter().map(column).collect();
    Relation { oid: 16_385, schema: "public".into(), name: "users".into(), identity, columns }
}

fn table(identity: Identity, columns: &[Declared], primary_key: &[&str]) -> Table {
    let primary_key: Vec<String> = primary_key.iter().map(|name| (*name).to_owned()).collect();
    Table::new(&relation(identity, columns), &Types::new(), &primary_key)
}

fn users(identity: Identity) -> Table {
    table(identity, &USERS, &["id"])
}

fn row(values: &[Option<&str>]) -> Row {
    let mut row = Row::new();
    for value in values {
        assert!(row.push(value.map(str::as_bytes)));
    }
    row
}

/// An insert message of these values: `(kind, bytes)`, `n` and `u` without any.
fn message(values: &[(u8, &[u8])]) -> Vec<u8> {
    let count = u16::try_from(values.len()).expect("few");
    let mut bytes = [b"I\0\0\x40\x01N".as_slice(), &count.to_be_bytes()].concat();
    for (kind, value) in values {
        bytes.push(*kind);
        if !matches!(kind, b'n' | b'u') {
            bytes.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
            bytes.extend_from_slice(value);
        }
    }
    bytes
}

fn inserted(message: &[u8]) -> Tuple<'_> {
    let Ok(Message::Insert { new, .. }) = decode(message) else { panic!("an insert") };
    new
}

fn old(kind: OldKind, row: &Row) -> Old<'_> {
    Old { kind, tuple: row.tuple() }
}

fn origin() -> Origin {
    Origin::new("7423", "shop")
}

fn transaction() -> Transaction {
    Transaction::new(742, Lsn(0x16_B374_D848), 823_176_000_500_000)
}

fn event(table: &Table, change: &Change<'_>) -> Event {
    let event = table.event(change, &transaction(), 3, &origin()).expect("the row fits");
    codec::check(&event).expect("every event keeps the rules");
    assert!(table.fits(change));
    tells_what_it_says(table, change, &event);
    event
}

/// The scalars of a document, each as a pattern for it and one for anything else at its place.
fn patterns(json: &pattern::Json, path: &str, patterns: &mut Vec<String>) {
    match json {
        pattern::Json::Object(members) => {
            for (key, value) in members {
                self::patterns(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, patterns);
            }
        }
        pattern::Json::Array(items) => items.iter().for_each(|item| self::patterns(item, path, patterns)),
        scalar => {
            let (mut key, mut text) = (Vec::new(), Vec::new());
            pattern::Json::string(path).write(&mut key);
            scalar.write(&mut text);
            let [key, text] = [key, text].map(|text| String::from_utf8(text).expect("JSON is UTF-8"));
            patterns.push(format!("{{{key}:[{text}]}}"));
            patterns.push(format!("{{{key}:[{{\"anything-but\":[{text}]}}]}}"));
        }
    }
}

/// That the fields of the change are those of its event.
fn tells_what_it_says(table: &Table, change: &Change<'_>, event: &Event) {
    let document = rules::document(event);
    let mut texts =
        vec![r#"{"data.undecoded":[{"exists":true}]}"#.to_owned(), r#"{"data.cascade":[false]}"#.to_owned()];
    patterns(&document, "", &mut texts);
    let parsed = texts.iter().filter_map(|text| pattern::Pattern::parse(text).ok()).map(Arc::new);
    let index = pattern::Index::new((0..).zip(parsed));
    let (mut json, mut told, mut scratch) = (Vec::new(), Vec::new(), pattern::Scratch::default());
    let mut said = Vec::new();
    document.write(&mut json);
    index.find_in_json(&json, &mut scratch, &mut said).expect("a document is JSON");
    index.find(|fill| table.tell(change, &transaction(), 3, &origin(), fill), &mut scratch, &mut told);
    assert!(!said.is_empty());
    assert_eq!(told, said, "{texts:?}");
}

fn data(table: &Table, change: &Change<'_>) -> Json {
    let mut data: Json = serde_json::from_slice(&event(table, change).data).expect("it is JSON");
    let object = data.as_object_mut().expect("an object");
    for name in ["schema", "table", "xid", "commit_lsn", "commit_time", "ordinal"] {
        assert!(object.shift_remove(name).is_some(), "{name}");
    }
    data
}

#[test]
fn an_event_says_what_where_and_when() {
    let table = users(Identity::Full);
    let (before, after) = (row(&[Some("1"), Some("a"), Some("{x}")]), row(&[Some("1"), None, Some("{x}")]));
    let change = Change::Update { old: Some(old(OldKind::Full, &before)), new: after.tuple() };
    let event = event(&table, &change);
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
    assert_eq!(event.time, Some(time::macros::datetime!(2026-01-31 12:00:00.5 UTC)));
    assert_eq!(event.datacontenttype.as_deref(), Some("application/json"));
    assert_eq!((event.dataschema, event.extensions), (None, vec![]));
}

#[test]
fn every_operation_tells_what_the_server_told() {
    let one = row(&[Some("1"), Some("a"), None]);
    let two = row(&[Some("2"), Some("a"), None]);
    let key = row(&[Some("1"), None, None]);
    let full = json!({"id": 1, "name": "a", "tags": null});
    let default = users(Identity::Default);
    let none = json!([]);
    let table = [
        (Change::Insert(one.tuple()), json!(null), full.clone(), none.clone()),
        (Change::Read(one.tuple()), json!(null), full.clone(), none.clone()),
        (Change::Update { old: None, new: one.tuple() }, json!(null), full.clone(), none.clone()),
        (
            Change::Update { old: Some(old(OldKind::Key, &key)), new: two.tuple() },
            json!({"id": 1}),
            json!({"id": 2, "name": "a", "tags": null}),
            json!(["id"]),
        ),
        (
            Change::Update { old: Some(old(OldKind::Full, &one)), new: two.tuple() },
            full.clone(),
            json!({"id": 2, "name": "a", "tags": null}),
            json!(["id"]),
        ),
        (Change::Delete(old(OldKind::Key, &key)), json!({"id": 1}), json!(null), none.clone()),
        (Change::Delete(old(OldKind::Full, &one)), full, json!(null), none.clone()),
    ];
    for (change, before, after, changed) in table {
        let op = change.op().name();
        let expected = json!({"op": op, "before": before, "after": after, "changed": changed, "unchanged": none});
        assert_eq!(data(&default, &change), expected, "{change:?}");
    }
    for (cascade, restart_identity) in [(false, false), (true, false), (false, true)] {
        let change = Change::Truncate { cascade, restart_identity };
        let expected = json!({"op": "truncate", "before": null, "after": null, "changed": [], "unchanged": [],
            "cascade": cascade, "restart_identity": restart_identity});
        assert_eq!(data(&default, &change), expected);
        assert_eq!(event(&default, &change).subject, None);
    }
}

#[test]
fn what_was_not_sent_is_named_or_taken_from_the_old_row() {
    let bytes = message(&[(b't', b"1"), (b'u', b""), (b'u', b"")]);
    let new = inserted(&bytes);
    let default = users(Identity::Default);
    let nothing_known = data(&default, &Change::Update { old: None, new });
    assert_eq!(nothing_known["after"], json!({"id": 1}));
    assert_eq!(nothing_known["unchanged"], json!(["name", "tags"]));

    let before = row(&[Some("1"), Some("long"), None]);
    let known = data(&default, &Change::Update { old: Some(old(OldKind::Full, &before)), new });
    assert_eq!(known["after"], json!({"id": 1, "name": "long", "tags": null}));
    assert_eq!((&known["changed"], &known["unchanged"]), (&json!([]), &json!([])));

    // A key that is stored out of line is sent with every update.
    let bytes = message(&[(b'u', b""), (b't', b"b"), (b'n', b"")]);
    let key = row(&[Some("7"), None, None]);
    let change = Change::Update { old: Some(old(OldKind::Key, &key)), new: inserted(&bytes) };
    assert_eq!(data(&default, &change)["after"], json!({"id": 7, "name": "b", "tags": null}));
    assert_eq!(event(&default, &change).subject.as_deref(), Some("7"));
    assert_eq!(event(&default, &Change::Insert(inserted(&bytes))).subject, None, "it is nowhere");
}

#[test]
fn what_cannot_be_read_stays_text_and_is_named_once() {
    let columns = [("id", INT8, true), ("strange", 99_999, false), ("bits", 17, false), ("n", 1700, false)];
    let table = table(Identity::Full, &columns, &["id"]);
    let bytes = message(&[(b't', b"1"), (b't', b"a\xff"), (b'b', b"\x01\xab"), (b't', b"five")]);
    let values = json!({"id": 1, "strange": "a\u{fffd}", "bits": "01ab", "n": "five"});
    let inserted_row = inserted(&bytes);
    let insert = data(&table, &Change::Insert(inserted_row));
    assert_eq!((&insert["after"], &insert["undecoded"]), (&values, &json!(["strange", "bits", "n"])));

    let both = Old { kind: OldKind::Full, tuple: inserted_row };
    let update = data(&table, &Change::Update { old: Some(both), new: inserted_row });
    assert_eq!(update["undecoded"], json!(["strange", "bits", "n"]));
    assert_eq!(update["changed"], json!([]));
    let delete = data(&table, &Change::Delete(both));
    assert_eq!((&delete["before"], &delete["undecoded"]), (&values, &json!(["strange", "bits", "n"])));
    let nulls = row(&[Some("1"), None, None, None]);
    assert_eq!(data(&table, &Change::Insert(nulls.tuple())).get("undecoded"), None, "a null is a null");
}

#[test]
fn columns_may_have_any_name() {
    let columns = [("\"a\"", INT8, true), ("b\\\n", INT8, false), ("Ünï", INT8, false)];
    let table = table(Identity::Full, &columns, &[]);
    let (one, two) = (row(&[Some("1"), None, None]), row(&[Some("2"), Some("2"), Some("2")]));
    let data = data(&table, &Change::Update { old: Some(old(OldKind::Full, &one)), new: two.tuple() });
    assert_eq!(data["after"], json!({"\"a\"": 2, "b\\\n": 2, "Ünï": 2}));
    assert_eq!(data["changed"], json!(["\"a\"", "b\\\n", "Ünï"]));
}

#[test]
fn a_row_that_does_not_fit_its_relation_is_refused() {
    let table = users(Identity::Full);
    let (short, fits) = (row(&[Some("1")]), row(&[Some("1"), None, None]));
    let changes = [
        Change::Insert(short.tuple()),
        Change::Delete(old(OldKind::Full, &short)),
        Change::Update { old: Some(old(OldKind::Full, &short)), new: fits.tuple() },
        Change::Update { old: Some(old(OldKind::Full, &fits)), new: short.tuple() },
    ];
    for change in changes {
        let error = table.event(&change, &transaction(), 1, &origin()).expect_err("it does not fit");
        let expected = "decoding a row of public.users: it has 1 values, its relation has 3 columns";
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn any_commit_time_can_be_written() {
    for (micros, shown) in [
        (0, "2000-01-01T00:00:00Z"),
        (-1, "1999-12-31T23:59:59.999999Z"),
        (i64::MAX, "9999-12-31T00:00:00Z"),
        (i64::MIN, "0000-01-01T00:00:00Z"),
    ] {
        let transaction = Transaction::new(1, Lsn(1), micros);
        assert!(transaction.members.contains(&format!("\"commit_time\":\"{shown}\"")), "{}", transaction.members);
    }
}

#[test]
fn a_table_of_sixteen_hundred_columns_is_one_object() {
    let column =
        |at: usize| RelationColumn { identity: at == 7, name: format!("c{at}").into(), ty: INT8, modifier: -1 };
    let columns = (0..1_600).map(column).collect();
    let relation = Relation { columns, ..relation(Identity::Default, &[]) };
    let table = Table::new(&relation, &Types::new(), &[]);
    let texts: Vec<String> = (0..1_600).map(|at| at.to_string()).collect();
    let values: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let event = event(&table, &Change::Insert(row(&values).tuple()));
    let data: Json = serde_json::from_slice(&event.data).expect("it is JSON");
    assert_eq!(data["after"].as_object().map(serde_json::Map::len), Some(1_600));
    assert_eq!(data["after"]["c1599"], json!(1_599));
    assert_eq!(event.subject.as_deref(), Some("7"));
}

/// Types that a random row has, some of them not known.
const TYPES: [u32; 12] = [16, 17, 20, 25, 114, 701, 1114, 1184, 1700, 1231, 2287, 50_000];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_change_is_an_event_that_keeps_the_rules(
        columns in vec((".{0,4}", prop::sample::select(TYPES.to_vec()), any::<bool>()), 0..6),
        rows in vec((prop::sample::select(b"ttttnub".to_vec()), vec(any::<u8>(), 0..12)), 12),
        identity in prop::sample::select(vec![Identity::Default, Identity::Full, Identity::Nothing, Identity::Index]),
        kind in prop::sample::select(vec![OldKind::Key, OldKind::Full]),
        (schema, name) in (".{0,5}", ".{0,5}"),
    ) {
        let values: Vec<(u8, &[u8])> = rows.iter().map(|(kind, bytes)| (*kind, bytes.as_slice())).collect();
        let width = columns.len();
        let (first, second) = (message(&values[..width]), message(&values[6..6 + width]));
        let column = |(name, ty, identity): &(String, u32, bool)| {
            RelationColumn { identity: *identity, name: name.clone().into(), ty: *ty, modifier: -1 }
        };
        let columns: Vec<_> = columns.iter().map(column).collect();
        let relation = Relation { oid: 1, schema: schema.into(), name: name.into(), identity, columns };
        let mut types = Types::new();
        let attributes = vec![("x".to_owned(), 20), ("y".to_owned(), 25)];
        types.learn([TypeRow { oid: 50_000, kind: 'c', element: 0, base: 0, delimiter: ',', attributes }]);
        let table = Table::new(&relation, &types, &[]);
        let old = Old { kind, tuple: inserted(&first) };
        let new = inserted(&second);
        let updates = [Some(old), None].map(|old| Change::Update { old, new });
        for change in [Change::Insert(new), updates[0], updates[1], Change::Delete(old)] {
            let event = event(&table, &change);
            prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&event.data).is_ok());
            prop_assert!(pattern::Json::parse(&event.data).is_ok());
            let again = Table::new(&relation, &types, &[]).event(&change, &transaction(), 3, &origin());
            prop_assert_eq!(Ok(event), again, "decoded again it is the same");
        }
    }
}

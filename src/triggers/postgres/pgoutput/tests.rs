//! Messages by table, and what holds for every byte.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// One message's bytes, put together field by field.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn tag(tag: u8) -> Self {
        Self(vec![tag])
    }

    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.raw(text.as_bytes()).u8(0)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn value(self, kind: u8, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).expect("a test's values are short");
        self.u8(kind).u32(length).raw(bytes)
    }

    fn row(self) -> Self {
        self.u16(4).u8(b'n').u8(b'u').value(b't', b"abc").value(b'b', b"\x00\x01")
    }
}

fn values(tuple: Tuple<'_>) -> Vec<Value<'_>> {
    tuple.values().collect()
}

const ROW: [Value<'static>; 4] = [Value::Null, Value::Unchanged, Value::Text(b"abc"), Value::Binary(b"\x00\x01")];

/// One of each kind, by name.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let lsn = 0x16_B374_D848;
    let columns = |b: Bytes| b.u16(2).u8(1).text("id").u32(20).raw(&[255; 4]).u8(0).text("näme").u32(1043).u32(24);
    let all = [
        ("begin", Bytes::tag(b'B').u64(lsn).u64(1_000_000).u32(742)),
        ("commit", Bytes::tag(b'C').u8(0).u64(lsn).u64(lsn + 48).u64(1_000_000)),
        ("origin", Bytes::tag(b'O').u64(lsn).text("upstream")),
        ("relation", columns(Bytes::tag(b'R').u32(16_385).text("public").text("users").u8(b'd'))),
        ("type", Bytes::tag(b'Y').u32(16_390).text("public").text("mood")),
        ("insert", Bytes::tag(b'I').u32(16_385).u8(b'N').row()),
        ("update", Bytes::tag(b'U').u32(16_385).u8(b'N').row()),
        ("update of a key", Bytes::tag(b'U').u32(16_385).u8(b'K').row().u8(b'N').row()),
        ("update, full", Bytes::tag(b'U').u32(16_385).u8(b'O').row().u8(b'N').row()),
        ("delete", Bytes::tag(b'D').u32(16_385).u8(b'K').row()),
        ("delete, full", Bytes::tag(b'D').u32(16_385).u8(b'O').row()),
        ("truncate", Bytes::tag(b'T').u32(2).u8(3).u32(16_385).u32(16_399)),
        ("logical", Bytes::tag(b'M').u8(1).u64(lsn).text("oncue").u32(3).raw(b"\x00\xff{")),
    ];
    all.into_iter().map(|(name, bytes)| (name, bytes.0)).collect()
}

fn message(name: &str) -> Vec<u8> {
    messages().into_iter().find(|(n, _)| *n == name).expect("one of that name").1
}

#[test]
fn transactions_are_framed_by_where_and_when_they_committed() {
    let lsn = Lsn(0x16_B374_D848);
    let begin = Begin { commit_lsn: lsn, commit_time_micros: 1_000_000, xid: 742 };
    assert_eq!(decode(&message("begin")), Ok(Message::Begin(begin)));
    let commit = Commit { flags: 0, commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 48), commit_time_micros: 1_000_000 };
    assert_eq!(decode(&message("commit")), Ok(Message::Commit(commit)));
    assert_eq!(decode(&message("origin")), Ok(Message::Origin { commit_lsn: lsn, name: "upstream".into() }));
}

#[test]
fn a_relation_names_its_columns_and_its_identity() {
    let columns = vec![
        RelationColumn { identity: true, name: "id".into(), ty: 20, modifier: -1 },
        RelationColumn { identity: false, name: "näme".into(), ty: 1043, modifier: 24 },
    ];
    let (schema, name) = ("public".into(), "users".into());
    let relation = Relation { oid: 16_385, schema, name, identity: Identity::Default, columns };
    assert_eq!(decode(&message("relation")), Ok(Message::Relation(relation)));
    let named = Message::Type { oid: 16_390, schema: "public".into(), name: "mood".into() };
    assert_eq!(decode(&message("type")), Ok(named));
}

#[test]
fn every_replica_identity_is_known() {
    let table = [(b'd', Identity::Default), (b'n', Identity::Nothing), (b'f', Identity::Full), (b'i', Identity::Index)];
    for (byte, identity) in table {
        let bytes = Bytes::tag(b'R').u32(1).text("").text("pg_type").u8(byte).u16(0).0;
        let Ok(Message::Relation(relation)) = decode(&bytes) else { panic!("{identity:?}") };
        assert_eq!(relation.identity, identity);
        assert_eq!(relation.schema, "pg_catalog", "the server leaves that one out");
    }
}

#[test]
fn a_name_that_is_no_utf_8_stops_nothing() {
    let bytes = Bytes::tag(b'Y').u32(1).raw(b"p\xffc\0").text("mood").0;
    assert_eq!(decode(&bytes), Ok(Message::Type { oid: 1, schema: "p\u{fffd}c".into(), name: "mood".into() }));
}

#[test]
fn rows_are_read_where_they_lie() {
    let insert = message("insert");
    let Ok(Message::Insert { relation: 16_385, new }) = decode(&insert) else { panic!("an insert") };
    assert_eq!((values(new), new.len(), new.is_empty()), (ROW.to_vec(), 4, false));
    assert_eq!(new.values().len(), 4);

    let update = message("update");
    let Ok(Message::Update { old: None, new, .. }) = decode(&update) else { panic!("an update") };
    assert_eq!(values(new), ROW);

    for (name, kind) in [("update of a key", OldKind::Key), ("update, full", OldKind::Full)] {
        let update = message(name);
        let Ok(Message::Update { old: Some(old), new, .. }) = decode(&update) else { panic!("{name}") };
        assert_eq!((old.kind, values(old.tuple), values(new)), (kind, ROW.to_vec(), ROW.to_vec()));
    }
    for (name, kind) in [("delete", OldKind::Key), ("delete, full", OldKind::Full)] {
        let delete = message(name);
        let Ok(Message::Delete { old, .. }) = decode(&delete) else { panic!("{name}") };
        assert_eq!((old.kind, values(old.tuple)), (kind, ROW.to_vec()));
    }
}

#[test]
fn a_truncation_names_all_its_relations() {
    let relations = vec![16_385, 16_399];
    let both = Message::Truncate { relations, cascade: true, restart_identity: true };
    assert_eq!(decode(&message("truncate")), Ok(both));
    for (flags, cascade, restart_identity) in [(0, false, false), (1, true, false), (2, false, true)] {
        let none = Bytes::tag(b'T').u32(0).u8(flags).0;
        assert_eq!(decode(&none), Ok(Message::Truncate { relations: vec![], cascade, restart_identity }));
    }
}

#[test]
fn a_logical_message_keeps_its_bytes() {
    let bytes = message("logical");
    let content = b"\x00\xff{".as_slice();
    let logical = Logical { transactional: true, lsn: Lsn(0x16_B374_D848), prefix: "oncue".into(), content };
    assert_eq!(decode(&bytes), Ok(Message::Logical(logical)));
}

#[test]
fn what_is_no_message_is_named() {
    let table = [
        (vec![], "empty replication message"),
        (b"S\x00".to_vec(), "unknown replication message 'S': start the slot with proto_version 1"),
        (b"B\x00".to_vec(), "begin message ends before its commit position"),
        (Bytes::tag(b'I').u32(1).u8(b'X').0, "insert message has 0x58 as its kind of row"),
        (Bytes::tag(b'U').u32(1).u8(b'K').u16(0).u8(b'O').0, "update message has 0x4f as its kind of row"),
        (Bytes::tag(b'D').u32(1).u8(b'N').u16(0).0, "delete message has 0x4e as its kind of row"),
        (Bytes::tag(b'I').u32(1).u8(b'N').u16(1).u8(b'z').0, "insert message has 0x7a as its kind of value"),
        (Bytes::tag(b'I').u32(1).u8(b'N').u16(2).u8(b'n').0, "insert message ends before its value"),
        (Bytes::tag(b'I').u32(1).u8(b'N').u16(1).u8(b't').u32(9).u8(1).0, "insert message ends before its value"),
        (
            Bytes::tag(b'R').u32(1).text("a").text("b").u8(b'x').u16(0).0,
            "relation message has 0x78 as its replica identity",
        ),
        (Bytes::tag(b'R').u32(1).raw(b"abc").0, "relation message ends before its schema"),
        (Bytes::tag(b'T').u32(u32::MAX).u8(0).0, "truncate message ends before its relation"),
        (Bytes::tag(b'M').u8(0).u64(1).text("p").u32(u32::MAX).0, "logical message ends before its content"),
        (Bytes::tag(b'O').u64(1).text("x").u8(7).0, "origin message has 1 bytes after its end"),
    ];
    for (bytes, expected) in table {
        assert_eq!(decode(&bytes).expect_err(expected).to_string(), expected);
    }
}

#[test]
fn a_message_that_lost_its_end_is_never_taken_for_another() {
    for (name, bytes) in messages() {
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{name} cut at {length}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(decode(&longer), Err(DecodeError::Trailing { bytes: 1, .. })), "{name}");
    }
}

#[test]
fn a_count_from_the_wire_costs_no_memory() {
    let relation = Bytes::tag(b'R').u32(1).text("a").text("b").u8(b'd').u16(u16::MAX).0;
    assert!(decode(&relation).is_err());
    let small = Bytes::tag(b'R').u32(1).text("a").text("b").u8(b'd').u16(1).u8(0).text("c").u32(1).u32(1).0;
    let Ok(Message::Relation(relation)) = decode(&small) else { panic!("a relation") };
    assert_eq!(relation.columns.capacity(), 1);
}

#[test]
fn a_row_put_together_by_hand_reads_like_one_that_came() {
    let mut row = Row::new();
    assert!(row.push(Some(b"1")) && row.push(None) && row.push(Some(b"")));
    assert_eq!(values(row.tuple()), [Value::Text(b"1"), Value::Null, Value::Text(b"")]);
    row.clear();
    assert!(row.tuple().is_empty());
    assert!((0..u16::MAX).all(|_| row.push(None)));
    assert!(!row.push(None), "there is no room for one more");
    assert_eq!(row.tuple().len(), usize::from(u16::MAX));
}

/// Looks at everything that a message holds.
fn walk(bytes: &[u8]) {
    let rows = match decode(bytes) {
        Ok(Message::Insert { new, .. }) => vec![new],
        Ok(Message::Update { old, new, .. }) => old.map(|old| old.tuple).into_iter().chain([new]).collect(),
        Ok(Message::Delete { old, .. }) => vec![old.tuple],
        Ok(_) => vec![],
        Err(error) => {
            assert!(!error.to_string().is_empty());
            vec![]
        }
    };
    for row in rows {
        assert_eq!(row.values().count(), row.len());
        assert!(row.size() <= bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        walk(&bytes);
    }

    #[test]
    fn no_bytes_behind_a_known_tag_make_it_panic(
        tag in prop::sample::select(b"BCORYIUDTM".to_vec()),
        bytes in vec(any::<u8>(), 0..100),
    ) {
        walk(&[&[tag], bytes.as_slice()].concat());
    }

    #[test]
    fn no_damage_to_a_message_makes_it_panic(
        which in 0..13_usize,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = messages()[which].1.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        walk(&bytes);
        walk(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn any_row_survives_the_way(row in vec(prop::option::of(vec(any::<u8>(), 0..20)), 0..20)) {
        let mut made = Row::new();
        for value in &row {
            prop_assert!(made.push(value.as_deref()));
        }
        let count = u16::try_from(row.len()).expect("few");
        let mut bytes = Bytes::tag(b'I').u32(7).u8(b'N').u16(count);
        for value in &row {
            bytes = match value {
                Some(value) => bytes.value(b't', value),
                None => bytes.u8(b'n'),
            };
        }
        prop_assert_eq!(decode(&bytes.0), Ok(Message::Insert { relation: 7, new: made.tuple() }));
        let expected: Vec<Value<'_>> =
            row.iter().map(|v| v.as_deref().map_or(Value::Null, Value::Text)).collect();
        prop_assert_eq!(values(made.tuple()), expected);
    }
}

//! Keys and subjects: what they are made of, and in which form.

use super::*;

#[test]
fn the_key_is_what_every_event_of_a_row_can_tell() {
    let pair = [("a", INT8, false), ("b", TEXT, false), ("c", TEXT, false)];
    let with = |flags: [bool; 3]| [0, 1, 2].map(|at| (pair[at].0, pair[at].1, flags[at]));
    let none: [usize; 0] = [];
    type Case<'a> = (Identity, [bool; 3], &'a [&'a str], &'a [usize]);
    let rows: [Case<'_>; 11] = [
        (Identity::Default, [true, false, false], &["a"], &[0]),
        (Identity::Default, [true, true, false], &["b", "a"], &[0, 1]),
        (Identity::Default, [true, false, false], &[], &[0]),
        (Identity::Default, [false; 3], &[], &none),
        (Identity::Full, [true; 3], &["b"], &[1]),
        (Identity::Full, [true; 3], &[], &none),
        (Identity::Full, [true; 3], &["b", "not published"], &none),
        (Identity::Nothing, [false; 3], &["c", "a"], &[0, 2]),
        (Identity::Index, [false, true, false], &["a"], &[1]),
        (Identity::Index, [true, true, false], &["a"], &[0]),
        (Identity::Index, [false, true, false], &[], &[1]),
    ];
    for (identity, flags, primary_key, expected) in rows {
        let table = table(identity, &with(flags), primary_key);
        assert_eq!(table.key, expected, "{identity:?} {flags:?} {primary_key:?}");
        assert_eq!(table.full_identity, identity == Identity::Full);
    }
}

#[test]
fn the_subject_is_the_key_in_a_form_that_an_attribute_may_have() {
    let one = table(Identity::Default, &[("k", TEXT, true)], &[]);
    let subject = |table: &Table, values: &[Option<&str>]| event(table, &Change::Insert(row(values).tuple())).subject;
    let long = "x".repeat(5_000);
    let rows = [
        ("42", "42"),
        ("", "\"\""),
        ("ä b/%41", "ä b/%41"),
        ("a\n\u{85}\u{7f}b", "a%0A%C2%85%7Fb"),
        (&long[..4_096], &long[..4_096]),
    ];
    for (key, expected) in rows {
        assert_eq!(subject(&one, &[Some(key)]).as_deref(), Some(expected));
    }
    assert_eq!(subject(&one, &[None]), None);

    let shortened = subject(&one, &[Some(&long)]).expect("there is one");
    assert!(shortened.starts_with("xxx") && shortened.contains("…sha256:"), "{shortened}");
    assert_ne!(Some(shortened), subject(&one, &[Some(&format!("{long}y"))]), "two keys stay two");

    let columns = [("n", 1700, true), ("t", TEXT, true), ("s", 99_999, true), ("x", TEXT, false)];
    let many = table(Identity::Default, &columns, &[]);
    let values = [Some("1.50"), Some("a\"\u{7f}\n"), Some("q"), None];
    assert_eq!(subject(&many, &values).as_deref(), Some(r#"[1.50,"a\"%7F\n","q"]"#));
    assert_eq!(subject(&many, &[Some("1"), None, Some("q"), None]), None);
    let bytes = message(&[(b'b', b"\x01"), (b't', b"a"), (b'n', b""), (b'n', b"")]);
    assert_eq!(event(&many, &Change::Insert(inserted(&bytes))).subject, None);
    let bytes = message(&[(b'b', b"\x01\xff")]);
    assert_eq!(event(&one, &Change::Insert(inserted(&bytes))).subject.as_deref(), Some("01ff"));
}

#[test]
fn the_subject_follows_the_row_and_its_new_key() {
    let table = users(Identity::Default);
    let (key, new) = (row(&[Some("1"), None, None]), row(&[Some("2"), None, None]));
    let moved = Change::Update { old: Some(old(OldKind::Key, &key)), new: new.tuple() };
    assert_eq!(event(&table, &moved).subject.as_deref(), Some("2"));
    let gone = Change::Delete(old(OldKind::Key, &key));
    assert_eq!(event(&table, &gone).subject.as_deref(), Some("1"));
}

#[test]
fn names_that_no_subject_may_have_are_encoded() {
    let rows = [
        ("public", "users", "postgres.public.users.insert"),
        ("Öffentlich", "naïve", "postgres.Öffentlich.naïve.insert"),
        ("a.b", "c*>", "postgres.a%2Eb.c%2A%3E.insert"),
        ("a b\t", "50%", "postgres.a%20b%09.50%25.insert"),
        ("q\"'", "\u{2003}\u{85}", "postgres.q\"'.%E2%80%83%C2%85.insert"),
    ];
    for (schema, name, expected) in rows {
        let relation = Relation { schema: schema.into(), name: name.into(), ..relation(Identity::Default, &USERS) };
        let table = Table::new(&relation, &Types::new(), &[]);
        assert_eq!(table.event_type(Op::Insert), expected);
        let change = Change::Truncate { cascade: false, restart_identity: false };
        let data: Json = serde_json::from_slice(&event(&table, &change).data).expect("it is JSON");
        assert_eq!((&data["schema"], &data["table"]), (&json!(schema), &json!(name)), "there they stand as they are");
    }
    let types = Op::ALL.map(|op| users(Identity::Default).event_type(op).to_owned());
    let ends = ["insert", "update", "delete", "truncate", "read"].map(|op| format!("postgres.public.users.{op}"));
    assert_eq!(types, ends);
    assert_eq!(Origin::new("1", "my.app/x y").source, "postgres/my.app%2Fx%20y");
}

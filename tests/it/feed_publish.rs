//! Publishing in the application's own transaction: an event exists if and only if the transaction commits.

use std::path::PathBuf;

use oncue::bus::BusConfig;
use oncue::bus::postgres::PostgresBus;
use oncue::event::codec::{self, Limits};
use oncue::event::{AttributeValue, Event};
use serde_json::json;

use crate::support::World;
use crate::support::process::{manifest, run};

/// A world with the function, a slot that keeps what is published, and a publication to read it with.
async fn world() -> (World, PostgresBus) {
    let world = World::without_tables().await;
    let bus = PostgresBus::new("app", &BusConfig::postgres(world.postgres.url())).expect("the address is valid");
    assert!(!bus.has_publish().await.expect("it answers"));
    bus.install_publish().await.expect("it is installed");
    bus.install_publish().await.expect("it may be installed again");
    assert!(bus.has_publish().await.expect("it answers"));
    bus.create_slot("published", false).await.expect("the slot is created");
    world.sql("create publication nothing").await;
    (world, bus)
}

/// The events that were published and committed, as a feed would read them.
async fn events(world: &World) -> Vec<Event> {
    // A message of pgoutput: M, flags, LSN, the prefix with a NUL, the length, the content.
    let read = "select substring(data from 3 + 8 + 6 + 4) from pg_logical_slot_get_binary_changes('published', null, \
                null, 'proto_version', '1', 'publication_names', 'nothing', 'messages', 'true') \
                where get_byte(data, 0) = 77";
    let contents: Vec<Vec<u8>> = sqlx::query_scalar(read).fetch_all(&world.pool).await.expect("the slot is read");
    let read = |content: &Vec<u8>| {
        let mut event = codec::from_structured(content, &Limits::default())
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(content)));
        assert!(event.extension("oncuemac").is_some(), "it is signed: {event:?}");
        event.remove_extension("oncuemac");
        event
    };
    contents.iter().map(read).collect()
}

#[tokio::test]
async fn an_event_exists_if_and_only_if_its_transaction_commits() {
    let (world, _) = world().await;
    world.sql("begin; select oncue.publish('user.lost', '{}'); rollback").await;
    world
        .sql(
            "begin; select oncue.publish('user.first', '{\"n\": 1}', id => 'a'); savepoint s;
             select oncue.publish('user.undone'); rollback to s; select oncue.publish('user.second', id => 'b'); commit",
        )
        .await;
    let events = events(&world).await;
    let seen: Vec<(&str, &str)> = events.iter().map(|event| (event.ty.as_str(), event.id.as_str())).collect();
    assert_eq!(seen, [("user.first", "a"), ("user.second", "b")]);
    assert_eq!(&events[0].data[..], b"{\"n\": 1}");
}

#[tokio::test]
async fn an_event_is_what_the_arguments_say() {
    let (world, _) = world().await;
    let id = world.row("select oncue.publish('a.b') as id").await["id"].as_str().expect("an id").to_owned();
    world
        .sql(
            "select oncue.publish('ü.type', '[9007199254740993, 1.10, \"\\u00fc\"]', 'it''s \"me\"', '/shop', 'i',
                 'application/vnd.x+json', '{\"tenant\": \"t\", \"retries\": 3, \"ok\": true, \"half\": 1.5}');
             select oncue.publish('a', 'null'::jsonb); select oncue.publish('a', extensions => null);
             select oncue.publish('bytes', 'k', 'j', '\\x00ff7b'::bytea);
             select oncue.publish('bytes', 'k', 'j', decode(repeat('ab', 500), 'hex'), 'image/png')",
        )
        .await;
    let events = events(&world).await;
    let [plain, full, null, _, bytes, long] = &events[..] else { panic!("{events:?}") };
    assert_eq!((plain.id.as_str(), plain.source.as_str(), plain.data.len()), (id.as_str(), "postgres/postgres", 0));
    assert_eq!((plain.datacontenttype.as_deref(), plain.time), (None, None));
    let text = |text: &str| AttributeValue::String(text.to_owned());
    assert_eq!((full.ty.as_str(), full.subject.as_deref()), ("ü.type", Some("it's \"me\"")));
    assert_eq!((full.source.as_str(), full.id.as_str()), ("/shop", "i"));
    assert_eq!(full.datacontenttype.as_deref(), Some("application/vnd.x+json"));
    assert_eq!(full.extension("tenant"), Some(&text("t")));
    assert_eq!(full.extension("retries"), Some(&AttributeValue::Integer(3)));
    assert_eq!(full.extension("ok"), Some(&AttributeValue::Bool(true)));
    assert_eq!(full.extension("half"), Some(&text("1.5")));
    assert_eq!(&full.data[..], "[9007199254740993, 1.10, \"ü\"]".as_bytes(), "numbers stay exact");
    assert_eq!((&null.data[..], null.datacontenttype.as_deref()), (&b"null"[..], Some("application/json")));
    assert_eq!((&bytes.data[..], bytes.subject.as_deref()), (&b"\x00\xff{"[..], Some("k")));
    assert_eq!(bytes.datacontenttype.as_deref(), Some("application/octet-stream"));
    assert_eq!((&long.data[..], long.datacontenttype.as_deref()), (&[0xab; 500][..], Some("image/png")));
}

#[tokio::test]
async fn what_no_feed_could_read_is_refused_and_the_argument_is_named() {
    let (world, _) = world().await;
    let table = [
        ("null", "type must not be null"),
        ("''", "type is empty"),
        ("'a b'", "type must not be null or hold white space"),
        ("E'a\\tb'", "type must not"),
        ("'a', subject => E'x\\ny'", "subject holds a control character"),
        ("'a', source => ''", "source is empty"),
        ("'a', id => ''", "id is empty"),
        ("'a', id => repeat('x', 8193)", "id is longer than 8192 bytes"),
        ("'a', datacontenttype => E'\\x7f'", "datacontenttype holds a control character"),
        ("'a', extensions => '[]'", "extensions must be a JSON object"),
        ("'a', extensions => '{\"Tenant\": 1}'", "extensions: \"Tenant\" cannot be the name"),
        ("'a', extensions => '{\"id\": 1}'", "extensions: \"id\" cannot be the name"),
        ("'a', extensions => '{\"oncuehops\": 1}'", "extensions: \"oncuehops\" cannot be the name"),
        ("'a', extensions => '{\"x\": {}}'", "extensions: \"x\" must be a string, a number or a boolean"),
        ("'a', extensions => '{\"x\": null}'", "extensions: \"x\" must be"),
        ("'a', extensions => '{\"x\": \"\\u0001\"}'", "extensions: \"x\" holds a control character"),
        ("'a', to_jsonb(repeat('x', 17 << 20))", "more than 16 MiB"),
    ];
    for (arguments, expected) in table {
        let refused = world.try_sql(&format!("select oncue.publish({arguments})")).await;
        let error = refused.expect_err(arguments).to_string();
        assert!(error.contains(expected), "{arguments}: {error}");
    }
    assert_eq!(events(&world).await, []);
}

#[tokio::test]
async fn a_role_needs_one_grant() {
    let (world, _) = world().await;
    world.sql("create role shop login; create table secret (x int)").await;
    let pool = sqlx::PgPool::connect_lazy(&world.postgres.url().replace("postgres@", "shop@")).expect("it is valid");
    let publish = || async { sqlx::query("select oncue.publish('a', '{}')").execute(&pool).await.map(drop) };
    let error = publish().await.expect_err("not yet").to_string();
    assert!(error.contains("permission denied for schema oncue"), "{error}");
    world.sql("grant usage on schema oncue to shop").await;
    let error = publish().await.expect_err("not yet").to_string();
    assert!(error.contains("permission denied for function"), "{error}");
    world.sql("select oncue.grant_publish('shop')").await;
    publish().await.expect("it may");
    // It can neither replace the function nor do more than it could before.
    let shop = world.postgres.url().replace("postgres@", "shop@");
    let bus = PostgresBus::new("app", &BusConfig::postgres(shop)).expect("the address is valid");
    let error = bus.install_publish().await.expect_err("it is another's").to_string();
    assert!(error.contains("oncue migrate --bus app --sql"), "{error}");
    assert_eq!(events(&world).await.len(), 1);
}

#[tokio::test]
async fn several_events_are_one_transaction_in_their_order() {
    let (world, bus) = world().await;
    let one = |n: usize| {
        let event = format!(r#"{{"specversion":"1.0","id":"{n}","source":"s","type":"t"}}"#);
        codec::from_structured(event.as_bytes(), &Limits::default()).expect("an event")
    };
    bus.publish((0..3_000).map(one)).await.expect("they are published");
    let transactions = "select count(*) from pg_logical_slot_peek_binary_changes('published', null, null, \
                        'proto_version', '1', 'publication_names', 'nothing', 'messages', 'true') \
                        where get_byte(data, 0) = 66";
    assert_eq!(world.number(transactions).await, 1);
    let ids: Vec<usize> = events(&world).await.iter().map(|event| event.id.parse().expect("a number")).collect();
    assert_eq!(ids, (0..3_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_installs_the_function_and_publishes() {
    let (world, _) = world().await;
    world.sql("drop schema oncue cascade").await;
    let url = world.postgres.url().to_owned();
    let app = |more: &str| format!("[bus.app]\nkind = \"postgres\"\nurl = \"{url}\"\n{more}");
    let (manifest, _): (PathBuf, _) = manifest(&world, "shop", &app(""));
    let said = run(&manifest, &["migrate", "--bus", "main"]).await;
    assert!(said.code == 1 && said.err.contains("is no Postgres"), "{said:?}");
    let sql = run(&manifest, &["migrate", "--bus", "app", "--sql"]).await;
    assert!(sql.code == 0 && sql.out.contains("create or replace function oncue.publish"), "{sql:?}");
    world.sql(&sql.out).await;
    let said = run(&manifest, &["migrate", "--bus", "app"]).await;
    assert!(said.code == 0 && said.err.contains("--grant ROLE"), "{said:?}");
    world.sql("create role shop login").await;
    let said = run(&manifest, &["migrate", "--bus", "app", "--grant", "shop"]).await;
    assert!(said.code == 0 && said.err.contains("the role shop may publish"), "{said:?}");
    let granted = "has_function_privilege('shop', 'oncue.write_event(text, jsonb, text, text, text, text, jsonb, bytea)', \
                   'execute')";
    assert_eq!(world.number(&format!("select {granted}::int")).await, 1);

    let said = run(&manifest, &["publish", "app/user.signup", r#"{"n": 1.0}"#, "--id", "x", "--ext", "tenant=t"]).await;
    assert!(said.code == 0 && said.out.contains("published 1 to app/user.signup as x"), "{said:?}");
    let lines = ["publish", "app/user.left", "{\"n\":1}\n{\"n\":2}\n", "--lines", "--output", "json"];
    let said = run(&manifest, &lines).await;
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_eq!((&report["count"], &report["transactions"]), (&json!(2), &json!(1)));
    let events = events(&world).await;
    let seen: Vec<(&str, &[u8])> = events.iter().map(|event| (event.ty.as_str(), &event.data[..])).collect();
    let expected: [(&str, &[u8]); 3] =
        [("user.signup", b"{\"n\": 1.0}"), ("user.left", b"{\"n\":1}"), ("user.left", b"{\"n\":2}")];
    assert_eq!(seen, expected);
    assert_eq!((events[0].id.as_str(), events[0].source.as_str()), ("x", "oncue/cli"));
    let refused = run(&manifest, &["publish", "app/a", "{}", "--core"]).await;
    assert!(refused.code == 1 && refused.err.contains("takes events only"), "{refused:?}");
}

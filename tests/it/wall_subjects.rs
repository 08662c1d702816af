//! Subjects that reach where no event may go: a server's own API, a protocol line, another's inbox. Every way in refuses
//! them with the same words, and a row that is older than the checks is refused by the nodes.

use serde_json::json;

use crate::support::node::Node;
use crate::support::process::{manifest, run};
use crate::support::{World, eventually, functions};

const DELETES: &str = "$JS.API.STREAM.DELETE.VICTIM";

/// Subjects that nobody may publish to, and what is said of them.
fn refused() -> Vec<(String, &'static str)> {
    let table = [
        (DELETES, "begins with $"),
        ("$SYS.REQ.SERVER.PING", "begins with $"),
        ("mail.$JS.API", "begins with $"),
        ("_INBOX.abc", "_INBOX"),
        ("a\r\nPUB b 0\r\n", "white space"),
        ("a\tb", "white space"),
        ("a b", "white space"),
        ("a\u{7f}", "white space or a control"),
        ("a\u{85}b", "white space or a control"),
        ("a\u{2028}b", "white space or a control"),
        ("a..b", "empty token"),
        (".a", "empty token"),
        ("a.", "empty token"),
    ];
    let long = [("x".repeat(256), "more than 255"), ("x".repeat(100_000), "1024"), ("x.".repeat(600) + "x", "1024")];
    table.map(|(subject, said)| (subject.to_owned(), said)).into_iter().chain(long).collect()
}

/// A text of TOML and of JSON in which nothing but ASCII stands.
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        ' '..='~' if !"\"\\".contains(c) => c.to_string(),
        _ => format!("\\u{:04x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_and_the_command_line_refuse_subjects_that_reach_elsewhere() {
    let world = World::without_tables().await;
    std::fs::write(world.dir.path().join("w.wasm"), functions::welcome()).expect("the component is written");
    let forms = |subject: &str| {
        let (target, subject) = (quoted(&format!("main/{subject}")), quoted(subject));
        [
            format!("[[rule]]\nname = \"r\"\nmatch_all = true\npublish = {target}\n"),
            format!("[function.w]\ncomponent = \"w.wasm\"\ngrants = {{ publish = [{target}] }}\n"),
            format!("[trigger.t]\nbus = \"main\"\nsubject = {subject}\n"),
            format!("[trigger.t]\nbus = \"main\"\nsubject = \"a\"\nqueue = {subject}\n"),
            format!("[trigger.t]\nbus = \"main\"\nstream = \"S\"\nsubjects = [{subject}]\n"),
        ]
    };
    let subjects = refused();
    // The whole table is tested where the check is; here every form, and every kind of subject once.
    for (n, (subject, said)) in subjects.iter().enumerate() {
        let all = forms(subject);
        for text in all.iter().cycle().skip(n).take(if n == 0 { all.len() } else { 1 }) {
            let (path, _) = manifest(&world, "bad", text);
            let checked = run(&path, &["plan"]).await;
            assert!(checked.code != 0 && checked.err.contains(said), "{said}: {} {text:.200}", checked.err);
            assert!(checked.err.len() < 4_000 && !checked.err.contains('\t'), "{}", checked.err);
        }
    }
    let (path, _) = manifest(&world, "good", "");
    for (subject, said) in subjects.iter().filter(|(subject, _)| !subject.contains('\0')) {
        let sent = run(&path, &["publish", &format!("main/{subject}"), "{}", "--core"]).await;
        assert!(sent.code != 0 && sent.err.contains(said), "{said}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_rows_with_subjects_that_reach_elsewhere() {
    let world = World::start().await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    for (subject, _) in refused() {
        let text = subject.replace('\'', "''");
        let spec = |key: &str, value: String| format!("'{}'", json!({ key: value }).to_string().replace('\'', "''"));
        let list = format!("'{}'", json!({ "stream": "S", "subjects": [subject.clone()] }));
        let grant = format!("'{}'", json!({ "grants": { "publish": [format!("main/{subject}")] } }));
        let trigger = |kind: &str, spec: &str| {
            format!("insert into oncue.triggers (name, bus, kind, spec) values ('t', 'main', '{kind}', {spec}::jsonb)")
        };
        let table = [
            (
                "rules_publish_is_a_subject",
                format!("insert into oncue.rules (name, match_all, publish) values ('r', true, 'main/{text}')"),
            ),
            ("triggers_subjects_are_subjects", trigger("nats", &spec("subject", subject.clone()))),
            ("triggers_subjects_are_subjects", trigger("nats", &spec("queue", subject.clone()))),
            ("triggers_subjects_are_subjects", trigger("jetstream", &list)),
            ("triggers_subjects_are_subjects", trigger("postgres", &spec("relay", format!("main/{subject}")))),
            (
                "function_versions_grants_are_subjects",
                format!(
                    "insert into oncue.function_versions select function, 2, digest, {grant}::jsonb from oncue.function_versions"
                ),
            ),
        ];
        for (constraint, statement) in table {
            assert_eq!(world.refusal(&statement).await, constraint, "{statement:.300}");
        }
    }
    // What may be written is written, and says the same in SQL as in the program.
    world
        .sql("insert into oncue.rules (name, match_all, publish) values ('r', true, 'main/com.example.Signed-Up_2')")
        .await;
    world.sql("insert into oncue.triggers (name, bus, kind, spec) values ('t', 'main', 'nats', '{\"subject\":\"a.*.>\"}')").await;
    for (subject, _) in refused() {
        let sql = format!("select oncue.subject_error('{subject}', false) as said");
        let said = world.row(&sql).await["said"].as_str().unwrap_or_default().to_owned();
        let program = oncue::event::subject::check(&subject).expect_err("it is refused").to_string();
        assert_eq!(said, program, "{subject:.100}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_older_than_the_checks_deletes_no_stream() {
    let world = World::start().await;
    world.stream("DOOR", &["door.>"]).await;
    world.stream("VICTIM", &["victim.>"]).await;
    world.jetstream_trigger("door", "DOOR", json!({})).await;
    // As it stood in the table before the check was there.
    world.sql("alter table oncue.rules disable trigger rules_publish_is_a_subject").await;
    let rule = |name: &str, to: &str| {
        format!("insert into oncue.rules (name, match_all, publish) values ('{name}', true, 'main/{to}')")
    };
    world.sql(&rule("old", DELETES)).await;
    world.sql("alter table oncue.rules enable trigger rules_publish_is_a_subject").await;
    world.sql(&rule("good", "victim.copy")).await;
    let node = Node::start(&world, "one").await;
    world.publish("door.empty", &[], b"").await;
    eventually("it is acknowledged", async || world.drained("DOOR", "oncue-door").await).await;
    let error = world.row("select error from oncue.rules where name = 'old'").await;
    let error = error["error"].as_str().unwrap_or_default();
    assert!(error.contains("publish") && error.contains("begins with $"), "{error}");
    assert_eq!(world.ledger("rule = 'good' and settlement = 'done'").await, 1);
    assert_eq!(world.stored("VICTIM").await, 1, "the stream is there, and the other rule published to it");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_emits_no_type_that_reaches_elsewhere() {
    let world = World::start().await;
    world.stream("DOOR", &["door.>"]).await;
    world.stream("VICTIM", &["victim.>"]).await;
    world.deploy("steered", &functions::steered(), &json!({ "grants": { "publish": ["main/>"] } })).await;
    world.jetstream_trigger("door", "DOOR", json!({})).await;
    world
        .sql("insert into oncue.rules (name, match_all, run, retry_max_attempts) values ('all', true, 'steered', 1)")
        .await;
    let node = Node::start(&world, "one").await;
    let types = [DELETES, "a.$JS.API", "_INBOX.x", "a b", "a..b"];
    for ty in types {
        // The type stands between the 16 first bytes and the two last ones.
        let data = format!(r#"{{"do":"y0","t":"{ty}"}}"#);
        assert_eq!(data.find(ty), Some(16));
        world.publish("door.in", &[], data.as_bytes()).await;
    }
    eventually("all are dead", async || {
        world.number("select count(*) from oncue.dead_letters where class = 'denied'").await
            == i64::try_from(types.len()).expect("few")
    })
    .await;
    assert_eq!(world.stored("VICTIM").await, 0, "the stream is there");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_rejects_types_that_are_no_subject_and_goes_on() {
    let world = World::start().await;
    world.stream("CHANGES", &["changes.>"]).await;
    world.stream("VICTIM", &["victim.>"]).await;
    world.feed("said", &[], json!({ "messages": [">"], "relay": "main/changes" })).await;
    let node = Node::start(&world, "one").await;
    eventually("the slot is there", async || {
        world.number("select count(*) from pg_replication_slots where active").await == 1
    })
    .await;
    // Signed, but not by `oncue.publish`, which refuses the space that would make the second word a reply subject.
    let types = [format!("a {DELETES}"), DELETES.to_owned(), "x".repeat(2_000), "a..b".to_owned()];
    for (n, ty) in types.iter().enumerate() {
        let event = json!({ "specversion": "1.0", "id": n.to_string(), "source": "s", "type": ty }).to_string();
        world.sql(&format!("select oncue.write_message(convert_to('{event}', 'UTF8'))")).await;
        world.sql(&format!("select oncue.publish('good', '{{\"n\":{n}}}')")).await;
    }
    let count = u64::try_from(types.len()).expect("few");
    eventually("the good ones are relayed", async || world.stored("CHANGES").await == count).await;
    eventually("the others are kept", async || {
        world.number("select count(*) from oncue.dead_letters where class = 'unpublishable'").await == 4
    })
    .await;
    assert_eq!(world.stored("VICTIM").await, 0, "the stream is there");
    node.stop().await;
}

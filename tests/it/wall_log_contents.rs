//! Contents of events stay in `raw`: whatever is wrong with a message, a function or a statement, logs at every level,
//! metrics, health, and the errors that are kept and shown say where and what kind, and repeat nothing of it.

use serde_json::{Value, json};

use crate::support::process::{self, Process};
use crate::support::{World, eventually, functions};

/// Stands in every message, wherever contents can be.
const CONTENT: &str = "4111222233334444";

fn clean(what: &str, text: &str) {
    let line = text.lines().find(|line| line.contains(CONTENT));
    assert!(line.is_none(), "{what} repeats a part of an event: {}", line.unwrap_or_default());
}

/// Class, headers, payload.
type Bad = (&'static str, Vec<(String, String)>, String);

/// Messages that are no event, with their class.
fn rejected() -> Vec<Bad> {
    let structured = || vec![("content-type".to_owned(), "application/cloudevents+json".to_owned())];
    let binary = |more: &[(&str, &str)]| {
        let whole = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", "t")];
        let all = whole.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name)).chain(more);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    let event = |members: &str| format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t",{members}}}"#);
    let c = CONTENT;
    let control = format!("%01{c}");
    vec![
        ("invalid_json", structured(), format!("\"{c}\"")),
        ("invalid_json", structured(), format!("[{c}]")),
        ("invalid_json", structured(), c.to_owned()),
        ("invalid_json", structured(), format!("{{\"id\":{c}x}}")),
        ("invalid_attribute", structured(), event(&format!(r#""data":"{c}","data_base64":"{c}""#))),
        ("invalid_attribute", structured(), event(&format!(r#""data_base64":"{c}!""#))),
        ("invalid_attribute", structured(), event(&format!(r#""card":{{"number":"{c}"}}"#))),
        ("invalid_attribute", structured(), event(&format!(r#""Card{c}":"x""#))),
        ("invalid_attribute", structured(), event(&format!(r#""subject":{c}"#))),
        ("invalid_attribute", structured(), event(&format!(r#""subject":"\u0001{c}""#))),
        ("duplicate_attribute", structured(), event(&format!(r#""{c}":"x","{c}":"y""#))),
        ("unsupported_specversion", structured(), format!(r#"{{"specversion":"{c}","id":"1"}}"#)),
        ("invalid_attribute", binary(&[("ce-time", c)]), "{}".to_owned()),
        ("invalid_attribute", binary(&[("ce-subject", &control)]), "{}".to_owned()),
        ("invalid_attribute", binary(&[("ce-oncuehops", &format!("x{c}"))]), "{}".to_owned()),
        ("hop_limit", binary(&[("ce-oncuehops", c)]), "{}".to_owned()),
        ("unsupported_specversion", binary(&[("ce-specversion", c)]), "{}".to_owned()),
        ("unsupported_format", vec![("content-type".to_owned(), format!("application/cloudevents+{c}"))], c.to_owned()),
        ("batch", vec![("content-type".to_owned(), format!("application/cloudevents-batch+json;a={c}"))], c.to_owned()),
        ("too_deep", Vec::new(), format!("{}\"{c}\"{}", "[".repeat(129), "]".repeat(129))),
    ]
}

/// Statements that the database refuses, and whose errors quote a value.
fn refused() -> Vec<(&'static str, String)> {
    let c = CONTENT;
    vec![
        ("22P02", format!("x insert into cards (id) values ('x{c}')")),
        ("22003", format!("x insert into cards (id) values ({c}{c})")),
        ("23505", format!("x insert into holders values ('{c}'), ('{c}')")),
        ("23514", format!("x insert into cards (id, note) values (1, 'bad {c}')")),
        ("23502", format!("x insert into cards (id, note) values (null, '{c}')")),
        ("P0001", format!("x insert into cards (id, note) values (2, 'raise {c}')")),
        ("42601", format!("x insert into cards {c}")),
        ("42703", format!("x insert into cards (\"{c}\") values (1)")),
        ("42P01", format!("x insert into \"{c}\" values (1)")),
        ("42883", format!("x insert into cards (id) values (\"f{c}.\"('{c}'))")),
        ("22007", format!("x insert into cards (id, at) values (3, 'x{c}')")),
        ("slow", format!("x insert into holders select '{c}' from pg_sleep(1.2)")),
    ]
}

/// A stream of work, the function `clerk` with SQL, and tables that refuse in every way.
async fn office() -> World {
    let world = World::start().await;
    world.stream("WORK", &["work"]).await;
    world.stream("DOOR", &["door"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world
        .sql(
            "create role clerk nologin;
             create table cards (id int not null, note text check (note not like 'bad%'), at timestamptz);
             create table holders (number text unique);
             create function complain() returns trigger language plpgsql as $$ begin
                 raise warning 'noted %', new.note;
                 if new.note like 'raise%' then
                     raise exception 'no such card %', new.note using detail = new.note, hint = new.note;
                 end if;
                 return new;
             end $$;
             create trigger complain before insert on cards for each row execute function complain();
             grant select, insert on cards, holders to clerk",
        )
        .await;
    let grants = json!({ "grants": { "publish": ["main/mail.welcome"], "sql": { "role": "clerk" } } });
    world.deploy("clerk", &functions::sql(), &grants).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world.jetstream_trigger("door", "DOOR", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, run, retry_base_ms, retry_max_attempts)
             values ('work', 'work', true, 'clerk', 50, 1), ('door', 'door', true, 'steered', 50, 1)",
        )
        .await;
    world
}

/// What a function does wrong with what it was given: a type with a blank, a rejection, a trap.
fn misbehaving() -> Vec<String> {
    [("y0", " "), ("t0", "x"), ("r0", "x"), ("b0", "x")]
        .map(|(what, between)| format!("{{\"do\":\"{what}\",\"n\":\"{between}{CONTENT}\"}}"))
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_events_are_in_no_log_metric_page_or_error() {
    let world = office().await;
    let node = Process::launch_logging(&world, "one", "", "trace").ready().await;
    let bad = rejected();
    for (_, headers, payload) in &bad {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        world.publish("door", &headers, payload.as_bytes()).await;
    }
    let statements = refused();
    world.publish_events("work", statements.iter().map(|(id, text)| ((*id).to_owned(), text.clone()))).await;
    let odd = misbehaving();
    world.publish_events("door", odd.iter().enumerate().map(|(n, data)| (format!("odd{n}"), data.clone()))).await;
    eventually("all is settled", async || {
        world.drained("DOOR", "oncue-door").await && world.drained("WORK", "oncue-work").await
    })
    .await;
    let letters = world.rows("select kind, class, error, event_id from oncue.dead_letters").await;
    let of = |class: &str| letters.iter().filter(|l| l["kind"] == "rejected" && l["class"] == class).count();
    for (class, ..) in &bad {
        assert_eq!(of(class), bad.iter().filter(|(other, ..)| other == class).count(), "{class}: {letters:?}");
    }
    for (code, _) in statements.iter().filter(|(code, _)| *code != "slow") {
        let letter = letters.iter().find(|l| l["event_id"] == **code).expect("it is given up");
        assert!(letter["error"].as_str().is_some_and(|error| error.contains(code)), "{letter}");
    }
    assert_eq!(letters.iter().filter(|l| l["event_id"].as_str().is_some_and(|id| id.starts_with("odd"))).count(), 4);
    everything_is_clean(&world, &node).await;
    assert!(node.log_text().contains("message rejected"), "rejections are logged");
    let kept =
        "select count(*) from oncue.dead_letters where raw is not null and position($1 in encode(raw, 'escape')) > 0";
    let kept = world.number(&kept.replace("$1", &format!("'{CONTENT}'"))).await;
    assert!(kept > 10, "the bytes are kept: {kept}");
    assert!(node.terminate().await.success());
    clean("the log", &std::fs::read_to_string(world.dir.path().join("one.log")).expect("the log"));
}

async fn everything_is_clean(world: &World, node: &Process) {
    clean("the log", &node.log_text());
    for page in ["/metrics", "/readyz", "/livez"] {
        clean(page, &node.get(page).await.expect("it answers").1);
    }
    for (table, columns) in [("dead_letters", "error"), ("ledger", "error"), ("rules", "error"), ("triggers", "error")]
    {
        let rows: Vec<Value> = world.rows(&format!("select {columns} from oncue.{table}")).await;
        clean(table, &json!(rows).to_string());
    }
    let (manifest, _) = process::manifest(world, "list", "");
    let said = process::run(&manifest, &["dead-letter", "list"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    clean("dead-letter list", &format!("{}{}", said.out, said.err));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_feed_tells_no_value_of_a_row_that_breaks_it() {
    let world = World::start().await;
    world
        .sql(
            "create table cards (id int primary key, number bigint);
             alter table cards replica identity full;
             create publication broken for table cards where (get_bit('\\x00'::bytea, number) = 0)",
        )
        .await;
    let tables = json!({ "publication": "broken", "create": true });
    world.feed("cards", &["cards"], tables).await;
    let node = Process::launch_logging(&world, "one", &feed_bus(&world), "trace").ready().await;
    eventually("the feed is followed", async || {
        world.number("select count(*) from pg_replication_slots where active").await == 1
    })
    .await;
    world.sql(&format!("insert into cards values (1, {CONTENT})")).await;
    eventually("the row breaks the stream", async || {
        let (_, body) = node.get("/readyz").await.unwrap_or_default();
        clean("/readyz", &body);
        body.contains("2202E")
    })
    .await;
    clean("the log", &node.log_text());
    let rows = world.rows("select error from oncue.triggers").await;
    clean("triggers", &json!(rows).to_string());
    node.kill().await;
}

fn feed_bus(world: &World) -> String {
    format!("[bus.app]\nkind = \"postgres\"\nurl = \"{}\"\n", world.postgres.url())
}

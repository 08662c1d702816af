//! Events that no rule matched: how many, of which type, with a sample, and which rules match nothing.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::process::{manifest, run, spawn};
use crate::support::{Node, World, eventually, functions};

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_matched_is_listed_and_followed_with_a_sample() {
    let world = World::start().await;
    world.stream("USERS", &["user.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("users", "USERS", json!({})).await;
    world
        .sql(
            r#"insert into oncue.rules (name, trigger, pattern, run) values
               ('greet', 'users', '{"type":["user.signup"]}', 'steered'), ('idle', null, '{"type":["order.paid"]}', 'steered')"#,
        )
        .await;
    let (manifest, _) = manifest(&world, "shop", "");
    let mut tail = spawn(&manifest, &["event", "tail", "--unmatched", "--since", "1h", "--output", "json"]);
    let mut lines = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let node = Node::start(&world, "one").await;
    world.publish("user.signup", &[], br#"{"do":"o0"}"#).await;
    world.publish_all("user.left", (0..3).map(|n| format!(r#"{{"n":{n}}}"#))).await;
    world.publish("user.odd", &[], b"{\"a\":\"\x1b[31m\xc2\x9b\x7f\"").await;
    eventually("they are counted", async || {
        world.number("select coalesce(sum(count), 0) from oncue.unmatched").await == 4
    })
    .await;

    let (mut more, mut sample) = (0, String::new());
    while more < 4 {
        let line = lines.next_line().await.expect("it can be read").expect("it follows");
        let line: Value = serde_json::from_str(&line).expect("a line is a document");
        more += line["more"].as_i64().expect("a number");
        if line["event_type"] == "user.left" {
            sample = line["sample"].as_str().expect("a text").to_owned();
        }
    }
    let sample: Value = serde_json::from_str(&sample).expect("structured mode");
    assert_eq!((&sample["type"], &sample["data"]["n"]), (&json!("user.left"), &json!(0)), "{sample}");
    tail.kill().await.expect("it is ended");

    let said = run(&manifest, &["event", "list", "--unmatched", "--output", "json"]).await;
    let rows: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(rows.len(), 2, "{rows:?}");
    let said = run(&manifest, &["event", "list", "--unmatched", "--type", "user.left", "--since", "1h"]).await;
    assert!(said.code == 0 && said.out.contains("user.left  3 ") && said.out.contains("{\"n\":0}"), "{said:?}");
    let id = sample["id"].as_str().expect("a text");
    assert!(said.out.contains(id), "what `explain` takes is shown: {said:?}");
    let said = run(&manifest, &["explain", id, "greet"]).await;
    assert!(said.code == 0 && said.out.contains("got \"user.left\""), "{said:?}");
    // A rule that would have matched it, made too late.
    world
        .sql(r#"insert into oncue.rules (name, pattern, run) values ('late', '{"type":["user.left"]}', 'steered')"#)
        .await;
    let said = run(&manifest, &["explain", id, "late"]).await;
    assert!(said.out.contains("the rule was made at") && said.out.contains("after the event had come"), "{said:?}");
    world.sql("delete from oncue.rules where name = 'late'").await;
    let said = run(&manifest, &["event", "list", "--unmatched"]).await;
    assert!(said.code == 0 && !said.out.contains(['\u{1b}', '\u{7f}', '\u{9b}']), "{said:?}");
    let said = run(&manifest, &["event", "list", "--unmatched", "--rule", "greet"]).await;
    assert!(said.code == 2 && said.err.contains("cannot be used with"), "{said:?}");
    let said = run(&manifest, &["rule", "list", "--never-matched", "--output", "json"]).await;
    let idle: Vec<Value> = serde_json::from_str(&said.out).expect("a list");
    assert!(idle.len() == 1 && idle[0]["name"] == "idle", "{idle:?}");
    node.stop().await;
}

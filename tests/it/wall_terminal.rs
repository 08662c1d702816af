//! Text from outside cannot drive a terminal or hide in it: every table, document, line and error shows what it holds.

use oncue::printable::is_hidden;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::process::{Process, Said, manifest, run, spawn};
use crate::support::{World, eventually};

/// Zero-width, bidirectional, tag, a selector, and a separator: no control character, so that events may hold them.
const HOSTILE: &str = "a\u{200b}b\u{202e}c\u{e0041}d\u{fe0f}e\u{2028}f\u{feff}g\u{ad}h\u{61c}i";

fn check(what: &str, text: &str) {
    let found: Vec<char> = text.chars().filter(|c| *c != '\n' && is_hidden(*c)).collect();
    assert!(found.is_empty(), "{what} shows {found:?} as they are: {text:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_from_outside_is_shown_escaped_wherever_it_is_shown() {
    let world = World::start().await;
    world.stream("ODD", &["odd"]).await;
    world.jetstream_trigger("odd", "ODD", json!({})).await;
    let node = Process::launch_with(&world, "one", "").ready().await;
    let (path, _) = manifest(&world, "shop", "");
    let mut tail = spawn(&path, &["event", "tail", "--unmatched", "--since", "1h"]);
    let mut lines = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let event = json!({"specversion": "1.0", "id": HOSTILE, "source": "/odd", "type": HOSTILE, "subject": HOSTILE,
        "data": {"text": format!("\u{1b}[31m{HOSTILE}")}});
    world.publish("odd", &[("content-type", "application/cloudevents+json")], event.to_string().as_bytes()).await;
    // An event without a type is rejected, and kept with its bytes.
    let none = json!({"specversion": "1.0", "id": HOSTILE, "source": HOSTILE, "data": HOSTILE});
    world.publish("odd", &[("content-type", "application/cloudevents+json")], none.to_string().as_bytes()).await;
    eventually("both are there", async || {
        world.number("select (select count(*) from oncue.unmatched) + (select count(*) from oncue.dead_letters)").await
            == 2
    })
    .await;
    check("event tail", &lines.next_line().await.expect("it can be read").expect("it follows"));
    tail.kill().await.expect("it is ended");
    let letter = world.row("select id from oncue.dead_letters").await["id"].as_str().expect("an id").to_owned();
    let commands: [&[&str]; 6] = [
        &["event", "list", "--unmatched"],
        &["dead-letter", "list"],
        &["dead-letter", "show", &letter],
        &["explain", HOSTILE],
        &["event", "show", HOSTILE],
        &["rule", "list", "--never-matched"],
    ];
    for command in commands {
        for format in ["table", "json"] {
            let arguments: Vec<&str> = command.iter().copied().chain(["--output", format]).collect();
            let Said { out, err, .. } = run(&path, &arguments).await;
            check(&format!("{command:?} as {format}"), &out);
            check(&format!("{command:?} on stderr"), &err);
            assert!(!(out.is_empty() && err.is_empty()), "{command:?} says something");
        }
    }
    let shown = run(&path, &["event", "list", "--unmatched"]).await.out;
    assert!(shown.contains("\\u{200b}") && shown.contains("\\u{202e}"), "it is shown: {shown}");
    let shown = run(&path, &["event", "list", "--unmatched", "--output", "json"]).await.out;
    let rows: serde_json::Value = serde_json::from_str(&shown).expect("a document");
    assert_eq!(rows[0]["event_type"], HOSTILE, "a program reads what came");
    check("the log", &std::fs::read_to_string(&node.log).expect("the log is text"));
    node.kill().await;
}

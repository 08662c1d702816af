//! `oncue explain` and `oncue rule test`: which field decides, and what came of the runs.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::node::Node;
use crate::support::process::{Said, manifest, run};
use crate::support::{World, eventually, functions};

const SHOP: &str = r#"
[trigger.signups]
bus = "main"
stream = "SIGNUPS"
subjects = ["user.>"]

[function.welcome]
component = "welcome.wasm"
grants = { publish = ["main/mail.*"] }

[[rule]]
name = "greet"
trigger = "signups"
pattern = '{"type":["user.signup"],"data":{"email":[{"suffix":"example"}],"plan":["pro"]}}'
run = "welcome"
retry = { max_attempts = 1 }

[[rule]]
name = "far"
pattern = '{"type":["order.paid"],"data":{"total":[{"numeric":[">",10]}],"items":{"sku":["x"],"qty":[2]}}}'
run = "welcome"
"#;

async fn expect(manifest: &Path, code: i32, arguments: &[&str]) -> Said {
    let said = run(manifest, arguments).await;
    assert_eq!(said.code, code, "oncue {}: {said:?}", arguments.join(" "));
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_explained_by_its_fields_and_by_what_came_of_it() {
    let world = World::without_tables().await;
    world.stream("SIGNUPS", &["user.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    std::fs::write(world.dir.path().join("welcome.wasm"), functions::welcome()).expect("the component is written");
    let (manifest, _) = manifest(&world, "shop", SHOP);
    expect(&manifest, 0, &["migrate"]).await;
    expect(&manifest, 0, &["apply"]).await;
    let node = Node::start(&world, "one").await;
    let pay = |plan: &str| json!({ "email": "ada@fail.example", "plan": plan }).to_string();
    expect(&manifest, 0, &["publish", "main/user.signup", &pay("free"), "--id", "near"]).await;
    expect(&manifest, 0, &["publish", "main/user.signup", &pay("pro"), "--id", "dead"]).await;
    eventually("one is counted and one is dead", async || {
        world.number("select count(*) from oncue.unmatched").await == 1
            && world.number("select count(*) from oncue.dead_letters").await == 1
    })
    .await;

    let said = expect(&manifest, 0, &["explain", "near", "greet"]).await.out;
    for line in [
        "greet does not match: 2 of 3 fields pass",
        "✓ type: [\"user.signup\"]",
        "✓   email: [{\"suffix\":\"example\"}]",
        "✗   plan: [\"pro\"]",
        "got \"free\"   ← the first that fails",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = expect(&manifest, 0, &["explain", "near", "--output", "json"]).await.out;
    let verdicts: Vec<Value> = serde_json::from_str(&said).expect("a list");
    let order: Vec<&str> = verdicts.iter().filter_map(|v| v["rule"].as_str()).collect();
    assert_eq!(order, ["greet", "far"], "the nearest comes first: {said}");
    assert_eq!(verdicts[0]["lines"][3]["got"], json!(["\"free\""]), "{said}");

    let said = expect(&manifest, 0, &["explain", "dead", "greet"]).await.out;
    assert!(
        said.contains("greet matches: 3 of 3") && said.contains("dead letter (") && said.contains("on one"),
        "{said}"
    );
    let idle = expect(&manifest, 0, &["rule", "list", "--never-matched", "--output", "json"]).await.out;
    let idle: Vec<Value> = serde_json::from_str(&idle).expect("a list");
    assert!(idle.len() == 1 && idle[0]["name"] == "far", "{idle:?}");
    expect(&manifest, 0, &["rule", "disable", "greet"]).await;
    let said = expect(&manifest, 0, &["explain", "dead"]).await.out;
    assert!(said.contains("the rule is disabled: `oncue rule enable greet`"), "{said}");
    let said = expect(&manifest, 1, &["explain", "nobody"]).await.err;
    assert!(said.contains("no event with that id whose content is kept"), "{said}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_tested_on_a_file_without_a_node() {
    let world = World::without_tables().await;
    let (manifest, _) = manifest(&world, "shop", "");
    let file = world.dir.path().join("order.json");
    let order = json!({ "items": [{ "sku": "x", "qty": 1 }, { "sku": "y\u{1b}[2J", "qty": 2 }], "total": 9 });
    std::fs::write(&file, order.to_string()).expect("the event is written");
    let file = file.to_str().expect("a path");
    let test = async |code, pattern: &str| {
        expect(&manifest, code, &["rule", "test", "--pattern", pattern, "--event", file]).await.out
    };
    let said = test(1, r#"{"items":{"sku":["x"],"qty":[2]}}"#).await;
    assert!(said.contains("2 of 2 fields pass") && said.contains("no one element of an array"), "{said}");
    let said = test(1, r#"{"$or":[{"total":[{"numeric":[">",10]}]},{"items":{"sku":["z"]}}]}"#).await;
    assert!(said.contains("$or: one of") && said.contains("got \"x\", \"y") && !said.contains('\u{1b}'), "{said}");
    assert!(test(0, r#"{"total":[9.0]}"#).await.contains("the pattern matches: 1 of 1"));
}

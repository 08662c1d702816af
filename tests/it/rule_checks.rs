//! What the database itself says of a rule's pattern, beside what the nodes say.

use std::path::{Path, PathBuf};

use oncue::pattern::Pattern;

use crate::support::{World, functions, not_run};

/// Patterns with what the database says, or nothing where it lets them pass.
const PATTERNS: [(&str, Option<&str>); 24] = [
    (r#"{"type":["a"]}"#, None),
    (r#"{"a":[null,true,1e400,"x",{"exists":false}]}"#, None),
    (r#"{"a":[{"anything-but":["x","y"]},{"anything-but":{"prefix":"x"}},{"anything-but":null}]}"#, None),
    (r#"{"a":[{"prefix":"x"},{"prefix":{"equals-ignore-case":"x"}},{"suffix":"x"},{"exactly":"x"}]}"#, None),
    (r#"{"a":[{"numeric":[">",1]},{"cidr":"10.0.0.0/8"},{"wildcard":"a*b"},{"equals-ignore-case":"x"}]}"#, None),
    (r#"{"$or":[{"a":[1]},{"b":{"$or":[{"c":[1]},{"d":[2]}]}}]}"#, None),
    (r#"{"a":[1],"a":[2],"":[3],"x/y":{"~":[4]}}"#, None),
    // What only the nodes find.
    (r#"{"a":[{"wildcard":"a**"}]}"#, None),
    (r#"{"a":[{"numeric":[">",5,"<",1]}]}"#, None),
    (r#"{"a":[{"cidr":"ten"}]}"#, None),
    ("{}", Some("{} matches everything")),
    (r#"{"a":1}"#, Some("/a: expected a list or an object, got a number")),
    (r#"{"a":{"b":"x"}}"#, Some("/a/b: expected a list or an object, got a string")),
    (r#"{"a":[]}"#, Some("/a: an empty list")),
    (r#"{"a":{}}"#, Some("/a: an empty object")),
    (r#"{"a":[[1]]}"#, Some("/a/0: a list inside a list")),
    (r#"{"a":[1,{"prefx":"x"}]}"#, Some("/a/1: unknown operator \"prefx\"")),
    (r#"{"a":[{"prefix":"x","suffix":"y"}]}"#, Some("/a/0: an operator is an object with one member, got 2")),
    (r#"{"a":[{}]}"#, Some("/a/0: an operator is an object with one member, got 0")),
    (r#"{"x/y":{"~":[{"exists":"yes"}]}}"#, Some("/x~1y/~0/0/exists: expected a boolean, got a string")),
    (r#"{"$or":[{"a":[1]}]}"#, Some("/$or: $or needs at least two patterns, got 1")),
    (r#"{"$or":[{"a":[1]},{}]}"#, Some("/$or/1: an empty pattern")),
    (r#"{"$or":[{"a":[1]},{"b":3}]}"#, Some("/$or/1/b: expected a list")),
    (r#"{"$or":{"a":[1]}}"#, None),
];

async fn world() -> World {
    let world = World::start().await;
    world.deploy("nothing", &functions::welcome(), &functions::spec()).await;
    world
}

async fn insert(world: &World, pattern: &str) -> Result<(), String> {
    let inserted = sqlx::query("insert into oncue.rules (name, pattern, run) values ('rule', $1::json, 'nothing')")
        .bind(pattern)
        .execute(&world.pool)
        .await;
    let inserted = inserted.map(|_| ()).map_err(|error| error.to_string());
    sqlx::query("delete from oncue.rules").execute(&world.pool).await.expect("it is removed");
    inserted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_of_the_wrong_shape_is_refused_when_its_rule_is_written() {
    let world = world().await;
    for (pattern, said) in PATTERNS {
        let inserted = insert(&world, pattern).await;
        match said {
            None => assert_eq!(inserted, Ok(()), "{pattern}"),
            Some(said) => {
                assert!(Pattern::parse(pattern).is_err(), "the nodes take {pattern}");
                let error = inserted.expect_err(pattern);
                assert!(error.contains("rule \"rule\": pattern: ") && error.contains(said), "{pattern}: {error}");
            }
        }
    }
    let deep = format!("{}[1]{}", r#"{"a":"#.repeat(200), "}".repeat(200));
    assert!(insert(&world, &deep).await.expect_err("too deep").contains("nested deeper than 128"));
    sqlx::query("insert into oncue.rules (name, pattern, run) values ('rule', '{\"a\":[1]}', 'nothing')")
        .execute(&world.pool)
        .await
        .expect("it is right");
    let changed = sqlx::query("update oncue.rules set pattern = '{\"a\":1}'").execute(&world.pool).await;
    assert!(changed.is_err(), "a change is checked as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_nothing_that_a_node_would_take() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/ruler.jsonl");
    let path = std::env::var_os("ONCUE_CONFORMANCE").map_or_else(beside, PathBuf::from);
    let Ok(cases) = std::fs::read_to_string(&path) else {
        not_run("patterns of another engine's suite", "the recorded cases are not there");
        return;
    };
    let world = world().await;
    let mut taken = 0;
    for line in cases.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a case");
        let pattern = case["pattern"].as_str().expect("a text");
        if Pattern::parse(pattern).is_err() {
            continue;
        }
        taken += 1;
        let said: Option<String> = sqlx::query_scalar("select oncue.pattern_error($1::json)")
            .bind(pattern)
            .fetch_one(&world.pool)
            .await
            .expect("it answers");
        assert_eq!(said, None, "{pattern}");
    }
    assert!(taken > 100, "only {taken} patterns");
}

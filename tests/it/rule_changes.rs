//! Nodes read the rules that changed, all of them and no others, and say of each what it may cost.

use std::collections::HashSet;

use oncue::store::control::NotGone;
use sqlx::AssertSqlSafe;

use crate::support::{Node, World, eventually, functions};

/// Names of rules that were read, and whether others are gone.
async fn since(
    world: &World,
    snapshot: &mut String,
    known: &mut Vec<&'static str>,
) -> (Vec<String>, Vec<&'static str>) {
    let knows = |name: &str| known.contains(&name);
    let (plane, there) =
        world.store().control_plane_since(snapshot, &knows, known.len()).await.expect("the rules are read");
    let read = plane.rules.iter().map(|row| row.rule.name.clone()).collect();
    let gone = match there {
        NotGone::All => Vec::new(),
        NotGone::Only(names) => known.iter().copied().filter(|name| !names.contains(*name)).collect(),
    };
    known.retain(|name| !gone.contains(name));
    *snapshot = plane.snapshot;
    (read, gone)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_read_whenever_its_transaction_began_and_nothing_else() {
    let world = World::start().await;
    world.deploy("nothing", &functions::welcome(), &functions::spec()).await;
    let add = |name: &str| {
        format!(r#"insert into oncue.rules (name, pattern, run) values ('{name}', '{{"type":["t"]}}', 'nothing')"#)
    };
    for name in ["a", "b", "c"] {
        world.sql(&add(name)).await;
    }
    let plane = world.store().control_plane().await.expect("the rules are read");
    let names: HashSet<&str> = plane.rules.iter().map(|row| row.rule.name.as_str()).collect();
    assert_eq!(names, HashSet::from(["a", "b", "c"]));
    let (mut snapshot, mut known) = (plane.snapshot, vec!["a", "b", "c"]);
    let nothing = (Vec::<String>::new(), Vec::<&str>::new());
    assert_eq!(since(&world, &mut snapshot, &mut known).await, nothing);
    // Begun before what is read next, committed after it.
    let mut open = world.pool.begin().await.expect("a transaction");
    let update = "update oncue.rules set enabled = false where name = 'a'";
    sqlx::query(AssertSqlSafe(update)).execute(&mut *open).await.expect("the row is there");
    world.sql(&add("d")).await;
    known.push("d");
    assert_eq!(since(&world, &mut snapshot, &mut known).await, (vec!["d".to_owned()], Vec::new()));
    open.commit().await.expect("nothing is in its way");
    assert_eq!(since(&world, &mut snapshot, &mut known).await, (vec!["a".to_owned()], Vec::new()));
    // What the nodes write is no change; a rule that went and one that came are.
    world.sql("update oncue.rules set error = 'x', cost = 3").await;
    assert_eq!(since(&world, &mut snapshot, &mut known).await, nothing);
    world.sql(&format!("delete from oncue.rules where name = 'b'; {}", add("e"))).await;
    known.push("e");
    assert_eq!(since(&world, &mut snapshot, &mut known).await, (vec!["e".to_owned()], vec!["b"]));
    world.sql("update oncue.rules set name = 'f' where name = 'e'").await;
    known.push("f");
    assert_eq!(since(&world, &mut snapshot, &mut known).await, (vec!["f".to_owned()], vec!["e"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_says_what_it_may_cost_and_when_there_is_no_room_for_it() {
    let world = World::start().await;
    world.deploy("nothing", &functions::welcome(), &functions::spec()).await;
    let node = Node::start(&world, "one").await;
    let add = |name: &str, pattern: &str| {
        format!("insert into oncue.rules (name, pattern, run) values ('{name}', '{pattern}', 'nothing')")
    };
    world.sql(&add("small", r#"{"type":["a","b"],"data":{"n":[{"wildcard":"*x*"}]}}"#)).await;
    let cost = "select coalesce(cost, 0) from oncue.rules where name = 'small'";
    eventually("the cost is written", async || world.number(cost).await == 5).await;
    world.sql(r#"update oncue.rules set pattern = '{"type":["a"]}' where name = 'small'"#).await;
    eventually("the new cost is written", async || world.number(cost).await == 1).await;
    // Each of them may take half of what there is room for, with any event.
    let values: Vec<String> = (0..1_800)
        .map(|n| format!(r#"{{"wildcard":"{n}*a*b*c*d*e*f*g*h*i*j*k*l*m*n*o*p*q*r*s*t*u*v*w*x*y*z*"}}"#))
        .collect();
    let large = format!(r#"{{"data":{{"n":[{},{{"exists":true}}]}}}}"#, values.join(","));
    for name in ["large-1", "large-2"] {
        world.sql(&add(name, &large)).await;
        eventually("it has been looked at", async || {
            world
                .number(&format!(
                    "select count(*) from oncue.rules where name = '{name}' and (cost > 0 or error is not null)"
                ))
                .await
                == 1
        })
        .await;
    }
    // The same again is compared once, so there is room for it.
    assert_eq!(world.number("select count(*) from oncue.rules where error is not null").await, 0);
    world.sql(&add("large-3", &large.replacen("0*a", "x*a", 1))).await;
    let left_out = "select error from oncue.rules where error is not null";
    eventually("one is left out", async || world.rows(left_out).await.len() == 1).await;
    let row = world.row("select name, error from oncue.rules where error is not null").await;
    assert_eq!(row["name"], "large-3");
    let error = row["error"].as_str().unwrap_or_default();
    assert!(
        error.starts_with(
            "pattern: there is no room among the other rules: those that ask for the same of data.n take "
        ),
        "{error}"
    );
    world.sql("delete from oncue.rules where name in ('large-1', 'large-2')").await;
    eventually("there is room", async || world.rows(left_out).await.is_empty()).await;
    eventually("it has a cost", async || {
        world.number("select coalesce(cost, 0) from oncue.rules where name = 'large-3'").await > 40_000
    })
    .await;
    node.stop().await;
}

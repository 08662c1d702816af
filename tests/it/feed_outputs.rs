//! What functions and rules publish to a Postgres bus comes back as events of its change feeds.

use serde_json::json;

use crate::support::{Node, World, eventually, functions};

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_forwards_a_change_under_another_type() {
    let world = World::start().await;
    world.sql("create table users (id int primary key)").await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({ "messages": [] })).await;
    world.feed("created", &[], json!({ "messages": ["user.>"] })).await;
    world
        .sql("insert into oncue.rules (name, trigger, match_all, publish) values ('forward', 'users', true, 'app/user.created')")
        .await;
    world.steer("run", "created", "o0").await;
    let node = Node::start(&world, "one").await;
    world.sql("insert into users select generate_series(1, 20); select oncue.publish('other.type')").await;
    eventually("each row ran the function", async || {
        world.ledger("rule = 'run' and settlement = 'done' and event_type = 'user.created'").await == 20
    })
    .await;
    assert_eq!(world.ledger("rule = 'forward' and settlement = 'done'").await, 20);
    assert_eq!(world.ledger("rule = 'run'").await, 20, "no other type is taken, and nothing twice");
    let distinct = world.number("select count(distinct event_id) from oncue.ledger where rule = 'run'").await;
    assert_eq!(distinct, 20);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_emits_to_a_postgres_has_the_type_that_it_was_granted() {
    let world = World::start().await;
    world.stream("WORK", &["work.>"]).await;
    let spec = json!({ "grants": { "publish": ["app/mail.*"] } });
    world.deploy("welcome", &functions::welcome(), &spec).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("work", "WORK", json!({})).await;
    world.feed("mails", &[], json!({})).await;
    world
        .sql("insert into oncue.rules (name, trigger, match_all, run) values ('greet', 'work', true, 'welcome')")
        .await;
    world.steer("mail", "mails", "o0").await;
    let node = Node::start(&world, "one").await;
    let signup = r#"{"email":"ada@example.com","name":"Ada","plan":"free"}"#;
    world.publish_events("work.signup", [("ada".to_owned(), signup.to_owned())]).await;
    eventually("the mail ran the function", async || {
        world.ledger("rule = 'mail' and settlement = 'done' and event_type = 'mail.welcome'").await == 1
    })
    .await;
    let cause = world.number("select count(*) from oncue.ledger where rule = 'greet' and settlement = 'done'").await;
    assert_eq!(cause, 1);
    node.stop().await;
}

//! What the suites of Kafka triggers share: a world that reads the topic `work` of a cluster, and what is asked of it.

use std::time::Duration;

use oncue::bus::BusConfig;
use oncue::node::NodeConfig;
use serde_json::{Value, json};

use super::node::{Node, config};
use super::process::Process;
use super::records::Client;
use super::{PATIENCE, World, eventually, functions};

/// The group of the trigger `work`.
pub const GROUP: &str = "oncue-work";
/// Members that died are missed after six seconds, the shortest that brokers allow by default, and new topics are seen
/// within one.
const OPTIONS: [(&str, &str); 3] =
    [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "1000"), ("topic.metadata.refresh.interval.ms", "1000")];

/// A world with the steered function, a trigger on the topic `work` with `more` in its spec, and the rule `work` with
/// `columns` as further assignments.
pub async fn workshop(more: Value, columns: &str) -> World {
    let world = World::start().await;
    world.stream("MAIL", &["mail.>"]).await;
    let limits = json!({ "timeout_ms": 60_000, "fuel": i64::MAX, "concurrency": 256 });
    let spec = json!({ "limits": limits, "grants": { "publish": ["main/mail.welcome"] } });
    world.deploy("steered", &functions::steered(), &spec).await;
    world.kafka_trigger("work", &["work"], more).await;
    world
        .sql("insert into oncue.rules (name, match_all, run, retry_base_ms, retry_cap_ms) values ('work', true, 'steered', 50, 200)")
        .await;
    if !columns.is_empty() {
        world.sql(&format!("update oncue.rules set {columns}")).await;
    }
    world
}

/// The settings of a node that has the cluster as its bus `k`.
pub fn settings(world: &World, name: &str, bus: BusConfig) -> NodeConfig {
    let mut config = config(world, name);
    let options = OPTIONS.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    config.buses.insert("k".to_owned(), BusConfig { options, ..bus });
    config
}

/// Starts a node on the cluster and waits until it is ready.
pub async fn start(world: &World, name: &str, bus: BusConfig) -> Node {
    let node = Node::launch(settings(world, name, bus));
    node.ready().await;
    node
}

/// The bus `k` as a manifest says it.
pub fn section(client: &Client) -> String {
    let options: Vec<String> = OPTIONS.iter().map(|(key, value)| format!("\"{key}\" = \"{value}\"")).collect();
    format!("[bus.k]\nkind = \"kafka\"\nurl = \"{}\"\noptions = {{ {} }}\n", client.servers, options.join(", "))
}

/// Launches the program as a node on the cluster.
pub fn launch(world: &World, name: &str, client: &Client) -> Process {
    Process::launch_with(world, name, &section(client))
}

/// Waits until so many deliveries are done.
pub async fn done(world: &World, count: i64) {
    eventually(&format!("{count} are done"), async || world.ledger("settlement = 'done'").await == count).await;
}

/// Waits until the group has committed all that the topic `work` has.
pub async fn drained(client: &Client, partitions: i32) {
    drained_within(PATIENCE, client, partitions).await;
}

/// The same for longer.
pub async fn drained_within(patience: Duration, client: &Client, partitions: i32) {
    let deadline = tokio::time::Instant::now() + patience;
    while !client.drained(GROUP, "work", partitions) {
        let (committed, ends) = (client.committed(GROUP, "work", partitions), client.watermarks("work", partitions));
        assert!(tokio::time::Instant::now() < deadline, "not all is committed: {committed:?} of {ends:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// State and error of the trigger `work`.
pub async fn state(world: &World) -> (String, String) {
    let rows = world.try_rows("select state, error from oncue.triggers where name = 'work'").await.unwrap_or_default();
    let text = |key: &str| rows.first().and_then(|r| r[key].as_str()).unwrap_or_default().to_owned();
    (text("state"), text("error"))
}

/// Waits until the trigger says in its row and in health that it cannot read, with all of `words`.
pub async fn refused(world: &World, node: &Node, words: &[&str]) {
    let mut seen = (String::new(), String::new());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !(seen.0 == "active" && words.iter().all(|word| seen.1.contains(word))) {
        assert!(tokio::time::Instant::now() < deadline, "the row never said {words:?}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
        seen = state(world).await;
    }
    eventually("health says why", async || {
        node.component("trigger/work")
            .await
            .is_some_and(|(state, reason)| state == "error" && words.iter().all(|word| reason.contains(word)))
    })
    .await;
    assert!(!node.is_ready().await);
}

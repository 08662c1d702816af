//! A node inside the test's process.

use std::net::SocketAddr;

use oncue::bus::BusConfig;
use oncue::drain::Drain;
use oncue::node::{self, NodeConfig, Seen};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{World, eventually, world};

/// What an observer may lag behind: more than any test makes.
const SEEN: usize = 100_000;

/// A running node.
pub struct Node {
    pub seen: mpsc::Receiver<Seen>,
    pub drain: Drain,
    pub health: SocketAddr,
    running: JoinSet<anyhow::Result<()>>,
}

/// The settings of a node `name` on the servers of `world`: the NATS server is the bus `main`, its Postgres `app`.
pub fn config(world: &World, name: &str) -> NodeConfig {
    let mut config = NodeConfig::new(name, world.postgres.url());
    config.runtime.compiler = oncue::runtime::Compiler::Program(env!("CARGO_BIN_EXE_oncue").into());
    config.buses.insert("main".to_owned(), BusConfig::nats(world.nats_server.url()));
    config.buses.insert("app".to_owned(), BusConfig::postgres(world.postgres.url()));
    config.runtime.cache_dir = Some(world::kept("components"));
    config.runtime.slots = 64;
    config.health = Some(free_address());
    config
}

/// An address that nobody listens on.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address")
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub async fn start(world: &World, name: &str) -> Self {
        let node = Self::launch(config(world, name));
        node.ready().await;
        node
    }

    /// Starts a node that cannot be ready, and waits until it answers.
    pub async fn start_unready(world: &World, name: &str) -> Self {
        let node = Self::launch(config(world, name));
        eventually("the rules are loaded", async || {
            node.component("rules").await.is_some_and(|(state, _)| state == "up")
        })
        .await;
        node
    }

    /// Starts a node.
    pub fn launch(config: NodeConfig) -> Self {
        let (observer, seen) = mpsc::channel(SEEN);
        let drain = Drain::new();
        let health = config.health.expect("a health address");
        let mut running = JoinSet::new();
        running.spawn(node::run(config, drain.clone(), Some(observer)));
        Self { seen, drain, health, running }
    }

    /// Waits until the node says that it is ready.
    pub async fn ready(&self) {
        eventually("the node is ready", async || self.is_ready().await).await;
    }

    /// Whether the node says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    }

    /// Drains the node.
    ///
    /// # Panics
    /// When it did not end well.
    pub async fn stop(mut self) {
        self.drain.stop_reading();
        let ended = self.running.join_next().await.expect("it runs");
        ended.expect("it does not panic").expect("it drains in time");
    }

    /// Ends the node at once, whatever is in flight.
    pub async fn quit(mut self) {
        self.drain.quit();
        drop(self.running.join_next().await);
    }

    /// Status and body of a page of the health port; none when nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.health, path).await
    }

    /// What `/readyz` says of a component: its state and reason.
    pub async fn component(&self, name: &str) -> Option<(String, String)> {
        let (_, body) = self.get("/readyz").await?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        let component = answer["components"].as_array()?.iter().find(|c| c["component"] == name)?;
        let text = |key: &str| component[key].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("reason")))
    }

    /// The value of a metric; `labelled` is the line's name with its labels.
    pub async fn metric(&self, labelled: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics").await?;
        let line = body.lines().find_map(|line| line.strip_prefix(labelled)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Every event seen since the last call: its id and the rules that matched.
    pub fn events(&mut self) -> Vec<(String, Vec<String>)> {
        let mut events = Vec::new();
        while let Ok(seen) = self.seen.try_recv() {
            if let Seen::Event { event, matched, .. } = seen {
                events.push((event.id.clone(), matched));
            }
        }
        events
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that fails does not wait for threads that wait for its node.
        self.drain.quit();
    }
}

/// Status and body of a page; none when nobody answers.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

//! The brokers: those of `KAFKA_BROKERS`, or a private tansu that ends with the benchmark. And clients of them.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use tokio::process::{Child, Command};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Unacknowledged records while a topic is filled.
const WINDOW: usize = 10_000;

pub struct Broker {
    servers: String,
    _child: Option<Child>,
}

impl Broker {
    /// The brokers of the environment, or a private one with its log in `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        if let Ok(servers) = std::env::var("KAFKA_BROKERS") {
            return Ok(Self { servers, _child: None });
        }
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/tansu");
        ensure!(program.exists(), "no .tools/bin/tansu: run scripts/kafka-broker, or set KAFKA_BROKERS");
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (servers, listener) = (format!("127.0.0.1:{port}"), format!("tcp://127.0.0.1:{port}"));
        let log = std::fs::File::create(dir.join("broker.log"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(["broker", "--silent", "--cluster-id", "bench"]);
        command.args(["--listener-url", &listener, "--advertised-listener-url", &listener]);
        command.args(["--storage-engine", "memory://tansu/"]).env("RUST_LOG", "warn").current_dir(dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().context("tansu")?;
        let deadline = Instant::now() + ANSWER;
        while tokio::net::TcpStream::connect(&servers).await.is_err() {
            ensure!(Instant::now() < deadline, "the broker does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { servers, _child: Some(child) })
    }

    pub fn servers(&self) -> &str {
        &self.servers
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    /// A producer as durable as a node's.
    pub fn producer(&self) -> Result<FutureProducer> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "1");
        Ok(config.create()?)
    }

    pub async fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        let made =
            admin.create_topics([&NewTopic::new(name, partitions, TopicReplication::Fixed(1))], &options).await?;
        made.into_iter().collect::<Result<Vec<_>, _>>().map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        Ok(())
    }

    /// Produces records, each a key and a value, and waits until all are stored. In batches of one: from the middle of a
    /// larger one tansu does not read on.
    pub async fn fill(&self, topic: &str, records: impl Iterator<Item = (String, String)>) -> Result<()> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "0").set("batch.num.messages", "1");
        config.set("partitioner", "murmur2_random");
        let producer: FutureProducer = config.create()?;
        let mut waiting: VecDeque<DeliveryFuture> = VecDeque::new();
        for (key, value) in records {
            let record = FutureRecord::to(topic).key(&key).payload(&value);
            waiting.push_back(producer.send_result(record).map_err(|(error, _)| error)?);
            if waiting.len() == WINDOW {
                settle(&mut waiting).await?;
            }
        }
        settle(&mut waiting).await
    }
}

/// Waits until all of these are stored.
pub async fn settle(waiting: &mut VecDeque<DeliveryFuture>) -> Result<()> {
    while let Some(delivery) = waiting.pop_front() {
        delivery.await?.map_err(|(error, _)| error)?;
    }
    Ok(())
}

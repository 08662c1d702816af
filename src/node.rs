//! The node: everything of `oncue serve`, assembled, run and drained.
//!
//! Invariant: what can fail by configuration fails before the first message is pulled; what can come back (Postgres, a
//! bus) is waited for. Ending is in one order: nothing more is read, what runs is settled and acknowledged, leases are
//! released.

mod buses;
mod guests;
mod outbox;
mod retries;
mod rules;
mod supervise;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, watch};

use crate::bus::kafka::KafkaBus;
use crate::bus::nats;
use crate::bus::postgres::PostgresBus;
use crate::bus::{BusConfig, BusKind, Connection};
use crate::dispatch::budget::Budget;
use crate::dispatch::{Dispatcher, Parts};
use crate::drain::Drain;
use crate::event::codec;
use crate::health::{self, Health, HealthServer};
use crate::outputs::{Outputs, Target};
use crate::runtime::{Runtime, RuntimeConfig};
use crate::settle::{self, Settler};
use crate::store::cluster::Beat;
use crate::store::guest::Guests;
use crate::store::{self, Store};
use crate::telemetry;
use crate::triggers::Source;

use self::outbox::Relay;

pub use crate::dispatch::{Observer, Seen};

/// What a second signal leaves for tasks that watch for it; what runs on is cut off with the process.
const QUIT_GRACE: Duration = Duration::from_millis(500);

/// Everything that a node needs to know.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Unique among the nodes that run; kept over restarts.
    pub name: String,
    /// The database.
    pub store: store::Config,
    /// Another address of the database, for the statements of functions.
    pub guest_database: Option<String>,
    /// The buses by name.
    pub buses: BTreeMap<String, BusConfig>,
    /// The sandbox.
    pub runtime: RuntimeConfig,
    /// Runs at once.
    pub concurrency: u32,
    /// Events in flight at once.
    pub budget_events: u32,
    /// Their bytes.
    pub budget_bytes: u64,
    /// When groups of settlements are closed.
    pub settle: settle::Config,
    /// Where `/livez`, `/readyz` and `/metrics` listen.
    pub health: Option<SocketAddr>,
    /// How long running attempts may take to end after SIGTERM.
    pub drain: Duration,
    /// What a message may cost.
    pub limits: codec::Limits,
    /// How long the ledger is kept.
    pub retention: Duration,
    /// Whether change feeds make what they lack at their source: `oncue dev`.
    pub dev: bool,
}

impl NodeConfig {
    /// The usual settings for a node on `database`.
    #[must_use]
    pub fn new(name: impl Into<String>, database: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            store: store::Config::new(database),
            guest_database: None,
            buses: BTreeMap::new(),
            runtime: RuntimeConfig::default(),
            concurrency: 256,
            budget_events: 10_000,
            budget_bytes: 256 << 20,
            settle: settle::Config::default(),
            health: None,
            drain: Duration::from_secs(20),
            limits: codec::Limits::default(),
            retention: Duration::from_secs(30 * 24 * 3600),
            dev: false,
        }
    }

    /// Connections for the statements of functions, to the database of `store`.
    #[must_use]
    pub fn guests(&self, store: &Store) -> Guests {
        Guests::new(store.clone(), guests::address(self.guest_database.as_deref().unwrap_or(&self.store.url)))
    }
}

/// The parts that the tasks of a node share.
#[derive(Clone, Debug)]
struct Shared {
    name: String,
    store: Store,
    dispatcher: Dispatcher,
    budget: Budget,
    health: Health,
    drain: Drain,
    limits: codec::Limits,
    retention: Duration,
    dev: bool,
    /// How many backfills of any feed are open, as the last pulse said.
    backfills: watch::Sender<i64>,
    sources: BTreeMap<String, Source>,
    /// Told when rules were loaded, so that the node's sign of life has their version at once.
    reloaded: Arc<Notify>,
    /// When a row of the outbox is due.
    outbox_due: watch::Sender<Option<tokio::time::Instant>>,
}

/// Runs a node until SIGTERM, SIGINT or `drain.stop_reading()`, then drains it.
///
/// # Errors
/// The health address cannot be bound, the sandbox cannot start, a credentials file cannot be read, or the node could
/// not be drained in time.
pub async fn run(config: NodeConfig, drain: Drain, observer: Option<Observer>) -> anyhow::Result<()> {
    drain.spawn_service("signals", drain.signals().context("cannot catch signals")?);
    let health = Health::new();
    health.rules_loading();
    health::warn_if_few(config.store.connections, config.buses.len());
    serve_health(&config, &health, &drain).await?;
    let store = Store::connect_lazy(&config.store)?;
    if !reach_store(&store, &health, &drain).await? {
        return finish(&config, None, &drain).await;
    }
    let shared = assemble(&config, store, health, drain.clone(), observer).await?;
    start(&shared);
    tracing::info!(node = shared.name, "node started");
    let token = drain.token();
    tokio::select! {
        () = token.stop_reading.cancelled() => {}
        task = drain.failed() => tracing::error!(task = %task, "a task failed; draining the node"),
    }
    drain.stop_reading();
    shared.health.draining();
    finish(&config, Some(&shared), &drain).await
}

async fn serve_health(config: &NodeConfig, health: &Health, drain: &Drain) -> anyhow::Result<()> {
    let metrics = telemetry::install_metrics();
    let Some(address) = config.health else { return Ok(()) };
    let server = HealthServer::bind(address).await?;
    tracing::info!(address = %server.addr(), "health and metrics");
    let (health, finished) = (health.clone(), drain.token().finished);
    drain.spawn_service("health", async move { server.run(health, metrics, finished).await });
    Ok(())
}

/// Waits for the database and brings its tables up to date. False when the node was stopped meanwhile.
async fn reach_store(store: &Store, health: &Health, drain: &Drain) -> anyhow::Result<bool> {
    let stop = drain.token().stop_reading;
    let mut tries = 0_u32;
    loop {
        let reached = match store.ping().await {
            Ok(()) => store.migrate().await,
            Err(error) => Err(error),
        };
        let error = match reached {
            Ok(()) => {
                health.store_up();
                telemetry::store_up(true);
                return Ok(true);
            }
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.into()),
        };
        health.store_down(&error.to_string());
        telemetry::store_up(false);
        if tries.is_multiple_of(10) {
            tracing::warn!(%error, tries, "postgres is not reachable; trying again until it is");
        }
        tries += 1;
        let pause = Duration::from_millis(100).saturating_mul(1 << tries.min(6)).min(Duration::from_secs(5));
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn assemble(
    config: &NodeConfig,
    store: Store,
    health: Health,
    drain: Drain,
    observer: Option<Observer>,
) -> anyhow::Result<Shared> {
    store.beat(&Beat { node: &config.name, state: "starting", ruleset_version: 0 }).await?;
    let guests = config.guests(&store);
    let runtime = Runtime::with_reader(config.runtime.clone(), Some(Arc::new(guests.clone())))?;
    let (sources, targets) = connect(config, &health, &drain).await?;
    let (settler, task) = Settler::new(store.clone(), guests, config.name.clone(), config.settle.clone());
    let token = drain.token();
    drain.spawn_service("settler", task.run(token.finished, token.quit));
    let (outbox, committed) = mpsc::channel(outbox::QUEUE);
    let outputs = Outputs::new(targets);
    let dispatcher = Dispatcher::new(Parts {
        concurrency: config.concurrency,
        store: store.clone(),
        runtime,
        settler,
        outputs: outputs.clone(),
        outbox,
        drain: drain.clone(),
        observer,
    });
    let (outbox_due, due) = watch::channel(None);
    let shared = Shared {
        name: config.name.clone(),
        store,
        dispatcher,
        budget: Budget::new(config.budget_events, config.budget_bytes),
        health,
        drain,
        limits: config.limits,
        retention: config.retention,
        dev: config.dev,
        backfills: watch::channel(0).0,
        sources,
        reloaded: Arc::default(),
        outbox_due,
    };
    let relay = Relay { shared: shared.clone(), outputs, committed, due };
    shared.drain.spawn_service("outbox", relay.run());
    Ok(shared)
}

/// The buses, as what is read from them and what is published to.
async fn connect(
    config: &NodeConfig,
    health: &Health,
    drain: &Drain,
) -> anyhow::Result<(BTreeMap<String, Source>, HashMap<String, Target>)> {
    let mut sources = BTreeMap::new();
    let mut targets = HashMap::new();
    for (name, bus_config) in &config.buses {
        let bus = match bus_config.kind {
            BusKind::Nats => {
                let bus = nats::connect_forever(name, bus_config).await?;
                let target = Target::Nats { bus: bus.clone(), publishing: bus_config.publish };
                targets.insert(name.clone(), target);
                buses::watch_nats(name, &bus, health, drain);
                Connection::Nats(bus)
            }
            BusKind::Kafka => {
                let bus = KafkaBus::new(name, bus_config)?;
                targets.insert(name.clone(), Target::Kafka(bus.clone()));
                buses::watch_kafka(&bus, health, drain);
                Connection::Kafka(bus)
            }
            BusKind::Postgres => {
                let bus = PostgresBus::new(name, bus_config)?;
                targets.insert(name.clone(), Target::Postgres(bus.clone()));
                buses::watch_postgres(&bus, health, drain);
                Connection::Postgres(bus)
            }
        };
        sources.insert(name.clone(), Source { name: name.clone(), config: bus_config.clone(), bus });
    }
    Ok((sources, targets))
}

fn start(shared: &Shared) {
    let (planes, planes_queue) = watch::channel(None);
    let (notices, notices_queue) = mpsc::channel(256);
    let drain = &shared.drain;
    drain.spawn_service("rules", rules::follow(shared.clone(), planes));
    drain.spawn("triggers", supervise::supervise(shared.clone(), planes_queue, notices));
    drain.spawn_service("trigger notices", supervise::remember(shared.clone(), notices_queue));
    drain.spawn("retries", retries::run(shared.clone()));
    drain.spawn_service("upkeep", upkeep::run(shared.clone()));
    drain.spawn_service("store watch", upkeep::watch_store(shared.clone()));
}

async fn finish(config: &NodeConfig, shared: Option<&Shared>, drain: &Drain) -> anyhow::Result<()> {
    drain.stop_reading();
    let quit = async {
        drain.token().quit.cancelled().await;
        tokio::time::sleep(QUIT_GRACE).await;
    };
    let drained = tokio::select! {
        drained = drain.finish(config.drain) => drained,
        () = quit => drain.finish(Duration::ZERO).await,
    };
    if let Err(unfinished) = &drained {
        tracing::error!(error = %unfinished, "not drained in time; what was not settled comes again");
        drain.quit();
        // What hangs on after that is cut off with the process.
        let _ = drain.finish(QUIT_GRACE).await;
    }
    if let Some(shared) = shared {
        let goodbye = async {
            shared.store.release_leases(&shared.name).await?;
            let version = shared.dispatcher.rules().version;
            shared.store.beat(&Beat { node: &shared.name, state: "stopped", ruleset_version: version }).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), goodbye).await {
            tracing::debug!(%error, "could not say goodbye");
        }
    }
    tracing::info!(node = config.name, drained = drained.is_ok(), "node stopped");
    drained.map_err(Into::into)
}

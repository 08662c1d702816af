//! `[node]`: where the database is and how much one node takes on.
//!
//! Invariant: every value is inside its bounds, and what is not written has the default that `docs/manifest.md` names.
//! No error shows a value.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bus::Secret;
use crate::event::codec;
use crate::pattern::MAX_DEPTH;
use crate::store;
use crate::telemetry::LogFormat;

use super::environment::Environment;
use super::error::ConfigError;
use super::reader::{Field, Node, Section};

const KEYS: &[&str] = &[
    "name",
    "database",
    "guest_database",
    "connections",
    "health",
    "concurrency",
    "budget",
    "settle",
    "drain",
    "limits",
    "retention",
    "cache_dir",
    "log",
];
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// The life cycle of the node; libraries speak when something is wrong.
const LOG_FILTER: &str =
    "info,sqlx=warn,async_nats=warn,librdkafka=warn,rdkafka=warn,tokio_postgres=warn,wasmtime=warn,cranelift=warn";

/// What `[node]` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Unique among the nodes, and the same after a restart.
    pub name: String,
    /// Address of the database; none if nothing names one.
    pub database: Option<Secret>,
    /// Address of the same database for statements of functions, where that is another one; its user and password are not
    /// used.
    pub guest_database: Option<Secret>,
    /// Connections to the database.
    pub connections: u32,
    /// Where health and metrics are served; none for nowhere.
    pub health: Option<SocketAddr>,
    /// Runs at once.
    pub concurrency: u32,
    /// Events taken from buses and not settled.
    pub budget_events: u32,
    /// Their bytes.
    pub budget_bytes: u64,
    /// Outcomes in one settling transaction.
    pub settle_count: usize,
    /// Their bytes.
    pub settle_bytes: usize,
    /// Longest wait for more of them.
    pub settle_wait: Duration,
    /// Longest wait for running functions at shutdown.
    pub drain: Duration,
    /// What a message may cost before it is rejected.
    pub limits: codec::Limits,
    /// How long the ledger is kept.
    pub retention: Duration,
    /// Where compiled components are kept.
    pub cache_dir: Option<PathBuf>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs: `RUST_LOG`'s directives.
    pub log_filter: String,
}

impl NodeSettings {
    /// What holds where the manifest says nothing.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let database = environment.get("ONCUE_DATABASE_URL").or_else(|| environment.get("DATABASE_URL"));
        let settings = Self {
            name: String::new(),
            database: database.map(|url| Secret(url.to_owned())),
            guest_database: None,
            connections: 12,
            health: Some(SocketAddr::from(([127, 0, 0, 1], 9_321))),
            concurrency: 256,
            budget_events: 10_000,
            budget_bytes: 256 << 20,
            settle_count: 1_000,
            settle_bytes: 4 << 20,
            settle_wait: Duration::from_millis(2),
            drain: Duration::from_secs(20),
            limits: codec::Limits::default(),
            retention: 30 * DAY,
            cache_dir: None,
            log_format: LogFormat::Text,
            log_filter: environment.get("RUST_LOG").unwrap_or(LOG_FILTER).to_owned(),
        };
        let name = settings.default_name(environment);
        Self { name, ..settings }
    }

    /// Reads `[node]`; relative paths are below `base`.
    pub(super) fn read(node: &Node, environment: &Environment, base: &Path) -> Result<Self, ConfigError> {
        let section = Section::open(node, "node", KEYS)?;
        let mut settings = Self::new(environment);
        if let Some(field) = section.get("database") {
            settings.database = Some(database(&field)?);
        }
        if let Some(field) = section.get("guest_database") {
            settings.guest_database = Some(database(&field)?);
        }
        if let Some(field) = section.get("health") {
            settings.health = health(&field)?;
        }
        if let Some(field) = section.get("connections") {
            settings.connections = field.integer(2..=1_000)?;
        }
        if let Some(field) = section.get("concurrency") {
            settings.concurrency = field.integer(1..=100_000)?;
        }
        if let Some(field) = section.get("drain") {
            settings.drain = field.duration(Duration::ZERO..=SECOND * 3_600)?;
        }
        if let Some(field) = section.get("retention") {
            settings.retention = field.duration(DAY..=DAY * 3_660)?;
        }
        if let Some(field) = section.get("cache_dir") {
            settings.cache_dir = Some(base.join(field.word()?));
        }
        if let Some(field) = section.get("log") {
            let log = Section::open(field.node, &field.path, &["format", "filter"])?;
            settings.log_format = log.get("format").map_or(Ok(LogFormat::Text), |f| log_format(&f))?;
            if let Some(filter) = log.get("filter") {
                settings.log_filter = filter.word()?.to_owned();
            }
        }
        settings.read_bounds(&section)?;
        settings.name = match section.get("name") {
            Some(field) => field.word()?.to_owned(),
            None => settings.default_name(environment),
        };
        Ok(settings)
    }

    /// The host and the port of health: the same after a restart, and different for two nodes of one host, because
    /// only one of them gets the port.
    fn default_name(&self, environment: &Environment) -> String {
        let from_file = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = environment.get("HOSTNAME").map(str::to_owned).or_else(from_file).unwrap_or_default();
        let host: String =
            host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
        let host = if host.is_empty() { "node" } else { &host };
        match self.health {
            Some(address) if address.port() > 0 => format!("{host}-{}", address.port()),
            _ => format!("{host}-{}", std::process::id()),
        }
    }

    fn read_bounds(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Some(field) = section.get("budget") {
            let budget = Section::open(field.node, &field.path, &["events", "bytes"])?;
            self.budget_events = budget.get("events").map_or(Ok(self.budget_events), |f| f.integer(1..=10_000_000))?;
            self.budget_bytes = budget.get("bytes").map_or(Ok(self.budget_bytes), |f| f.size(1 << 20..=1 << 40))?;
        }
        if let Some(field) = section.get("settle") {
            let settle = Section::open(field.node, &field.path, &["count", "bytes", "wait"])?;
            self.settle_count = settle.get("count").map_or(Ok(self.settle_count), |f| f.integer(1..=100_000))?;
            self.settle_bytes = size(&settle, "bytes", self.settle_bytes, 1 << 30)?;
            self.settle_wait =
                settle.get("wait").map_or(Ok(self.settle_wait), |f| f.duration(Duration::ZERO..=SECOND))?;
        }
        if let Some(field) = section.get("limits") {
            let limits = Section::open(field.node, &field.path, &["message", "depth", "headers", "header_bytes"])?;
            let number = |key, default| limits.get(key).map_or(Ok(default), |f| f.integer(1..=10_000));
            self.limits = codec::Limits {
                max_bytes: size(&limits, "message", self.limits.max_bytes, 64 << 20)?,
                max_depth: number("depth", self.limits.max_depth)?.min(MAX_DEPTH),
                max_headers: number("headers", self.limits.max_headers)?,
                max_header_bytes: size(&limits, "header_bytes", self.limits.max_header_bytes, 16 << 20)?,
            };
        }
        Ok(())
    }
}

fn size(section: &Section<'_>, key: &str, default: usize, most: u64) -> Result<usize, ConfigError> {
    let Some(field) = section.get(key) else { return Ok(default) };
    let bytes = field.size(1_024..=most)?;
    usize::try_from(bytes).map_err(|_| field.error("this is too large for this machine", ""))
}

fn database(field: &Field<'_>) -> Result<Secret, ConfigError> {
    let url = field.word()?;
    store::check_address(url).map_err(|reason| field.error(reason, store::ADDRESS_FORM))?;
    Ok(Secret(url.to_owned()))
}

fn health(field: &Field<'_>) -> Result<Option<SocketAddr>, ConfigError> {
    match field.text()? {
        "off" => Ok(None),
        text => {
            let fix = "it looks like \"127.0.0.1:9321\"; \"off\" for none";
            text.parse().map(Some).map_err(|_| field.error("this is no address with a port", fix))
        }
    }
}

fn log_format(field: &Field<'_>) -> Result<LogFormat, ConfigError> {
    match field.text()? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(field.error("this is no format of logs", "it is \"text\" or \"json\"")),
    }
}

//! What every command needs: the options of all commands, the configuration, and a pool to the database.
//!
//! Invariant: the configuration is read when a command first asks for it, so that a command that needs none runs beside
//! a broken manifest; nothing connects before its first statement.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::config::{Config, Environment, MANIFEST};
use crate::node::NodeConfig;
use crate::runtime::RuntimeConfig;
use crate::settle;
use crate::store::{self, Store};

use super::Global;
use super::output::Output;

/// Connections of a command; two, so that a listing and a listener go side by side.
const CONNECTIONS: u32 = 2;

/// Instances at once of a command; it runs one function.
const COMMAND_SLOTS: u32 = 4;

/// What every command needs.
#[derive(Debug)]
pub struct Context {
    /// Where data goes.
    pub output: Output,
    /// The environment that the program was started with.
    pub environment: Environment,
    manifest: Option<PathBuf>,
    config: OnceCell<Config>,
}

impl Context {
    /// The context of one command.
    #[must_use]
    pub fn new(global: &Global, environment: Environment) -> Self {
        Self {
            output: Output::new(global.output),
            environment,
            manifest: global.config.clone(),
            config: OnceCell::new(),
        }
    }

    /// The same command in another environment; the configuration is read anew.
    #[must_use]
    pub fn with(&self, environment: Environment) -> Self {
        Self { output: self.output, environment, manifest: self.manifest.clone(), config: OnceCell::new() }
    }

    /// The path of the manifest, whether it is there or not.
    #[must_use]
    pub fn manifest(&self) -> &Path {
        self.manifest.as_deref().unwrap_or(Path::new(MANIFEST))
    }

    /// The configuration: the manifest that was named, else `oncue.toml` if it is there, else the environment alone.
    ///
    /// # Errors
    /// Every mistake of the manifest.
    pub fn config(&self) -> anyhow::Result<&Config> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = Config::load(self.manifest.as_deref(), &self.environment)?;
        Ok(self.config.get_or_init(|| config))
    }

    /// The address of the database.
    ///
    /// # Errors
    /// A broken manifest, or no address anywhere.
    pub fn database(&self) -> anyhow::Result<&str> {
        self.config()?.node.database.as_ref().map(|url| url.0.as_str()).context(
            "no database is named: set DATABASE_URL, or `database` in [node] of oncue.toml, or run `oncue dev`, which brings its own",
        )
    }

    /// What a node needs to know, from the configuration.
    ///
    /// # Errors
    /// A broken manifest, or no address of a database.
    pub fn node_config(&self) -> anyhow::Result<NodeConfig> {
        Ok(node_config(self.config()?, self.database()?))
    }

    /// How components are loaded and run by a command: compiled ones are kept where the node keeps them.
    ///
    /// # Errors
    /// A broken manifest.
    pub fn runtime_config(&self) -> anyhow::Result<RuntimeConfig> {
        Ok(RuntimeConfig {
            cache_dir: self.config()?.node.cache_dir.clone(),
            slots: COMMAND_SLOTS,
            ..RuntimeConfig::default()
        })
    }

    /// A small pool to the database; its first statement connects.
    ///
    /// # Errors
    /// A broken manifest, no address, or one that cannot be parsed.
    pub fn lazy_store(&self) -> anyhow::Result<Store> {
        let config = store::Config { connections: CONNECTIONS, ..store::Config::new(self.database()?) };
        Ok(Store::connect_lazy(&config)?)
    }

    /// The database, after a first connection.
    ///
    /// # Errors
    /// No address is known, it cannot be parsed, or the server is not there.
    pub async fn store(&self) -> anyhow::Result<Store> {
        let store = self.lazy_store()?;
        store.ping().await?;
        Ok(store)
    }
}

/// What a node needs to know: `config` with the database at `url`.
#[must_use]
pub fn node_config(config: &Config, url: &str) -> NodeConfig {
    let node = &config.node;
    NodeConfig {
        name: node.name.clone(),
        store: store::Config { connections: node.connections, ..store::Config::new(url) },
        guest_database: node.guest_database.as_ref().map(|url| url.0.clone()),
        buses: config.buses.clone(),
        runtime: RuntimeConfig {
            cache_dir: node.cache_dir.clone(),
            slots: node.concurrency,
            ..RuntimeConfig::default()
        },
        concurrency: node.concurrency,
        budget_events: node.budget_events,
        budget_bytes: node.budget_bytes,
        settle: settle::Config {
            group_count: node.settle_count,
            group_bytes: node.settle_bytes,
            group_wait: node.settle_wait,
        },
        health: node.health,
        drain: node.drain,
        limits: node.limits,
        retention: node.retention,
        dev: false,
    }
}

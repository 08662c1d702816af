//! A Kafka cluster: one configuration for every client of it, a shared producer, and a probe that asks for facts.
//!
//! Invariant: making a `KafkaBus` connects to nothing, and no call here waits for ever or blocks the executor: what
//! librdkafka does by blocking runs on a thread for that, with a limit. What a topic stores was acknowledged by all of its
//! in-sync replicas. Consumers are the trigger's own: here is only their configuration. Secrets are shown by nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::BusConfig;

mod aside;
mod callbacks;
mod error;
mod hint;
mod history;
mod inspect;
mod log;
mod options;
mod probe;
mod producer;
mod record;
mod settings;
#[cfg(test)]
mod tests;
mod token;

pub use self::callbacks::Callbacks;
pub use self::error::{ClusterError, Mistake, words};
pub use self::history::{Cut, Reading, RecordAt};
pub use self::inspect::{BrokerFacts, GroupFacts, Progress, TopicSettings};
pub use self::options::{Mechanism, Options};
pub use self::probe::{PartitionFacts, TopicFacts};
pub use self::producer::{Acknowledgement, SendFailure, Stored, is_topic};
pub use self::record::headers;
pub use self::settings::check;

use self::probe::Probe;
use self::producer::Producer;
use self::settings::{Role, delivery_timeout, settings};

/// How long a question to the cluster may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster. Cheap to clone.
#[derive(Clone)]
pub struct KafkaBus {
    inner: Arc<Inner>,
}

struct Inner {
    name: Arc<str>,
    config: BusConfig,
    /// `delivery.timeout.ms`.
    delivery_timeout: Duration,
    /// Made when it is first used.
    probe: Mutex<Option<Arc<Probe>>>,
    /// Likewise, and made anew when it failed for good.
    producer: ArcSwapOption<Producer>,
    /// Held by whoever makes the producer.
    making: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaBus").field("name", &self.inner.name).field("brokers", &self.brokers()).finish()
    }
}

impl KafkaBus {
    /// Prepares the bus `name`; the first call connects.
    ///
    /// # Errors
    /// `ClusterError::Config` when the configuration has a mistake.
    pub fn new(name: &str, config: &BusConfig) -> Result<Self, ClusterError> {
        let bus = name.to_owned();
        check(config).map_err(|mistake| ClusterError::Config { bus, mistake })?;
        let inner = Inner {
            name: name.into(),
            config: config.clone(),
            delivery_timeout: delivery_timeout(config),
            probe: Mutex::default(),
            producer: ArcSwapOption::empty(),
            making: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The brokers that clients begin with, `host:port`, separated by commas.
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.inner.config.url
    }

    /// What the bus's `options` say of `key`.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&str> {
        self.inner.config.options.get(key)
    }

    /// The configuration of a consumer in `group`: it commits nothing by itself, and it never resets a position. Its
    /// protocol is the trigger's to add.
    #[must_use]
    pub fn consumer(&self, group: &str, client_id: &str) -> ClientConfig {
        let mut config = self.client(Role::Consumer, client_id);
        config.set("group.id", group);
        config
    }

    /// What a client calls back: logs, errors and token of this bus. A context of one's own hands its calls on to it.
    #[must_use]
    pub fn callbacks(&self) -> Callbacks {
        Callbacks::new(&self.inner.name, &self.inner.config)
    }

    fn client(&self, role: Role, client_id: &str) -> ClientConfig {
        let mut config: ClientConfig = settings(&self.inner.config, role).into_iter().collect();
        config.set("client.id", client_id);
        let debug = self.option("debug").is_some();
        config.set_log_level(if debug { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config
    }

    fn probe(&self) -> Result<Arc<Probe>, ClusterError> {
        let mut probe = self.inner.probe.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = &*probe {
            return Ok(Arc::clone(probe));
        }
        let config = self.client(Role::Probe, &format!("oncue-{}-probe", self.inner.name));
        let made = Arc::new(Probe::new(&config, self.callbacks()).map_err(|e| self.unmade(&e))?);
        *probe = Some(Arc::clone(&made));
        Ok(made)
    }

    fn unmade(&self, error: &rdkafka::error::KafkaError) -> ClusterError {
        ClusterError::Client { bus: self.name().to_owned(), message: words(error) }
    }
}

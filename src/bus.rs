//! Buses: how a connection to NATS, to Kafka or to a source Postgres is described and opened. The one place where it
//! begins.
//!
//! Invariant: a password or token is never shown by `Debug` or in an error.

pub mod inspect;
pub mod kafka;
pub mod nats;
pub mod postgres;
pub mod send;
pub mod shown;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::kafka::{KafkaBus, Mechanism, Options};
use self::nats::NatsBus;
use self::postgres::PostgresBus;

/// Names the provider of cryptography for TLS: two are compiled in, and rustls refuses to guess.
pub(crate) fn ready_tls() {
    // Somebody may have named one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What speaks on the other side of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BusKind {
    /// NATS, core and JetStream.
    Nats,
    /// Kafka.
    Kafka,
    /// Postgres: change feeds and transactional messages.
    Postgres,
}

impl BusKind {
    /// As the configuration names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
        }
    }
}

/// A bus that was opened, or is opened when it is first asked.
#[derive(Clone, Debug)]
pub enum Connection {
    /// A connection to NATS.
    Nats(NatsBus),
    /// Clients of a Kafka cluster.
    Kafka(KafkaBus),
    /// Connections to a Postgres.
    Postgres(PostgresBus),
}

/// A secret text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Whether what is published must be stored by a stream before a delivery is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publishing {
    /// A stream must acknowledge; a subject that no stream stores fails the delivery.
    #[default]
    Durable,
    /// Core NATS: at most once.
    Core,
}

/// TLS of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Refuse a server without TLS.
    pub required: bool,
    /// Certificates of the authorities to trust, PEM.
    pub ca: Option<PathBuf>,
    /// This client's certificate, PEM.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
}

/// One `[bus.NAME]` of the node's configuration.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// What it is.
    pub kind: BusKind,
    /// `nats://host:4222`, several separated by commas; `tls://` for TLS. `host:9092` of a Kafka, several separated by
    /// commas. `postgres://user@host/database`.
    pub url: String,
    /// A `.creds` file; of a Kafka bus a file with a token.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// User name, together with `password`.
    #[serde(default)]
    pub user: Option<String>,
    /// Password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Token.
    #[serde(default)]
    pub token: Option<Secret>,
    /// Of a Kafka bus: how to log in.
    #[serde(default)]
    pub mechanism: Option<Mechanism>,
    /// TLS.
    #[serde(default)]
    pub tls: Tls,
    /// What publishing means.
    #[serde(default)]
    pub publish: Publishing,
    /// Of a Postgres bus: whether its slots may keep WAL without a bound.
    #[serde(default)]
    pub accept_unbounded_wal: bool,
    /// Of a Kafka bus: properties of librdkafka.
    #[serde(default)]
    pub options: Options,
}

impl std::fmt::Debug for BusConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, url, mechanism, publish, .. } = self;
        let mut shown = f.debug_struct("BusConfig");
        shown.field("kind", kind).field("url", &shown::shown(url)).field("mechanism", mechanism);
        shown.field("publish", publish).finish_non_exhaustive()
    }
}

impl BusConfig {
    /// A NATS bus without authentication.
    #[must_use]
    pub fn nats(url: impl Into<String>) -> Self {
        Self::new(BusKind::Nats, url)
    }

    /// A Kafka bus without authentication; `brokers` is `host:9092`, several separated by commas.
    #[must_use]
    pub fn kafka(brokers: impl Into<String>) -> Self {
        Self::new(BusKind::Kafka, brokers)
    }

    /// A Postgres bus; `url` as of libpq.
    #[must_use]
    pub fn postgres(url: impl Into<String>) -> Self {
        Self::new(BusKind::Postgres, url)
    }

    fn new(kind: BusKind, url: impl Into<String>) -> Self {
        Self {
            kind,
            url: url.into(),
            credentials: None,
            user: None,
            password: None,
            token: None,
            mechanism: None,
            tls: Tls::default(),
            publish: Publishing::Durable,
            accept_unbounded_wal: false,
            options: Options::default(),
        }
    }
}

//! A NATS connection: opened from its configuration, kept for ever, its state told to whoever watches.
//!
//! Invariant: once open, a connection is never given up: it reconnects with backoff until it is dropped. It holds no
//! subscription of its own: what triggers read comes through a `Reader` each, so that nothing that somebody publishes can
//! take this connection away from everybody.

mod dial;
mod reader;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::sync::watch;

use super::BusConfig;
use super::shown::{HIDDEN, shown};

pub use self::dial::DialError;
pub use self::reader::{ReadError, Reader};
pub use self::wire::{Message, WireError};

/// Longest wait between two tries to reconnect.
const RECONNECT_CAP: Duration = Duration::from_secs(4);

/// Why a bus could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The server is not there, or refuses us.
    #[error("bus \"{bus}\": cannot connect to {url}: {}", words(source))]
    Connect {
        /// The bus.
        bus: String,
        /// Where, without user and password.
        url: String,
        /// The client's words.
        source: async_nats::ConnectError,
    },
    /// A file of the configuration cannot be read.
    #[error("bus \"{bus}\": cannot read {file}: {source}")]
    File {
        /// The bus.
        bus: String,
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What a connection went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusState {
    /// Whether it is connected now.
    pub up: bool,
    /// How often it was lost and made again.
    pub reconnects: u64,
}

/// An open connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct NatsBus {
    /// The bus.
    pub name: Arc<str>,
    /// How readers connect to it.
    pub config: Arc<BusConfig>,
    /// The connection.
    pub client: Client,
    /// JetStream over it.
    pub jetstream: jetstream::Context,
    /// Whether it is connected.
    pub state: watch::Receiver<BusState>,
}

/// Opens the bus `name`.
///
/// # Errors
/// The server cannot be reached or refuses the credentials; a credentials or certificate file cannot be read.
pub async fn connect(name: &str, config: &BusConfig) -> Result<NatsBus, BusError> {
    open(name, config, false).await
}

/// Opens the bus `name`, and goes on trying in the background while its server is not there.
///
/// # Errors
/// A credentials or certificate file cannot be read.
pub async fn connect_forever(name: &str, config: &BusConfig) -> Result<NatsBus, BusError> {
    match open(name, config, false).await {
        Err(error @ BusError::Connect { .. }) => {
            tracing::warn!(bus = name, %error, "bus is not reachable; trying again until it is");
            open(name, config, true).await
        }
        opened => opened,
    }
}

async fn open(name: &str, config: &BusConfig, in_background: bool) -> Result<NatsBus, BusError> {
    super::ready_tls();
    let (sender, state) = watch::channel(BusState { up: !in_background, reconnects: 0 });
    let bus = name.to_owned();
    let mut options = options(name, config).await?.event_callback(move |event| {
        note(&bus, &event, &sender);
        std::future::ready(())
    });
    if in_background {
        options = options.retry_on_initial_connect();
    }
    let servers: Vec<&str> = config.url.split(',').map(str::trim).collect();
    let client = options.connect(servers).await.map_err(|source| BusError::Connect {
        bus: name.to_owned(),
        url: shown(&config.url),
        source,
    })?;
    let mut jetstream = jetstream::new(client.clone());
    jetstream.set_timeout(Duration::from_secs(5));
    Ok(NatsBus { name: Arc::from(name), config: Arc::new(config.clone()), client, jetstream, state })
}

async fn options(name: &str, config: &BusConfig) -> Result<ConnectOptions, BusError> {
    let mut options = ConnectOptions::new()
        .name(format!("oncue {name}"))
        .ping_interval(Duration::from_secs(10))
        .require_tls(config.tls.required)
        .reconnect_delay_callback(|tries| {
            Duration::from_millis(50).saturating_mul(1 << tries.min(10)).min(RECONNECT_CAP)
        });
    if let Some(file) = &config.credentials {
        options = options.credentials_file(file).await.map_err(|source| BusError::File {
            bus: name.to_owned(),
            file: file.display().to_string(),
            source,
        })?;
    }
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.user_and_password(user.clone(), password.0.clone());
    } else if let Some(token) = &config.token {
        options = options.token(token.0.clone());
    } else if let Some((user, password)) = config.url.split(',').find_map(login) {
        options = match password {
            Some(password) => options.user_and_password(user, password),
            None => options.token(user),
        };
    }
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(options)
}

/// User and password of an address, or a token alone: the client itself does not look there.
fn login(url: &str) -> Option<(String, Option<String>)> {
    let rest = url.trim();
    let rest = rest.split_once("://").map_or(rest, |(_, rest)| rest);
    let (login, _) = rest.rsplit_once('@')?;
    match login.split_once(':') {
        Some((user, password)) => Some((user.to_owned(), Some(password.to_owned()))),
        None => Some((login.to_owned(), None)),
    }
}

/// The client's words, but for what it says of an address: it repeats a part of it.
fn words(error: &async_nats::ConnectError) -> String {
    match error.kind() {
        async_nats::ConnectErrorKind::ServerParse => "the address of a server is not valid".to_owned(),
        _ => error.to_string(),
    }
}

fn note(bus: &str, event: &Event, state: &watch::Sender<BusState>) {
    match event {
        Event::Connected => state.send_modify(|s| {
            if !s.up {
                tracing::info!(bus, "bus connected again");
                *s = BusState { up: true, reconnects: s.reconnects + 1 };
            }
        }),
        Event::Disconnected => state.send_modify(|s| {
            if s.up {
                tracing::warn!(bus, "bus connection lost; reconnecting");
                s.up = false;
            }
        }),
        Event::LameDuckMode => tracing::warn!(bus, "the server is shutting down"),
        Event::ServerError(error) => tracing::warn!(bus, %error, "the server reported an error"),
        Event::ClientError(error) => tracing::debug!(bus, %error, "the client reported an error"),
        // The client was dropped: the node is stopping.
        Event::Closed => state.send_modify(|s| s.up = false),
        // It holds no subscription that could be too slow.
        Event::SlowConsumer(_) | Event::Draining => {}
    }
}

/// Checks each server of `url`.
///
/// # Errors
/// What is wrong with which one, without any part of it: it may be a password.
pub fn check_address(url: &str) -> Result<(), String> {
    for (at, server) in url.split(',').map(str::trim).enumerate() {
        let place = server.split_once("://").map_or(Ok(server), |(scheme, rest)| match scheme {
            "nats" | "tls" | "ws" | "wss" => Ok(rest),
            _ => Err(()),
        });
        if place.is_err() || shown(server).ends_with(HIDDEN) {
            return Err(format!(
                "server {} of the url is no server; it looks like nats://host:4222 or tls://host:4222, and @, :, /, ?, # \
                 and commas of a password are percent-encoded: %40, %3A, %2F, %3F, %23, %2C",
                at + 1
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::login;

    #[test]
    fn the_login_of_an_address_is_used() {
        let both = |user: &str, password: Option<&str>| Some((user.to_owned(), password.map(str::to_owned)));
        let table = [
            ("nats://me:secret@host:4222", both("me", Some("secret"))),
            ("nats://host:4222", None),
            ("token@a:1", both("token", None)),
        ];
        for (url, found) in table {
            assert_eq!(login(url), found, "{url}");
        }
    }
}

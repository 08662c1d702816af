//! The ports that private servers had the last time, so that addresses in other terminals and tools stay good.
//!
//! Invariant: a port is only a wish: one that is taken meanwhile is replaced by a free one.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

const FILE: &str = "ports";

/// Ports of the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Postgres.
    pub postgres: Option<u16>,
    /// NATS.
    pub nats: Option<u16>,
}

/// What `folder` says; nothing if it cannot be read.
#[must_use]
pub fn read(folder: &Path) -> Ports {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    let port = |name: &str| {
        let line = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name);
        line.and_then(|(_, port)| port.parse().ok())
    };
    Ports { postgres: port("postgres"), nats: port("nats") }
}

/// Remembers `ports` in `folder`.
///
/// # Errors
/// Those of writing.
pub fn write(folder: &Path, ports: Ports) -> io::Result<()> {
    let known = [("postgres", ports.postgres), ("nats", ports.nats)];
    let lines = known.into_iter().filter_map(|(name, port)| Some(format!("{name}={}\n", port?)));
    std::fs::write(folder.join(FILE), lines.collect::<String>())
}

/// Whether a server could listen there now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_same_after_they_were_written() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(folder.path()), Ports::default());
        let ports = Ports { postgres: Some(5_432), nats: None };
        write(folder.path(), ports).expect("it can be written");
        assert_eq!(read(folder.path()), ports);
    }

    #[test]
    fn a_port_that_somebody_has_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        assert!(!is_free(taken.local_addr().expect("an address").port()));
    }
}

//! The Postgres buses: whether the server can be a source.
//!
//! Invariant: a question that fails is a finding and does not end the look.

use crate::bus::BusConfig;
use crate::bus::postgres::PostgresBus;
use crate::store::control::ControlPlane;

use super::Findings;

pub(super) async fn look(name: &str, config: &BusConfig, _tables: Option<&ControlPlane>, findings: &mut Findings) {
    let about = format!("bus {name}");
    let fix = "start it, or correct `url` in [bus.…]";
    let bus = match PostgresBus::new(name, config) {
        Ok(bus) => bus,
        Err(error) => return findings.bad(about, error.to_string(), fix),
    };
    match bus.fit_server().await {
        Ok(server) => findings.ok(about, format!("Postgres {}, database {}", server.version(), server.database)),
        Err(error) => findings.bad(about, error.to_string(), fix),
    }
}

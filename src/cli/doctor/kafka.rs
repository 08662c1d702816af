//! The Kafka buses: whether brokers answer.
//!
//! Invariant: a question that fails is a finding and does not end the look.

use crate::bus::BusConfig;
use crate::bus::kafka::KafkaBus;

use super::Findings;

pub(super) async fn look(name: &str, config: &BusConfig, findings: &mut Findings) {
    let about = format!("bus {name}");
    let fix = format!("start its brokers, or correct [bus.{name}]");
    let bus = match KafkaBus::new(name, config) {
        Ok(bus) => bus,
        Err(error) => return findings.bad(about, error.to_string(), fix),
    };
    match bus.ping().await {
        Ok(round_trip) => findings.ok(about, format!("answers within {:.1} ms", round_trip.as_secs_f64() * 1e3)),
        Err(error) => findings.bad(about, error.to_string(), fix),
    }
}

//! What is counted of the rules: those that are loaded, how often they are read, how often somebody says that they changed.
//!
//! Invariant: that of `telemetry`.

use metrics::{counter, gauge};

use super::{RULES_LOADED, RULES_QUARANTINED, RULES_READ, RULESET_NOTIFICATIONS, RULESET_VERSION};

/// A snapshot of the rules was loaded.
#[expect(clippy::cast_precision_loss, reason = "counts and a version, far below 2^53")]
pub fn rules_loaded(loaded: usize, quarantined: usize, version: i64) {
    gauge!(RULES_LOADED).set(loaded as f64);
    gauge!(RULES_QUARANTINED).set(quarantined as f64);
    gauge!(RULESET_VERSION).set(version as f64);
}

/// The control plane is read.
pub fn rules_read() {
    counter!(RULES_READ).increment(1);
}

/// `count` notifications said that the control plane changed.
pub fn ruleset_notified(count: u64) {
    counter!(RULESET_NOTIFICATIONS).increment(count);
}

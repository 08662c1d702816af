//! Telemetry: logs ([`install_logs`]), the metrics, and one short function per thing that is counted.
//!
//! Invariant: metric names are consts with the prefix `oncue_`; labels are names that an operator gave or words of
//! ours, of low cardinality, never event data. This module measures nothing by itself and serves nothing (`health`
//! does).

mod hot;
mod logs;
mod panics;
mod rules;

use std::{sync::OnceLock, time::Duration};

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio_util::sync::CancellationToken;

pub use metrics_exporter_prometheus::PrometheusHandle;

pub use logs::{LogConfig, LogError, LogFormat, install_logs};
pub use panics::{install_panics, panic_text};
pub use rules::{rules_loaded, rules_read, ruleset_notified};

/// How often histograms are condensed when nobody reads them.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Events that a trigger read.
pub const EVENTS_RECEIVED: &str = "oncue_events_received_total";
/// Messages that are no event; kept as rejected, by class.
pub const EVENTS_REJECTED: &str = "oncue_events_rejected_total";
/// Events that at least one rule matched.
pub const EVENTS_MATCHED: &str = "oncue_events_matched_total";
/// Events that no rule matched.
pub const EVENTS_UNMATCHED: &str = "oncue_events_unmatched_total";
/// Events that were written to the record.
pub const RECORDED: &str = "oncue_recorded_total";
/// Settled deliveries by outcome: done, parked, dead, void, duplicate.
pub const DELIVERIES: &str = "oncue_deliveries_total";
/// Function runs by outcome class.
pub const RUNS: &str = "oncue_runs_total";
/// Fuel that function runs used.
pub const FUEL: &str = "oncue_fuel_total";
/// Messages acknowledged to the bus.
pub const ACKS: &str = "oncue_ack_total";
/// Messages that the bus delivered again.
pub const REDELIVERED: &str = "oncue_redelivered_total";
/// Messages that core NATS dropped because this node was too slow: lost.
pub const SLOW_CONSUMER_DROPS: &str = "oncue_slow_consumer_drops_total";
/// Connections to a bus that were lost and made again.
pub const RECONNECTS: &str = "oncue_reconnects_total";
/// Deliveries that became dead letters, by error class.
pub const DEAD_LETTERS: &str = "oncue_dead_letters_total";
/// Events read and not settled.
pub const IN_FLIGHT_EVENTS: &str = "oncue_in_flight_events";
/// Bytes of the events read and not settled.
pub const IN_FLIGHT_BYTES: &str = "oncue_in_flight_bytes";
/// Messages that wait at the source.
pub const TRIGGER_LAG: &str = "oncue_trigger_lag";
/// Bytes of WAL that a feed's slot keeps.
pub const RETAINED_WAL: &str = "oncue_retained_wal_bytes";
/// Bytes that can be written before a feed's slot may be lost; -1 without a bound.
pub const SAFE_WAL: &str = "oncue_safe_wal_size_bytes";
/// 0 green, 1 amber, 2 red: what the WAL guard does.
pub const WAL_PRESSURE: &str = "oncue_wal_pressure";
/// Bytes of WAL between what the server has sent and what is settled.
pub const FEED_LAG_BYTES: &str = "oncue_feed_lag_bytes";
/// Age of the transaction that a feed received last.
pub const FEED_LAG_SECONDS: &str = "oncue_feed_lag_seconds";
/// Records of a partition that are not settled.
pub const KAFKA_LAG_RECORDS: &str = "oncue_kafka_lag_records";
/// Age of the record of a partition that was read last, while others wait.
pub const KAFKA_LAG_SECONDS: &str = "oncue_kafka_lag_seconds";
/// Commits that the brokers took.
pub const KAFKA_COMMITS: &str = "oncue_kafka_commits_total";
/// Commits that the brokers refused.
pub const KAFKA_COMMITS_REFUSED: &str = "oncue_kafka_commits_refused_total";
/// Times that the group gave or took partitions.
pub const KAFKA_REBALANCES: &str = "oncue_kafka_rebalances_total";
/// Partitions that are not read for want of budget.
pub const KAFKA_PAUSED: &str = "oncue_kafka_paused_partitions";
/// Records that were read and wait for the budget.
pub const KAFKA_READ_AHEAD: &str = "oncue_kafka_read_ahead_records";
/// 0 paused, 1 active, 2 stalled, 3 gap, 4 error, 5 standby.
pub const TRIGGER_STATE: &str = "oncue_trigger_state";
/// Deliveries that wait for another try.
pub const PARKED: &str = "oncue_parked";
/// Events that functions with SQL effects emitted and that were published after their commit.
pub const OUTBOX_PUBLISHED: &str = "oncue_outbox_published_total";
/// Events in the outbox.
pub const OUTBOX_PENDING: &str = "oncue_outbox_pending";
/// Age of the oldest event in the outbox.
pub const OUTBOX_OLDEST: &str = "oncue_outbox_oldest_seconds";
/// Rules in the loaded snapshot.
pub const RULES_LOADED: &str = "oncue_rules_loaded";
/// Rules left out of the snapshot because they are wrong.
pub const RULES_QUARANTINED: &str = "oncue_rules_quarantined";
/// Version of the loaded snapshot.
pub const RULESET_VERSION: &str = "oncue_ruleset_version";
/// Times that the control plane was read.
pub const RULES_READ: &str = "oncue_rules_reads_total";
/// Notifications of changes of the control plane; anybody who may connect to the database can send them.
pub const RULESET_NOTIFICATIONS: &str = "oncue_ruleset_notifications_total";
/// Whether the store answers.
pub const STORE_UP: &str = "oncue_store_up";
/// Whether the bus is connected.
pub const BUS_UP: &str = "oncue_bus_up";
/// Duration of function runs.
pub const RUN_SECONDS: &str = "oncue_run_seconds";
/// Duration of the transactions that settle deliveries.
pub const SETTLE_SECONDS: &str = "oncue_settle_seconds";
/// Deliveries settled by one transaction.
pub const SETTLE_GROUP_SIZE: &str = "oncue_settle_group_size";

/// From a sandbox's start (tens of microseconds) to the default timeout and above.
const RUN_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// From a commit to a local disk to a store in trouble.
const SETTLE_BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Groups grow with the load.
const GROUP_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];

const COUNTERS: &[(&str, &str)] = &[
    (EVENTS_RECEIVED, "Events that a trigger read."),
    (EVENTS_REJECTED, "Messages that are no event; kept as rejected, by class."),
    (EVENTS_MATCHED, "Events that at least one rule matched."),
    (EVENTS_UNMATCHED, "Events that no rule matched."),
    (RECORDED, "Events that were written to the record."),
    (DELIVERIES, "Settled deliveries by outcome: done, parked, dead, void, duplicate."),
    (RUNS, "Function runs by outcome class."),
    (FUEL, "Fuel that function runs used."),
    (ACKS, "Messages acknowledged to the bus."),
    (REDELIVERED, "Messages that the bus delivered again."),
    (SLOW_CONSUMER_DROPS, "Messages that core NATS dropped because this node was too slow: lost."),
    (RECONNECTS, "Connections to a bus that were lost and made again."),
    (DEAD_LETTERS, "Deliveries that became dead letters, by error class."),
    (KAFKA_COMMITS, "Commits that the brokers took."),
    (KAFKA_COMMITS_REFUSED, "Commits that the brokers refused."),
    (KAFKA_REBALANCES, "Times that the group gave or took partitions."),
    (OUTBOX_PUBLISHED, "Events published from the outbox."),
    (RULES_READ, "Times that the control plane was read."),
    (RULESET_NOTIFICATIONS, "Notifications of changes of the control plane, by whomever sent."),
];
const GAUGES: &[(&str, &str)] = &[
    (IN_FLIGHT_EVENTS, "Events read and not settled."),
    (IN_FLIGHT_BYTES, "Bytes of the events read and not settled."),
    (TRIGGER_LAG, "Messages that wait at the source."),
    (RETAINED_WAL, "Bytes of WAL that a feed's slot keeps."),
    (SAFE_WAL, "Bytes that can be written before a feed's slot may be lost; -1 without a bound."),
    (WAL_PRESSURE, "0 green, 1 amber, 2 red: what the WAL guard does."),
    (FEED_LAG_BYTES, "Bytes of WAL between what the server has sent and what is settled."),
    (FEED_LAG_SECONDS, "Age of the transaction that a feed received last."),
    (KAFKA_LAG_RECORDS, "Records of a partition that are not settled."),
    (KAFKA_LAG_SECONDS, "Age of the record of a partition that was read last, while others wait."),
    (KAFKA_PAUSED, "Partitions that are not read for want of budget."),
    (KAFKA_READ_AHEAD, "Records that were read and wait for the budget."),
    (TRIGGER_STATE, "0 paused, 1 active, 2 stalled, 3 gap, 4 error, 5 standby."),
    (PARKED, "Deliveries that wait for another try."),
    (OUTBOX_PENDING, "Events that are committed and not yet published."),
    (OUTBOX_OLDEST, "Age of the oldest event in the outbox."),
    (RULES_LOADED, "Rules in the loaded snapshot."),
    (RULES_QUARANTINED, "Rules left out of the snapshot because they are wrong."),
    (RULESET_VERSION, "Version of the loaded snapshot."),
    (STORE_UP, "Whether the store answers."),
    (BUS_UP, "Whether the bus is connected."),
];
const HISTOGRAMS: &[(&str, &str, &[f64])] = &[
    (RUN_SECONDS, "Duration of function runs.", RUN_BUCKETS),
    (SETTLE_SECONDS, "Duration of the transactions that settle deliveries.", SETTLE_BUCKETS),
    (SETTLE_GROUP_SIZE, "Deliveries settled by one transaction.", GROUP_BUCKETS),
];

/// Sets up the metrics of this process, once: every call gives a handle on the same ones.
pub fn install_metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let recorder = HISTOGRAMS.iter().fold(PrometheusBuilder::new(), with_buckets).build_recorder();
        let handle = recorder.handle();
        match metrics::set_global_recorder(recorder) {
            Ok(()) => describe_all(),
            Err(error) => tracing::error!(error = %error, "failed to set up metrics: another recorder is there"),
        }
        handle
    };
    HANDLE.get_or_init(install).clone()
}

fn with_buckets(builder: PrometheusBuilder, (name, _, buckets): &(&str, &str, &[f64])) -> PrometheusBuilder {
    let matcher = Matcher::Full((*name).to_owned());
    builder.set_buckets_for_metric(matcher, buckets).expect("no list of buckets above is empty")
}

/// Gives every metric its help text.
pub fn describe_all() {
    for (name, help) in COUNTERS {
        metrics::describe_counter!(*name, *help);
    }
    for (name, help) in GAUGES {
        metrics::describe_gauge!(*name, *help);
    }
    for (name, help, _) in HISTOGRAMS {
        metrics::describe_histogram!(*name, *help);
    }
}

/// Keeps the memory of the metrics bounded when nobody scrapes them; ends after `shutdown`.
pub async fn upkeep(handle: PrometheusHandle, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => handle.run_upkeep(),
        }
    }
}

/// `count` events were read.
pub fn received(trigger: &str, count: u64) {
    counter!(EVENTS_RECEIVED, "trigger" => trigger.to_owned()).increment(count);
}

/// A message is no event.
pub fn rejected(trigger: &str, class: &str) {
    counter!(EVENTS_REJECTED, "trigger" => trigger.to_owned(), "class" => class.to_owned()).increment(1);
}

/// `count` events were matched by at least one rule.
pub fn matched(trigger: &str, count: u64) {
    hot::count(EVENTS_MATCHED, "", trigger, count, |trigger| counter!(EVENTS_MATCHED, "trigger" => trigger));
}

/// `count` events were matched by no rule.
pub fn unmatched(trigger: &str, count: u64) {
    hot::count(EVENTS_UNMATCHED, "", trigger, count, |trigger| counter!(EVENTS_UNMATCHED, "trigger" => trigger));
}

/// An event of `trigger` was written to the record.
pub fn recorded(trigger: &str) {
    hot::count(RECORDED, "", trigger, 1, |trigger| counter!(RECORDED, "trigger" => trigger));
}

/// `count` deliveries of `rule` were settled as `outcome`: done, parked, dead, void or duplicate.
pub fn delivered(rule: &str, outcome: &'static str, count: u64) {
    let make = |rule| counter!(DELIVERIES, "rule" => rule, "outcome" => outcome);
    hot::count(DELIVERIES, outcome, rule, count, make);
}

/// A run of `function` ended as `outcome` (the class of the outcome).
pub fn ran(function: &str, outcome: &'static str, took: Duration, fuel: u64) {
    let make = |function| counter!(RUNS, "function" => function, "outcome" => outcome);
    hot::count(RUNS, outcome, function, 1, make);
    hot::count(FUEL, "", function, fuel, |function| counter!(FUEL, "function" => function));
    let make = |function| histogram!(RUN_SECONDS, "function" => function);
    hot::record(RUN_SECONDS, function, took.as_secs_f64(), make);
}

/// What the node has read and not settled.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 bytes are never in flight")]
pub fn in_flight(events: u64, bytes: u64) {
    gauge!(IN_FLIGHT_EVENTS).set(events as f64);
    gauge!(IN_FLIGHT_BYTES).set(bytes as f64);
}

/// A transaction settled `deliveries`.
#[expect(clippy::cast_precision_loss, reason = "a group is far below 2^53")]
pub fn settled(deliveries: usize, took: Duration) {
    histogram!(SETTLE_SECONDS).record(took);
    histogram!(SETTLE_GROUP_SIZE).record(deliveries as f64);
}

/// `count` messages were acknowledged.
pub fn acked(trigger: &str, count: u64) {
    counter!(ACKS, "trigger" => trigger.to_owned()).increment(count);
}

/// `count` messages came again.
pub fn redelivered(trigger: &str, count: u64) {
    counter!(REDELIVERED, "trigger" => trigger.to_owned()).increment(count);
}

/// `pending` messages wait at the source.
#[expect(clippy::cast_precision_loss, reason = "a lag above 2^53 is as bad as one of 2^53")]
pub fn trigger_lag(trigger: &str, pending: u64) {
    gauge!(TRIGGER_LAG, "trigger" => trigger.to_owned()).set(pending as f64);
}

/// What the slot of `trigger` keeps, and how much may still be written.
pub fn slot(trigger: &str, retained: u64, safe: Option<i64>) {
    gauge!(RETAINED_WAL, "trigger" => trigger.to_owned()).set(retained as f64);
    gauge!(SAFE_WAL, "trigger" => trigger.to_owned()).set(safe.unwrap_or(-1) as f64);
}

/// The level of the WAL guard: 0 green, 1 amber, 2 red.
pub fn wal_pressure(trigger: &str, level: u8) {
    gauge!(WAL_PRESSURE, "trigger" => trigger.to_owned()).set(f64::from(level));
}

/// The server of `trigger` has sent WAL up to `sent`; up to `settled` it is settled. `seconds`: how old what was sent
/// last is.
pub fn feed_lag(trigger: &str, bytes: u64, seconds: f64) {
    gauge!(FEED_LAG_BYTES, "trigger" => trigger.to_owned()).set(bytes as f64);
    gauge!(FEED_LAG_SECONDS, "trigger" => trigger.to_owned()).set(seconds);
}

/// `records` of a partition are not settled; the one that was read last is `seconds` old.
#[expect(clippy::cast_precision_loss, reason = "a lag above 2^53 is as bad as one of 2^53")]
pub fn kafka_lag(trigger: &str, topic: &str, partition: i32, records: u64, seconds: f64) {
    let labels =
        || [("trigger", trigger.to_owned()), ("topic", topic.to_owned()), ("partition", partition.to_string())];
    gauge!(KAFKA_LAG_RECORDS, &labels()).set(records as f64);
    gauge!(KAFKA_LAG_SECONDS, &labels()).set(seconds);
}

/// The brokers took a commit.
pub fn kafka_committed(trigger: &str) {
    counter!(KAFKA_COMMITS, "trigger" => trigger.to_owned()).increment(1);
}

/// The brokers refused one.
pub fn kafka_commit_refused(trigger: &str) {
    counter!(KAFKA_COMMITS_REFUSED, "trigger" => trigger.to_owned()).increment(1);
}

/// The group gave or took partitions.
pub fn kafka_rebalanced(trigger: &str) {
    counter!(KAFKA_REBALANCES, "trigger" => trigger.to_owned()).increment(1);
}

/// `partitions` are not read for want of budget.
#[expect(clippy::cast_precision_loss, reason = "a count of partitions, far below 2^53")]
pub fn kafka_paused(trigger: &str, partitions: usize) {
    gauge!(KAFKA_PAUSED, "trigger" => trigger.to_owned()).set(partitions as f64);
}

/// `records` were read and wait for the budget.
#[expect(clippy::cast_precision_loss, reason = "a count of records in memory, far below 2^53")]
pub fn kafka_read_ahead(trigger: &str, records: usize) {
    gauge!(KAFKA_READ_AHEAD, "trigger" => trigger.to_owned()).set(records as f64);
}

/// The state of a trigger as a number: 0 paused, 1 active, 2 stalled, 3 gap, 4 error, 5 standby. `health` calls this.
pub fn trigger_state(trigger: &str, state: u8) {
    gauge!(TRIGGER_STATE, "trigger" => trigger.to_owned()).set(f64::from(state));
}

/// Core NATS dropped `count` messages before this node read them.
pub fn slow_consumer_dropped(trigger: &str, count: u64) {
    counter!(SLOW_CONSUMER_DROPS, "trigger" => trigger.to_owned()).increment(count);
}

/// The connection to a bus was lost and made again.
pub fn reconnected(bus: &str) {
    counter!(RECONNECTS, "bus" => bus.to_owned()).increment(1);
}

/// `count` deliveries wait for another try.
#[expect(clippy::cast_precision_loss, reason = "a table has fewer than 2^53 rows")]
pub fn parked(count: u64) {
    gauge!(PARKED).set(count as f64);
}

/// `count` events wait in the outbox, the oldest for `seconds`.
#[expect(clippy::cast_precision_loss, reason = "a table has fewer than 2^53 rows")]
pub fn outbox(count: u64, seconds: f64) {
    gauge!(OUTBOX_PENDING).set(count as f64);
    gauge!(OUTBOX_OLDEST).set(seconds);
}

/// `count` events were published from the outbox.
pub fn relayed(count: usize) {
    counter!(OUTBOX_PUBLISHED).increment(count as u64);
}

/// A delivery became a dead letter.
pub fn dead_letter(rule: &str, class: &str) {
    counter!(DEAD_LETTERS, "rule" => rule.to_owned(), "class" => class.to_owned()).increment(1);
}

/// Whether the store answers. `health` calls this.
pub fn store_up(up: bool) {
    gauge!(STORE_UP).set(f64::from(u8::from(up)));
}

/// Whether a bus is connected. `health` calls this.
pub fn bus_up(bus: &str, up: bool) {
    gauge!(BUS_UP, "bus" => bus.to_owned()).set(f64::from(u8::from(up)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_and_has_the_right_shape() {
        let handle = install_metrics();
        received("telemetry-test", 3);
        rejected("telemetry-test", "too_large");
        matched("telemetry-test", 2);
        unmatched("telemetry-test", 1);
        delivered("telemetry-test", "done", 2);
        ran("telemetry-test", "ok", Duration::from_micros(80), 1_234);
        in_flight(1, 2);
        settled(7, Duration::from_millis(3));
        acked("telemetry-test", 1);
        redelivered("telemetry-test", 1);
        trigger_lag("telemetry-test", 9);
        trigger_state("telemetry-test", 1);
        slow_consumer_dropped("telemetry-test", 1);
        reconnected("telemetry-test");
        parked(4);
        outbox(2, 0.5);
        relayed(1);
        slot("telemetry-test", 1 << 20, None);
        wal_pressure("telemetry-test", 1);
        feed_lag("telemetry-test", 9, 0.5);
        recorded("telemetry-test");
        kafka_lag("telemetry-test", "orders", 3, 9, 0.5);
        kafka_committed("telemetry-test");
        kafka_commit_refused("telemetry-test");
        kafka_rebalanced("telemetry-test");
        kafka_paused("telemetry-test", 2);
        kafka_read_ahead("telemetry-test", 7);
        dead_letter("telemetry-test", "trap");
        rules_loaded(5, 1, 42);
        rules_read();
        ruleset_notified(1);
        store_up(true);
        bus_up("telemetry-test", false);
        let text = install_metrics().render();
        assert!(handle.render().contains("telemetry-test"), "both handles are on the same metrics");
        let names = COUNTERS.iter().chain(GAUGES).map(|(name, help)| (*name, *help));
        for (name, help) in names.chain(HISTOGRAMS.iter().map(|(name, help, _)| (*name, *help))) {
            assert!(name.starts_with("oncue_"), "{name}");
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name} in {text}");
        }
        for line in [
            "oncue_events_received_total{trigger=\"telemetry-test\"} 3",
            "oncue_fuel_total{function=\"telemetry-test\"} 1234",
            "oncue_run_seconds_bucket{function=\"telemetry-test\",le=\"0.0001\"} 1",
            // Others in this process may settle, too.
            "oncue_settle_group_size_bucket{le=\"10\"} ",
            "oncue_settle_seconds_bucket{le=\"0.005\"} ",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn counters_end_in_total_and_nothing_else_does() {
        assert!(COUNTERS.iter().all(|(name, _)| name.ends_with("_total")));
        assert!(!GAUGES.iter().any(|(name, _)| name.ends_with("_total")));
    }
}

//! A topic: its copies, what an acknowledgement means on it, and how large its records may be.
//!
//! Invariant: what the brokers do not say is no finding.

use crate::bus::kafka::{PartitionFacts, TopicFacts, TopicSettings};

use super::{Findings, Look};

impl Look<'_> {
    /// Looks at a topic that is read or written.
    pub(super) async fn topic(&self, topic: &TopicFacts, findings: &mut Findings) {
        let settings = match self.bus.topic_settings(&topic.name).await {
            Ok(settings) => settings,
            Err(error) => {
                findings.warn(format!("topic {}", topic.name), error.to_string(), "look at the brokers' log");
                None
            }
        };
        judge(topic, settings.as_ref(), &self.server(), findings);
        if let Some(bytes) = settings.as_ref().and_then(|s| s.number("max.message.bytes"))
            && usize::try_from(bytes).is_ok_and(|bytes| bytes > self.message_max)
        {
            let text = format!(
                "it takes records of {bytes} bytes, the nodes take {}: larger ones become dead letters",
                self.message_max
            );
            let fix = "raise `limits.message` in [node], or lower max.message.bytes of the topic";
            findings.warn(format!("topic {}", topic.name), text, fix);
        }
    }
}

/// What its copies and settings mean for what is published.
fn judge(topic: &TopicFacts, settings: Option<&TopicSettings>, server: &str, findings: &mut Findings) {
    let about = format!("topic {}", topic.name);
    let copies = topic.partitions.iter().map(|p| p.replicas.len()).min().unwrap_or(0);
    let told = if settings.is_none() { "; the brokers do not tell its settings" } else { "" };
    findings.ok(&about, format!("{} partitions, {copies} copies{told}", topic.partitions.len()));
    let orphans = ids(topic, |p| p.leader.is_none());
    if !orphans.is_empty() {
        let text = format!("partitions {orphans} have no leader: nothing is read from them or written to them");
        findings.bad(&about, text, "start the brokers that have their copies");
    }
    let behind = ids(topic, |p| p.leader.is_some() && p.in_sync.len() < p.replicas.len());
    if !behind.is_empty() {
        let text = format!("copies of the partitions {behind} do not keep up");
        findings.warn(&about, text, format!("kafka-topics.sh {server} --describe --under-replicated-partitions"));
    }
    if copies == 1 {
        let text = "one copy: what its broker's disk loses is lost";
        findings.warn(&about, text, format!("kafka-reassign-partitions.sh {server} … gives it three"));
    }
    let Some(settings) = settings else { return };
    let alter = |setting: &str| {
        format!(
            "kafka-configs.sh {server} --entity-type topics --entity-name {} --alter --add-config {setting}",
            topic.name
        )
    };
    match settings.number("min.insync.replicas").and_then(|n| usize::try_from(n).ok()) {
        Some(1) if copies > 1 => {
            let text = "min.insync.replicas is 1: while other copies are away, what one broker alone has is acknowledged, \
                        and lost with it";
            findings.warn(&about, text, alter("min.insync.replicas=2"));
        }
        Some(least) if least >= copies && copies > 1 => {
            let text = format!("min.insync.replicas is {least} of {copies}: one broker that is away stops all writes");
            findings.warn(&about, text, alter(&format!("min.insync.replicas={}", copies - 1)));
        }
        _ => {}
    }
    if settings.get("unclean.leader.election.enable") == Some("true") {
        let text = "a copy that lags behind may become the leader: acknowledged records are lost then, and offsets are \
                    given a second time";
        findings.bad(&about, text, alter("unclean.leader.election.enable=false"));
    }
}

/// The numbers of the partitions that are so.
fn ids(topic: &TopicFacts, so: impl Fn(&PartitionFacts) -> bool) -> String {
    let ids = topic.partitions.iter().filter(|p| so(p)).map(|p| p.id.to_string());
    ids.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::super::Level;
    use super::*;

    fn topic(replicas: &[i32], in_sync: &[i32], leader: Option<i32>) -> TopicFacts {
        let partition = PartitionFacts { id: 0, leader, replicas: replicas.to_vec(), in_sync: in_sync.to_vec() };
        TopicFacts { name: "orders".to_owned(), partitions: vec![partition] }
    }

    fn settings(pairs: &[(&str, &str)]) -> TopicSettings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn told(topic: &TopicFacts, settings: Option<&TopicSettings>) -> Vec<(Level, String, String)> {
        let mut findings = Findings::default();
        judge(topic, settings, "--bootstrap-server b:9092", &mut findings);
        let bad = findings.0.into_iter().filter(|f| f.level != Level::Ok);
        bad.map(|f| (f.level, f.text, f.fix.unwrap_or_default())).collect()
    }

    #[test]
    fn a_topic_that_loses_nothing_has_no_findings() {
        let good = settings(&[("min.insync.replicas", "2"), ("unclean.leader.election.enable", "false")]);
        assert_eq!(told(&topic(&[1, 2, 3], &[1, 2, 3], Some(1)), Some(&good)), []);
        assert_eq!(told(&topic(&[1, 2, 3], &[1, 2, 3], Some(1)), None), [], "what is not said is no finding");
    }

    #[test]
    fn what_can_lose_records_is_told_with_the_command_that_mends_it() {
        let whole = topic(&[1, 2, 3], &[1, 2, 3], Some(1));
        let config = "kafka-configs.sh --bootstrap-server b:9092 --entity-type topics --entity-name orders --alter \
                      --add-config ";
        let table = [
            (topic(&[1], &[1], Some(1)), settings(&[("min.insync.replicas", "1")]), "one copy", "kafka-reassign-"),
            (topic(&[1, 2], &[1], Some(1)), settings(&[]), "do not keep up", "--under-replicated-partitions"),
            (topic(&[1, 2], &[], None), settings(&[]), "partitions 0 have no leader", "start the brokers"),
            (whole.clone(), settings(&[("min.insync.replicas", "1")]), "is 1: while", "min.insync.replicas=2"),
            (whole.clone(), settings(&[("min.insync.replicas", "3")]), "3 of 3", "min.insync.replicas=2"),
            (whole, settings(&[("unclean.leader.election.enable", "true")]), "lags behind", config),
        ];
        for (topic, settings, text, fix) in table {
            let told = told(&topic, Some(&settings));
            assert!(told.iter().any(|(_, t, f)| t.contains(text) && f.contains(fix)), "{text}: {told:?}");
        }
    }
}

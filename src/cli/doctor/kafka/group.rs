//! The triggers of a Kafka bus: their topics, their groups, how far they have come, and what is about to expire.
//!
//! Invariant: no group is joined and nothing is committed. What expires is judged by the topic's own retention.

use std::time::Duration;

use crate::bus::kafka::{Progress, TopicFacts};
use crate::store::control::TriggerRow;
use crate::triggers::spec::{KafkaSpec, TriggerSpec};

use super::{Findings, Look};

/// Records that have less than this part of the retention left are about to expire.
const LAST_PART: u32 = 5;

impl Look<'_> {
    /// The triggers that read topics of this bus.
    pub(super) async fn triggers(&self, findings: &mut Findings) {
        for row in self.tables.triggers.iter().filter(|row| row.bus == self.bus.name()) {
            if let Ok(TriggerSpec::Kafka(spec)) = TriggerSpec::parse(&row.kind, &row.spec) {
                self.trigger(row, &spec, findings).await;
            }
        }
    }

    async fn trigger(&self, row: &TriggerRow, spec: &KafkaSpec, findings: &mut Findings) {
        let about = format!("trigger {}", row.name);
        for name in spec.names().filter(|name| !self.topics.iter().any(|topic| topic.name == *name)) {
            findings.bad(&about, format!("there is no topic {name}"), self.create(name));
        }
        let read: Vec<&TopicFacts> = self.topics.iter().filter(|topic| spec.reads(&topic.name)).collect();
        if read.is_empty() && spec.names().next().is_none() {
            let text = format!("no topic matches {}", spec.topics.join(", "));
            findings.warn(&about, text, "correct `topics`, or make one: it is read as soon as there is one");
        }
        for topic in &read {
            self.topic(topic, findings).await;
        }
        let group = spec.group(&row.name);
        match self.bus.group(&group).await {
            Ok(Some(facts)) if facts.members == 0 && row.state == "active" => {
                findings.warn(format!("group {group}"), "no node reads: it has no members", "`oncue serve`");
            }
            Ok(Some(facts)) => {
                let partitions: usize = read.iter().map(|topic| topic.partitions.len()).sum();
                let text = format!("{}, {} members for {partitions} partitions", facts.state, facts.members);
                findings.ok(format!("group {group}"), text);
            }
            Ok(None) => {}
            Err(error) => {
                findings.bad(format!("group {group}"), error.to_string(), "grant this account Describe on the group");
            }
        }
        for topic in read {
            self.progress(&group, topic, &row.name, findings).await;
        }
    }

    async fn progress(&self, group: &str, topic: &TopicFacts, trigger: &str, findings: &mut Findings) {
        let about = format!("group {group}");
        let settings = self.bus.topic_settings(&topic.name).await.ok().flatten();
        let compacts = settings.as_ref().and_then(|s| s.get("cleanup.policy")).is_some_and(|p| p.contains("compact"));
        if compacts {
            let text = format!("{} is compacted: of records of one key only the newest is sure to be read", topic.name);
            findings.ok(&about, text);
        }
        let retention = settings.as_ref().and_then(|s| s.number("retention.ms")).and_then(|ms| u64::try_from(ms).ok());
        let retention = retention.filter(|ms| *ms > 0 && !compacts).map(Duration::from_millis);
        let old = retention.map(|retention| retention - retention / LAST_PART);
        match self.bus.progress(group, topic, old).await {
            Ok(progress) => judge(&about, topic, &progress, retention, trigger, findings),
            Err(error) => {
                findings.bad(about, error.to_string(), "grant this account Describe on the group and the topic");
            }
        }
    }
}

/// What the positions mean.
fn judge(
    about: &str,
    topic: &TopicFacts,
    progress: &[Progress],
    retention: Option<Duration>,
    trigger: &str,
    findings: &mut Findings,
) {
    let lag: u64 = progress.iter().map(Progress::lag).sum();
    findings.ok(about, format!("{}: {lag} records are not settled", topic.name));
    let expired = ids(progress, |p| p.committed.is_some_and(|committed| committed < p.low));
    if !expired.is_empty() {
        let text = format!("{}: what was to be read next of the partitions {expired} has expired", topic.name);
        let fix = format!(
            "`oncue trigger show {trigger}` names the range, `oncue trigger resume {trigger} --accept-gap` goes on"
        );
        findings.bad(about, text, fix);
    }
    let beyond = ids(progress, |p| p.committed.is_some_and(|committed| committed > p.high));
    if !beyond.is_empty() {
        let text =
            format!("{}: the partitions {beyond} end before what is settled: the topic was made anew", topic.name);
        findings.bad(about, text, format!("`oncue trigger resume {trigger} --accept-gap` reads the new one"));
    }
    let aging = |p: &Progress| p.lag() > 0 && p.committed.unwrap_or(p.low) < p.young.unwrap_or(p.high);
    let aging = ids(progress, aging);
    if let Some(retention) = retention.filter(|_| !aging.is_empty()) {
        let left = humantime::format_duration(Duration::from_secs((retention / LAST_PART).as_secs()));
        let text =
            format!("{}: records of the partitions {aging} expire within {left} and are not settled", topic.name);
        let fix = format!("add nodes, look at `oncue trigger show {trigger}`, or raise retention.ms of the topic");
        findings.bad(about, text, fix);
    }
}

fn ids(progress: &[Progress], so: impl Fn(&Progress) -> bool) -> String {
    let ids = progress.iter().filter(|p| so(p)).map(|p| p.partition.to_string());
    ids.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::super::Level;
    use super::*;

    /// Committed, low, high, young, and what is told.
    type Row = (Option<i64>, i64, i64, Option<i64>, &'static [&'static str]);

    fn told(committed: Option<i64>, low: i64, high: i64, young: Option<i64>) -> Vec<String> {
        let topic = TopicFacts { name: "orders".to_owned(), partitions: Vec::new() };
        let progress = [Progress { partition: 3, committed, low, high, young }];
        let mut findings = Findings::default();
        judge("group g", &topic, &progress, Some(Duration::from_secs(500)), "orders", &mut findings);
        findings.0.into_iter().filter(|f| f.level != Level::Ok).map(|f| f.text).collect()
    }

    #[test]
    fn what_is_lost_or_about_to_be_is_told() {
        const EXPIRED: &str = "orders: what was to be read next of the partitions 3 has expired";
        const AGING: &str = "orders: records of the partitions 3 expire within 1m 40s and are not settled";
        let table: [Row; 6] = [
            (Some(10), 0, 10, None, &[]),
            (Some(9), 0, 10, Some(5), &[]),
            (None, 0, 0, None, &[]),
            (Some(4), 0, 10, Some(5), &[AGING]),
            (Some(4), 5, 10, Some(5), &[EXPIRED, AGING]),
            (Some(11), 0, 10, None, &["orders: the partitions 3 end before what is settled: the topic was made anew"]),
        ];
        for (committed, low, high, young, expected) in table {
            assert_eq!(told(committed, low, high, young), expected, "{committed:?} of {low} to {high}");
        }
    }
}

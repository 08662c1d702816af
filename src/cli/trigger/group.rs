//! Where the group of a Kafka trigger is: what is committed of each partition, how far its end is ahead, what was lost.
//!
//! Invariant: brokers that do not answer are a fact that is shown, and the rest is shown all the same. No group is joined.

use serde::Serialize;

use crate::bus::BusKind;
use crate::bus::kafka::{ClusterError, KafkaBus};
use crate::cli::{Context, output};
use crate::store::control::TriggerRow;
use crate::store::{Store, StoreError};
use crate::triggers::spec::{KafkaSpec, TriggerSpec};

use super::gap::GapFacts;

/// Partitions that are shown to people.
const PARTITIONS: usize = 50;

/// A consumer group.
#[derive(Debug, Serialize)]
pub(super) struct GroupFacts {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_error: Option<String>,
    gaps: Vec<GapFacts>,
}

/// What the brokers say.
#[derive(Debug, Serialize)]
struct ClusterFacts {
    /// `Stable`, `Empty`, …; none if they do not say.
    state: Option<String>,
    members: Option<usize>,
    /// Records that are not settled.
    lag: u64,
    partitions: Vec<PartitionFacts>,
}

#[derive(Debug, Serialize)]
struct PartitionFacts {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    low: i64,
    high: i64,
    lag: u64,
}

/// The trigger's specification, if it reads topics.
fn spec(row: &TriggerRow) -> Option<KafkaSpec> {
    match TriggerSpec::parse(&row.kind, &row.spec) {
        Ok(TriggerSpec::Kafka(spec)) => Some(spec),
        _ => None,
    }
}

impl GroupFacts {
    /// Where the group of `row` is; none for another kind of trigger.
    pub(super) async fn of(row: &TriggerRow, store: &Store, context: &Context) -> Result<Option<Self>, StoreError> {
        let Some(spec) = spec(row) else { return Ok(None) };
        let name = spec.group(&row.name);
        let config = context.config().ok().and_then(|config| config.buses.get(&row.bus));
        let (cluster, cluster_error) = match config.filter(|config| config.kind == BusKind::Kafka) {
            None => (None, Some(format!("there is no [bus.{}] in this manifest to ask", row.bus))),
            Some(config) => match ask(KafkaBus::new(&row.bus, config), &spec, &name).await {
                Ok(facts) => (Some(facts), None),
                Err(error) => (None, Some(error.to_string())),
            },
        };
        let gaps = store.gaps(&row.name).await?.into_iter().map(GapFacts::from).collect();
        Ok(Some(Self { name, cluster, cluster_error, gaps }))
    }

    /// Lines below those of the trigger.
    pub(super) fn text(&self) -> String {
        let mut rows = Vec::new();
        match &self.cluster {
            Some(cluster) => cluster.text(&self.name, &mut rows),
            None => rows.push(("group", format!("{}: {}", self.name, self.cluster_error.as_deref().unwrap_or("?")))),
        }
        rows.extend(self.gaps.iter().map(|gap| ("gap", gap.text())));
        output::fields(&rows)
    }
}

async fn ask(bus: Result<KafkaBus, ClusterError>, spec: &KafkaSpec, group: &str) -> Result<ClusterFacts, ClusterError> {
    let bus = bus?;
    let mut partitions = Vec::new();
    for topic in bus.topics().await?.iter().filter(|topic| spec.reads(&topic.name)) {
        for progress in bus.progress(group, topic, None).await? {
            partitions.push(PartitionFacts {
                topic: topic.name.clone(),
                partition: progress.partition,
                committed: progress.committed,
                low: progress.low,
                high: progress.high,
                lag: progress.lag(),
            });
        }
    }
    let facts = bus.group(group).await?;
    Ok(ClusterFacts {
        members: facts.as_ref().map(|facts| facts.members),
        state: facts.map(|facts| facts.state),
        lag: partitions.iter().map(|partition| partition.lag).sum(),
        partitions,
    })
}

impl ClusterFacts {
    fn text(&self, group: &str, rows: &mut Vec<(&'static str, String)>) {
        let state = match (&self.state, self.members) {
            (Some(state), Some(1)) => format!(", {state}, 1 member"),
            (Some(state), Some(members)) => format!(", {state}, {members} members"),
            _ => String::new(),
        };
        rows.push(("group", format!("{group}{state}")));
        rows.push(("lag", format!("{} records in {} partitions", self.lag, self.partitions.len())));
        for facts in self.partitions.iter().take(PARTITIONS) {
            let committed = facts.committed.map_or_else(|| "nothing yet".to_owned(), |offset| offset.to_string());
            let PartitionFacts { topic, partition, low, high, lag, .. } = facts;
            rows.push((
                "partition",
                format!("{topic}/{partition}: committed {committed} of {low} to {high}, {lag} behind"),
            ));
        }
        if let Some(more) = self.partitions.len().checked_sub(PARTITIONS).filter(|more| *more > 0) {
            rows.push(("partition", format!("… and {more} more: --output json shows all")));
        }
    }
}

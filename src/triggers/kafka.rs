//! Kafka: topics, read by a consumer group, committed only behind settled records.
//!
//! Invariant: what is committed of a partition is its first record that is not settled. A position that the partition does
//! not have any more is a gap; nothing is ever reset. All calls to a consumer but its commits come from one thread (`member`),
//! which keeps polling whatever happens, since rebalances are served by polls. The client has one
//! queue for all partitions; what was taken out of it waits in one for each (`ahead`).

mod ahead;
mod commits;
mod group;
mod hand_over;
mod member;
mod note;
mod partition;
mod place;
mod positions;
mod trouble;
mod watch;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::bus::kafka::KafkaBus;

use super::spec::GroupProtocol;
use super::{Context, Failure, KafkaSpec, NoticeKind};

use self::group::Group;
use self::member::Member;

/// Runs the trigger until it is stopped; what is in flight then is still committed when it is settled.
pub(super) async fn run(spec: KafkaSpec, bus: KafkaBus, context: Context) {
    let reader = Reader { spec, bus, context };
    reader.context.keep_reading(|| reader.read()).await;
}

struct Reader {
    spec: KafkaSpec,
    bus: KafkaBus,
    context: Context,
}

impl Reader {
    /// Joins the group and reads until stopped.
    async fn read(&self) -> Result<(), Failure> {
        self.context.wait_for_store().await;
        let cluster = self.bind().await?;
        let group = Arc::new(Group::new(&self.bus, &self.spec, self.context.clone(), &cluster));
        let member = Member::new(self.config(), Arc::clone(&group), self.spec.topics.clone());
        let (ended, end) = oneshot::channel();
        // It outlives the reader: what is in flight is still committed when the trigger was paused or changed.
        self.context.drain.spawn(format!("member of trigger {}", self.context.name), async move {
            let joined = tokio::task::spawn_blocking(move || member.run()).await;
            // Nobody listens any more when the trigger was stopped.
            let _ = ended.send(joined.unwrap_or_else(|error| Err(Failure::again("the member's thread ended", error))));
        });
        let watch = watch::Watch::new(self.bus.clone(), self.spec.clone(), group);
        tokio::select! {
            () = self.context.stop.cancelled() => Ok(()),
            result = end => result.unwrap_or_else(|_| Err(Failure::Again("the member's task ended".to_owned()))),
            () = watch.run() => Ok(()),
        }
    }

    /// The cluster's identity, which must be that of before.
    async fn bind(&self) -> Result<String, Failure> {
        let asked = self.bus.cluster_id().await.map_err(|error| Failure::Again(error.to_string()))?;
        // A cluster that does not say which it is cannot be told from another one.
        let cluster = asked.unwrap_or_default();
        match &self.context.identity {
            Some(known) if *known != cluster && !cluster.is_empty() => {
                let name = &self.context.name;
                let text = format!(
                    "bus \"{}\" is the cluster {cluster} now, and was {known}: the positions are another cluster's; `oncue \
                     trigger resume {name} --accept-gap` goes on by what this one has committed, or by `start`",
                    self.bus.name()
                );
                let recorded = self.context.groups.record_gap(name, None, None, &text).await;
                recorded.map_err(|error| Failure::again("cannot record a gap", error))?;
                Err(Failure::Gap(text))
            }
            Some(_) => Ok(cluster),
            None => {
                self.context.notice(NoticeKind::Bound(cluster.clone())).await;
                Ok(cluster)
            }
        }
    }

    fn config(&self) -> rdkafka::ClientConfig {
        let name = &self.context.name;
        let mut config = self.bus.consumer(&self.spec.group(name), &format!("oncue-{name}"));
        match self.spec.protocol {
            GroupProtocol::Cooperative => config.set("partition.assignment.strategy", "cooperative-sticky"),
            GroupProtocol::Consumer => config.set("group.protocol", "consumer"),
        };
        config
    }
}

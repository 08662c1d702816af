//! What the trigger of a consumer group may see of the tables: the keys that are parked, the partitions that it knows, and
//! its gaps.
//!
//! Invariant: a gap is recorded before its trigger halts, and is accepted by an operator only. The group's commits are the
//! positions; what is kept here of a partition tells that it had one.

use super::{Store, StoreError};

/// Most parked keys that are worth knowing by heart.
const KEYS_MAX: i64 = 100_000;

/// A group, as its partitions are known by.
#[derive(Clone, Copy, Debug)]
pub struct GroupKey<'a> {
    /// The trigger.
    pub trigger: &'a str,
    /// The cluster's id; empty where it does not say.
    pub cluster: &'a str,
    /// The group.
    pub group: &'a str,
}

/// Where a partition was assigned last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPartition {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Everything before it was settled then.
    pub position: i64,
}

/// The groups' part of the store.
#[derive(Clone, Debug)]
pub struct Groups {
    store: Store,
}

impl Groups {
    /// That of `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Rule and key of everything of `trigger` that later events of the key wait for; none if that is too much.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn parked_keys(&self, trigger: &str) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let rows = sqlx::query!(
            r#"select distinct rule, ordering_key as "key!" from oncue.parked
               where trigger = $1 and ordering_key is not null limit $2"#,
            trigger,
            KEYS_MAX + 1
        )
        .fetch_all(&self.store.pool)
        .await?;
        let is_all = i64::try_from(rows.len()).is_ok_and(|count| count <= KEYS_MAX);
        Ok(is_all.then(|| rows.into_iter().map(|row| (row.rule, row.key)).collect()))
    }

    /// The partitions that `group` has begun to read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn known_partitions(&self, group: GroupKey<'_>) -> Result<Vec<KnownPartition>, StoreError> {
        let known = sqlx::query_as!(
            KnownPartition,
            "select topic, partition, position from oncue.group_partitions
             where trigger = $1 and cluster = $2 and group_name = $3",
            group.trigger,
            group.cluster,
            group.group
        )
        .fetch_all(&self.store.pool)
        .await?;
        Ok(known)
    }

    /// Remembers that `group` reads these.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn remember_partitions(
        &self,
        group: GroupKey<'_>,
        partitions: &[KnownPartition],
    ) -> Result<(), StoreError> {
        let topics: Vec<String> = partitions.iter().map(|p| p.topic.clone()).collect();
        let numbers: Vec<i32> = partitions.iter().map(|p| p.partition).collect();
        let positions: Vec<i64> = partitions.iter().map(|p| p.position).collect();
        sqlx::query!(
            "insert into oncue.group_partitions (trigger, cluster, group_name, topic, partition, position)
             select $1, $2, $3, topic, partition, position
             from unnest($4::text[], $5::integer[], $6::bigint[]) as p(topic, partition, position)
             where exists (select from oncue.triggers where name = $1)
             order by topic, partition
             on conflict (trigger, cluster, group_name, topic, partition) do update
             set position = excluded.position, assigned_at = now()",
            group.trigger,
            group.cluster,
            group.group,
            &topics,
            &numbers,
            &positions
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }

    /// Records a gap of `trigger`, once until it is accepted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_gap(
        &self,
        trigger: &str,
        from: Option<&str>,
        to: Option<&str>,
        reason: &str,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "insert into oncue.gaps (trigger, from_position, to_position, reason)
             select $1, $2, $3, $4 where not exists (
                 select from oncue.gaps where trigger = $1 and reason = $4 and from_position is not distinct from $2
                     and accepted_at is null)",
            trigger,
            from,
            to,
            reason
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }

    /// Whether an operator has accepted the gap of `trigger` at `from`, and nobody has gone on behind it yet.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_accepted(&self, trigger: &str, from: &str) -> Result<bool, StoreError> {
        let accepted = sqlx::query_scalar!(
            r#"select exists (select from oncue.gaps where trigger = $1 and from_position = $2
                   and accepted_at is not null and applied_at is null) as "accepted!""#,
            trigger,
            from
        )
        .fetch_one(&self.store.pool)
        .await?;
        Ok(accepted)
    }

    /// Says that the partition whose gap is at `from` goes on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn apply_gap(&self, trigger: &str, from: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.gaps set applied_at = now()
             where trigger = $1 and from_position = $2 and accepted_at is not null and applied_at is null",
            trigger,
            from
        )
        .execute(&self.store.pool)
        .await?;
        Ok(())
    }
}

//! Parked deliveries: claimed for another try by whichever node is free.
//!
//! Invariant: at any moment at most one unexpired claim stands on a row, and of the rows of one ordering key only the
//! oldest can be claimed. No transaction is open while a claimed delivery runs; its token is what settling checks.

use std::time::Duration;

use sqlx::types::Uuid;

use crate::delivery::DeliveryId;

use super::{Store, StoreError};

/// A parked delivery that this node may run until its lease ends.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The delivery.
    pub id: DeliveryId,
    /// Its trigger.
    pub trigger: String,
    /// Its rule.
    pub rule: String,
    /// The pinned function and version; none for a rule that publishes.
    pub function: Option<(String, u32)>,
    /// The event in structured mode.
    pub event: Vec<u8>,
    /// The key of the message at its source.
    pub transport_key: Vec<u8>,
    /// How often it was redriven.
    pub generation: u32,
    /// Set where later events of the key wait.
    pub ordering_key: Option<String>,
    /// Attempts that ran.
    pub attempts: u32,
    /// Processes that died while it ran.
    pub deaths: u32,
    /// From the first attempt to now, by the database's clock.
    pub age: Duration,
    /// What settling must present.
    pub token: Uuid,
    /// Whether its rule is still there.
    pub rule_exists: bool,
    /// Whether it is claimed alone because it may kill the node.
    pub suspect: bool,
}

/// What waits, for metrics and the retry loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParkedSummary {
    /// Rows.
    pub count: i64,
    /// When the next one is due, from now; negative when it is overdue.
    pub next_due_ms: Option<i64>,
    /// Rows of the outbox.
    pub outbox: i64,
    /// Age of the oldest of them.
    pub outbox_seconds: f64,
}

impl Store {
    /// Claims up to `limit` due deliveries for `lease`. Suspects come sixteen at a time; one during which a process has died
    /// is claimed while the node runs no other suspect, so that the next death can be laid at its door.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_parked(&self, node: &str, limit: u32, lease: Duration) -> Result<Vec<Claim>, StoreError> {
        let rows = sqlx::query!(
            r#"with running as (
                   select count(*) as suspects, count(*) filter (where deaths > 0) as killers
                   from oncue.parked where suspect and node = $1 and lease_until >= now()
               ), heads as (
                   -- Of each key only the oldest, however many wait behind it.
                   select rule, ordering_key, min(seq) as seq from oncue.parked
                   where ordering_key is not null group by rule, ordering_key
               ), due as (
                   select p.delivery_id, p.lease_until is not null as died, r.name is not null as rule_exists, p.suspect,
                          p.deaths + (p.lease_until is not null)::int > 0 as killer,
                          row_number() over (partition by p.suspect or p.lease_until is not null,
                              p.deaths + (p.lease_until is not null)::int > 0 order by p.next_at) as place
                   from oncue.parked p left join oncue.rules r on r.name = p.rule
                   left join heads h on h.rule = p.rule and h.ordering_key = p.ordering_key
                   where p.next_at <= now() and (p.lease_until is null or p.lease_until < now())
                     and (r.name is null or r.enabled)
                     and (p.ordering_key is null or p.seq = h.seq)
                   order by p.next_at limit $2
               ), chosen as (
                   select delivery_id, died, rule_exists from due, running
                   where (not suspect and not killer)
                      or (killer and place = 1 and running.suspects = 0)
                      or (suspect and not killer and place + running.suspects <= 16 and running.killers = 0
                          and not exists (select 1 from due k where k.killer and running.suspects = 0))
               ), locked as (
                   select p.delivery_id, c.died, c.rule_exists from oncue.parked p join chosen c using (delivery_id)
                   where p.lease_until is null or p.lease_until < now()
                   for update of p skip locked
               )
               update oncue.parked p set token = gen_random_uuid(), node = $1, deaths = p.deaths + l.died::int,
                   suspect = p.suspect or l.died, lease_until = now() + $3::bigint * interval '1 millisecond'
               from locked l where l.delivery_id = p.delivery_id
               returning p.delivery_id, p.trigger, p.rule, p.function, p.version, p.event, p.transport_key,
                   p.generation, p.ordering_key, p.attempts, p.deaths, p.suspect, p.token as "token!", p.seq,
                   l.rule_exists as "rule_exists!",
                   (extract(epoch from now() - p.first_at) * 1000)::bigint as "age_ms!""#,
            node,
            i64::from(limit),
            i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await?;
        let claims = rows.into_iter().map(|row| Claim {
            id: DeliveryId(row.delivery_id),
            trigger: row.trigger,
            rule: row.rule,
            function: row.function.zip(row.version.map(i32::unsigned_abs)),
            event: row.event,
            transport_key: row.transport_key,
            generation: row.generation.unsigned_abs(),
            ordering_key: row.ordering_key,
            attempts: row.attempts.unsigned_abs(),
            deaths: row.deaths.unsigned_abs(),
            age: Duration::from_millis(row.age_ms.unsigned_abs()),
            token: row.token,
            rule_exists: row.rule_exists,
            suspect: row.suspect,
        });
        Ok(claims.collect())
    }

    /// Gives a claim back unrun, to be tried after `after`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_claim(&self, id: DeliveryId, token: Uuid, after: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.parked set token = null, node = null, lease_until = null,
                 next_at = now() + $3::bigint * interval '1 millisecond'
             where delivery_id = $1 and token = $2",
            id.0,
            token,
            i64::try_from(after.as_millis()).unwrap_or(i64::MAX)
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Moves the ends of claims that still hold to `lease` from now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn renew_claims(&self, tokens: &[Uuid], lease: Duration) -> Result<(), StoreError> {
        sqlx::query!(
            // What is just being settled needs no lease, and must not be waited for: it may hold what this would take next.
            "update oncue.parked set lease_until = now() + $2::bigint * interval '1 millisecond'
             where delivery_id in (select delivery_id from oncue.parked where token = any($1) for update skip locked)",
            tokens,
            i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether a delivery of the key waits, so that later ones must wait behind it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn key_is_parked(&self, rule: &str, key: &str) -> Result<bool, StoreError> {
        let held = sqlx::query_scalar!(
            r#"select exists (select 1 from oncue.parked where rule = $1 and ordering_key = $2) as "held!""#,
            rule,
            super::clean(key)
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(held)
    }

    /// How much is parked, when the next try is due, and how much is in the outbox.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn parked_summary(&self) -> Result<ParkedSummary, StoreError> {
        let row = sqlx::query!(
            r#"select count(*) as "count!",
                   (extract(epoch from min(coalesce(lease_until, next_at)) - now()) * 1000)::bigint as next_due_ms,
                   (select count(*) from oncue.outbox) as "outbox!",
                   (select coalesce(extract(epoch from now() - min(created_at)), 0)::float8 from oncue.outbox)
                       as "outbox_seconds!"
               from oncue.parked"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(ParkedSummary {
            count: row.count,
            next_due_ms: row.next_due_ms,
            outbox: row.outbox,
            outbox_seconds: row.outbox_seconds,
        })
    }
}

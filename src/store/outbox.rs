//! The outbox: events that are committed and not yet published.
//!
//! Invariant: a row is written in the transaction that settles its delivery, and goes when its event was published. One
//! field says both when a lease ends and when the next try is due, so that at any moment one node has a row in hand.

use std::time::Duration;

use sqlx::types::Uuid;

use crate::delivery::DeliveryId;

use super::{Store, StoreError, clean_error};

/// How long a node has for what it committed or claimed. What it has not published by then, another one publishes too,
/// under the same ids.
pub const LEASE: Duration = Duration::from_secs(30);

/// An event on its way out.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// The bus.
    pub bus: String,
    /// The subject.
    pub subject: String,
    /// What the receiver dedupes by.
    pub message_id: String,
    /// The event in structured mode.
    pub event: Vec<u8>,
}

/// The key of a row: the delivery and the event's number in it.
pub type OutboxKey = (DeliveryId, u32);

/// A row that this node may publish until its lease ends.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Which one.
    pub key: OutboxKey,
    /// What.
    pub row: OutboxRow,
}

/// What waits in the outbox, for the doctor.
#[derive(Clone, Debug)]
pub struct OutboxFacts {
    /// Rows.
    pub pending: i64,
    /// Rows that could not be published at least once.
    pub failed: i64,
    /// Age of the oldest.
    pub oldest_seconds: f64,
    /// Why the one that was tried most often was not published.
    pub error: Option<String>,
}

impl Store {
    /// Claims up to `limit` rows that are due, in the order in which they were committed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn claim_outbox(&self, node: &str, limit: u32) -> Result<Vec<Claimed>, StoreError> {
        let rows = sqlx::query!(
            r#"with due as (
                   select delivery_id, place from oncue.outbox where next_at <= now()
                   order by next_at, seq limit $2 for update skip locked
               ), claimed as (
                   update oncue.outbox o set node = $1, next_at = now() + $3::bigint * interval '1 millisecond'
                   from due d where d.delivery_id = o.delivery_id and d.place = o.place
                   returning o.*
               )
               select delivery_id as "delivery_id!", place as "place!", bus as "bus!", subject as "subject!",
                      message_id as "message_id!", event as "event!"
               from claimed order by seq"#,
            node,
            i64::from(limit),
            millis(LEASE)
        )
        .fetch_all(&self.pool)
        .await?;
        let claimed = rows.into_iter().map(|row| Claimed {
            key: (DeliveryId(row.delivery_id), row.place.unsigned_abs()),
            row: OutboxRow { bus: row.bus, subject: row.subject, message_id: row.message_id, event: row.event },
        });
        Ok(claimed.collect())
    }

    /// Removes what was published.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn published(&self, keys: &[OutboxKey]) -> Result<(), StoreError> {
        let (ids, places) = split(keys);
        sqlx::query!(
            "delete from oncue.outbox o using unnest($1::uuid[], $2::int[]) as c(id, place)
             where o.delivery_id = c.id and o.place = c.place",
            &ids,
            &places
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Keeps what could not be published, each with why, for later: the longer, the more often it was tried.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn not_published(&self, failures: &[(OutboxKey, String)]) -> Result<(), StoreError> {
        let keys: Vec<OutboxKey> = failures.iter().map(|(key, _)| *key).collect();
        let (ids, places) = split(&keys);
        let errors: Vec<String> = failures.iter().map(|(_, error)| clean_error(error)).collect();
        sqlx::query!(
            "update oncue.outbox o set attempts = o.attempts + 1, error = c.error,
                 next_at = now() + least(60, power(2, least(o.attempts, 10))) * (0.5 + random() / 2) * interval '1 second'
             from unnest($1::uuid[], $2::int[], $3::text[]) as c(id, place, error)
             where o.delivery_id = c.id and o.place = c.place",
            &ids,
            &places,
            &errors
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What waits in the outbox.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn outbox_facts(&self) -> Result<OutboxFacts, StoreError> {
        Ok(sqlx::query_as!(
            OutboxFacts,
            r#"select count(*) as "pending!", count(*) filter (where attempts > 0) as "failed!",
                      coalesce(extract(epoch from now() - min(created_at)), 0)::float8 as "oldest_seconds!",
                      (select error from oncue.outbox order by attempts desc, seq limit 1) as error
               from oncue.outbox"#
        )
        .fetch_one(&self.pool)
        .await?)
    }
}

fn split(keys: &[OutboxKey]) -> (Vec<Uuid>, Vec<i32>) {
    keys.iter().map(|(id, place)| (id.0, i32::try_from(*place).unwrap_or(i32::MAX))).unzip()
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

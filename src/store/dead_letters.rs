//! Reads dead letters, drops them and drives them again.
//!
//! Invariant: a dead letter becomes `redriven` in the transaction that parks what it became, and only once: a second
//! call finds it redriven and does nothing. What a redrive runs is decided by the caller; nothing here decodes events.

use serde::Serialize;
use sqlx::types::time::OffsetDateTime;
use uuid::Uuid;

use super::{Store, StoreError, clean};

/// Which dead letters; an empty filter takes all of any state.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// These only.
    pub ids: Option<Vec<Uuid>>,
    /// `dead`, `redriven`, `dropped`.
    pub state: Option<String>,
    /// The rule.
    pub rule: Option<String>,
    /// The trigger.
    pub trigger: Option<String>,
    /// The class; `limit` takes every `limit:…` too.
    pub class: Option<String>,
    /// The function.
    pub function: Option<String>,
    /// Died then or later.
    pub since: Option<OffsetDateTime>,
}

/// A dead letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetterRow {
    /// The delivery's id.
    pub id: Uuid,
    /// `failed` or `rejected`.
    pub kind: String,
    /// Where it came in.
    pub trigger: String,
    /// The rule; none when rejected.
    pub rule: Option<String>,
    /// What ran.
    pub function: Option<String>,
    /// Its version.
    pub version: Option<i32>,
    /// The event's `id`.
    pub event_id: Option<String>,
    /// The event's `type`.
    pub event_type: Option<String>,
    /// Why it died.
    pub class: String,
    /// The last error.
    pub error: String,
    /// Attempts that ran.
    pub tries: i32,
    /// Bytes kept.
    pub bytes: i32,
    /// When it died.
    #[serde(with = "time::serde::rfc3339")]
    pub dead_at: OffsetDateTime,
    /// `dead`, `redriven`, `dropped`.
    pub state: String,
    /// The delivery that it became.
    pub redriven_as: Option<Uuid>,
}

/// A dead letter with everything that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What the list shows.
    pub row: DeadLetterRow,
    /// SHA-256 of the component that ran.
    pub digest: Option<Vec<u8>>,
    /// The event in structured mode; for a rejected message its bytes as they came.
    pub raw: Vec<u8>,
    /// JSON list of `[name, value]`.
    pub headers: Vec<u8>,
    /// What the source knows the message by.
    pub transport_key: Vec<u8>,
    /// Redrives before this one.
    pub generation: i32,
    /// The value that orders it.
    pub ordering_key: Option<String>,
    /// Every attempt.
    pub attempts: serde_json::Value,
}

/// What one dead letter becomes.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// The dead letter.
    pub id: Uuid,
    /// The deliveries to park: one for a failed delivery, one for each matching rule for a rejected message.
    pub deliveries: Vec<RedriveDelivery>,
}

/// A delivery that a redrive parks.
#[derive(Clone, Debug)]
pub struct RedriveDelivery {
    /// Its id, of the next generation.
    pub delivery_id: Uuid,
    /// The trigger of the event.
    pub trigger: String,
    /// The rule.
    pub rule: String,
    /// What runs, and its version; none for a rule that publishes.
    pub function: Option<(String, i32)>,
    /// The event in structured mode.
    pub event: Vec<u8>,
    /// As the dead letter has it.
    pub transport_key: Vec<u8>,
    /// Redrives so far, this one included.
    pub generation: i32,
    /// The value that orders it.
    pub ordering_key: Option<String>,
    /// From now to its start.
    pub after_ms: i64,
}

impl Store {
    /// Dead letters of `filter`: the newest `limit` first, or the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        oldest_first: bool,
        limit: i64,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let f = filter;
        Ok(sqlx::query_as!(
            DeadLetterRow,
            r#"select id, kind, trigger, rule, function, version, event_id, event_type, class, error,
                      jsonb_array_length(attempts) as "tries!", length(raw) as "bytes!", dead_at, state, redriven_as
               from oncue.dead_letters
               where ($1::uuid[] is null or id = any($1)) and ($2::text is null or state = $2)
                 and ($3::text is null or rule = $3) and ($4::text is null or trigger = $4)
                 and ($5::text is null or class = $5 or split_part(class, ':', 1) = $5)
                 and ($6::text is null or function = $6) and ($7::timestamptz is null or dead_at >= $7)
               order by case when $8 then id end, dead_at desc, id limit $9"#,
            f.ids.as_deref(),
            f.state.as_deref(),
            f.rule.as_deref(),
            f.trigger.as_deref(),
            f.class.as_deref(),
            f.function.as_deref(),
            f.since,
            oldest_first,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// One dead letter whole.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub async fn dead_letter(&self, id: Uuid) -> Result<DeadLetter, StoreError> {
        let row = sqlx::query!(
            r#"select kind, trigger, rule, function, version, event_id, event_type, class, error, dead_at, state,
                      redriven_as, digest, raw, headers, transport_key, generation, ordering_key, attempts,
                      jsonb_array_length(attempts) as "tries!", length(raw) as "bytes!"
               from oncue.dead_letters where id = $1"#,
            id
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| StoreError::Missing { kind: "dead letter", name: id.to_string() })?;
        Ok(DeadLetter {
            row: DeadLetterRow {
                id,
                kind: row.kind,
                trigger: row.trigger,
                rule: row.rule,
                function: row.function,
                version: row.version,
                event_id: row.event_id,
                event_type: row.event_type,
                class: row.class,
                error: row.error,
                tries: row.tries,
                bytes: row.bytes,
                dead_at: row.dead_at,
                state: row.state,
                redriven_as: row.redriven_as,
            },
            digest: row.digest,
            raw: row.raw,
            headers: row.headers,
            transport_key: row.transport_key,
            generation: row.generation,
            ordering_key: row.ordering_key,
            attempts: row.attempts,
        })
    }

    /// Parks what `batch` becomes and marks its dead letters, in one transaction. Gives the dead letters that were
    /// still dead; the others were redriven or dropped by somebody else and nothing was parked for them.
    ///
    /// # Errors
    /// Those of the database; nothing of the batch happened then.
    pub async fn redrive(&self, batch: &[Redrive]) -> Result<Vec<Uuid>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let ids: Vec<Uuid> = batch.iter().map(|r| r.id).collect();
        let alive = sqlx::query_scalar!(
            "select id from oncue.dead_letters where id = any($1) and state = 'dead' order by id for update",
            &ids
        )
        .fetch_all(&mut *tx)
        .await?;
        let taken: Vec<&Redrive> = batch.iter().filter(|r| alive.contains(&r.id)).collect();
        park(&mut tx, &taken).await?;
        let first: Vec<Option<Uuid>> = taken.iter().map(|r| r.deliveries.first().map(|d| d.delivery_id)).collect();
        let taken: Vec<Uuid> = taken.iter().map(|r| r.id).collect();
        sqlx::query!(
            "update oncue.dead_letters d set state = 'redriven', redriven_as = u.successor
             from unnest($1::uuid[], $2::uuid[]) as u(id, successor) where d.id = u.id",
            &taken,
            &first as &[Option<Uuid>]
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Marks those of `ids` that are dead as dropped and gives their number; their bytes stay until retention.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn drop_dead_letters(&self, ids: &[Uuid]) -> Result<u64, StoreError> {
        let done =
            sqlx::query!("update oncue.dead_letters set state = 'dropped' where id = any($1) and state = 'dead'", ids)
                .execute(&self.pool)
                .await?;
        Ok(done.rows_affected())
    }
}

/// One statement, in the order of the batch: `seq` of an ordering key follows it.
async fn park(tx: &mut sqlx::Transaction<'static, sqlx::Postgres>, batch: &[&Redrive]) -> Result<(), StoreError> {
    let all: Vec<&RedriveDelivery> = batch.iter().flat_map(|r| &r.deliveries).collect();
    let ids: Vec<Uuid> = all.iter().map(|d| d.delivery_id).collect();
    let triggers: Vec<String> = all.iter().map(|d| d.trigger.clone()).collect();
    let rules: Vec<String> = all.iter().map(|d| d.rule.clone()).collect();
    let functions: Vec<Option<String>> = all.iter().map(|d| d.function.as_ref().map(|f| f.0.clone())).collect();
    let versions: Vec<Option<i32>> = all.iter().map(|d| d.function.as_ref().map(|f| f.1)).collect();
    let events: Vec<Vec<u8>> = all.iter().map(|d| d.event.clone()).collect();
    let keys: Vec<Vec<u8>> = all.iter().map(|d| d.transport_key.clone()).collect();
    let generations: Vec<i32> = all.iter().map(|d| d.generation).collect();
    let ordering: Vec<Option<String>> = all.iter().map(|d| d.ordering_key.as_deref().map(clean)).collect();
    let after: Vec<i64> = all.iter().map(|d| d.after_ms).collect();
    sqlx::query!(
        "insert into oncue.parked (delivery_id, trigger, rule, function, version, event, transport_key, generation,
                                   ordering_key, class, next_at)
         select id, trigger, rule, function, version, event, key, generation, ordering_key, 'redrive',
                now() + after_ms * interval '1 millisecond'
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bytea[], $7::bytea[], $8::int[],
                     $9::text[], $10::bigint[]) with ordinality
              as u(id, trigger, rule, function, version, event, key, generation, ordering_key, after_ms, place)
         order by place
         on conflict (delivery_id) do nothing",
        &ids,
        &triggers,
        &rules,
        &functions as &[Option<String>],
        &versions as &[Option<i32>],
        &events,
        &keys,
        &generations,
        &ordering as &[Option<String>],
        &after
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

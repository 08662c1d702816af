//! Writes triggers.
//!
//! Invariant: writing a trigger's row keeps its state: a paused one stays paused, a gap is not forgotten. The source
//! that it was bound to is forgotten when it is given another one.

use super::apply::Tx;
use super::recorded::Recording;
use super::{Store, StoreError};

/// A trigger to be.
#[derive(Clone, Debug, PartialEq)]
pub struct TriggerWrite {
    /// Unique.
    pub name: String,
    /// The bus.
    pub bus: String,
    /// `nats`, `jetstream`, ….
    pub kind: String,
    /// What the kind needs.
    pub spec: serde_json::Value,
    /// What is recorded of its events.
    pub recording: Recording,
}

impl Store {
    /// Sets the state of a trigger to `active` or `paused`, and gives the one that it had. Out of a gap, the source
    /// that it was bound to is forgotten, so that it binds to the one that is there.
    ///
    /// # Errors
    /// `Missing` when there is no such trigger.
    pub async fn set_trigger_state(&self, name: &str, state: &str) -> Result<String, StoreError> {
        let before = sqlx::query_scalar!(
            "update oncue.triggers t set state = $2, error = case when $2 = 'active' then null else t.error end,
                 identity = case when b.state = 'gap' then null else t.identity end
             from (select name, state from oncue.triggers where name = $1 for update) b
             where t.name = b.name returning b.state",
            name,
            state
        )
        .fetch_optional(&self.pool)
        .await?;
        before.ok_or_else(|| StoreError::Missing { kind: "trigger", name: name.to_owned() })
    }
}

pub(super) async fn write_trigger(tx: &mut Tx, trigger: &TriggerWrite) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into oncue.triggers as t (name, bus, kind, spec, record, record_for_ms) values ($1, $2, $3, $4, $5, $6)
         on conflict (name) do update set bus = excluded.bus, kind = excluded.kind, spec = excluded.spec, error = null,
             record = excluded.record, record_for_ms = excluded.record_for_ms,
             identity = case when (t.bus, t.kind, t.spec -> 'stream') is distinct from
                                  (excluded.bus, excluded.kind, excluded.spec -> 'stream')
                             then null else t.identity end",
        trigger.name,
        trigger.bus,
        trigger.kind,
        trigger.spec,
        trigger.recording.what.name(),
        i64::try_from(trigger.recording.keep.as_millis()).unwrap_or(i64::MAX)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn delete_trigger(tx: &mut Tx, name: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from oncue.triggers where name = $1", name).execute(&mut **tx).await?;
    Ok(())
}

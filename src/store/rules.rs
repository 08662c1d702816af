//! Writes rules.
//!
//! Invariant: a row that was written has no error until a node finds one.

use std::time::Duration;

use crate::rules::{OnFailure, Rule, Target};

use super::apply::Tx;
use super::{Store, StoreError};

impl Store {
    /// Sets whether a rule matches at all, and gives what it was before.
    ///
    /// # Errors
    /// `Missing` when there is no such rule.
    pub async fn set_rule_enabled(&self, name: &str, enabled: bool) -> Result<bool, StoreError> {
        let before = sqlx::query_scalar!(
            "update oncue.rules r set enabled = $2 from (select name, enabled from oncue.rules where name = $1 for update) b
             where r.name = b.name returning b.enabled",
            name,
            enabled
        )
        .fetch_optional(&self.pool)
        .await?;
        before.ok_or_else(|| StoreError::Missing { kind: "rule", name: name.to_owned() })
    }

    /// Deletes a rule. Deliveries of it that wait become void.
    ///
    /// # Errors
    /// `Missing` when there is no such rule.
    pub async fn remove_rule(&self, name: &str) -> Result<(), StoreError> {
        let done = sqlx::query!("delete from oncue.rules where name = $1", name).execute(&self.pool).await?;
        match done.rows_affected() {
            0 => Err(StoreError::Missing { kind: "rule", name: name.to_owned() }),
            _ => Ok(()),
        }
    }

    /// The rules that have matched nothing, as far as usage, what is parked and what is dead reach back.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn never_matched(&self) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar!(
            "select name from oncue.rules r
             where not exists (select from oncue.usage u where u.rule = r.name)
               and not exists (select from oncue.parked p where p.rule = r.name)
               and not exists (select from oncue.dead_letters d where d.rule = r.name)
             order by r.name collate \"C\""
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

pub(super) async fn delete_rule(tx: &mut Tx, name: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from oncue.rules where name = $1", name).execute(&mut **tx).await?;
    Ok(())
}

/// Writes every column of a rule's row.
pub(super) async fn write_rule(tx: &mut Tx, rule: &Rule) -> Result<(), StoreError> {
    let (run, version, publish) = match &rule.target {
        Target::Run { function, version } => (Some(function), version.map(integer), None),
        Target::Publish { bus, subject } => (None, None, Some(format!("{bus}/{subject}"))),
    };
    let on_failure = if rule.on_failure == OnFailure::Skip { "skip" } else { "park_key" };
    let rate = rule.rate.as_ref();
    sqlx::query!(
        "insert into oncue.rules (name, trigger, pattern, match_all, run, run_version, publish, input, ordering_key,
             on_failure, retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, rate_per_second, rate_key,
             enabled)
         values ($1, $2, $3::text::json, $3::text is null, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         on conflict (name) do update set trigger = excluded.trigger, pattern = excluded.pattern,
             match_all = excluded.match_all, run = excluded.run, run_version = excluded.run_version,
             publish = excluded.publish, input = excluded.input, ordering_key = excluded.ordering_key,
             on_failure = excluded.on_failure, retry_max_attempts = excluded.retry_max_attempts,
             retry_base_ms = excluded.retry_base_ms, retry_cap_ms = excluded.retry_cap_ms,
             retry_max_age_ms = excluded.retry_max_age_ms, rate_per_second = excluded.rate_per_second,
             rate_key = excluded.rate_key, enabled = excluded.enabled, error = null, cost = null",
        rule.name,
        rule.trigger,
        rule.pattern,
        run,
        version,
        publish,
        rule.input,
        rule.ordering_key,
        on_failure,
        integer(rule.retry.max_attempts),
        millis(rule.retry.base),
        millis(rule.retry.cap),
        millis(rule.retry.max_age),
        rate.map(|r| integer(r.per_second)),
        rate.and_then(|r| r.key.as_deref()),
        rule.enabled
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

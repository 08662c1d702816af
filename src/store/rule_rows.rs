//! Reads rules, all of them or those that changed, and writes what the nodes say of them.
//!
//! Invariant: what is not read because it did not change was read before, in a snapshot in which the transaction that
//! changed it last is visible.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::types::time::OffsetDateTime;

use crate::retry::RetryPolicy;
use crate::rules::{OnFailure, Rate, Rule, Target};

use super::control::{RuleRow, Tx};
use super::{Store, StoreError};

/// What the nodes say of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is left out.
    pub error: Option<String>,
    /// How many comparisons an event may need.
    pub cost: Option<i64>,
}

impl Verdict {
    /// As it is written: an error that cannot be stored as it is is mended.
    #[must_use]
    pub fn new(error: Option<&str>, cost: Option<u64>) -> Self {
        let cost = cost.map(|cost| i64::try_from(cost).unwrap_or(i64::MAX));
        Self { error: error.map(super::clean_error), cost }
    }
}

/// A row as it stands.
struct Raw {
    name: String,
    trigger: Option<String>,
    pattern: Option<String>,
    run: Option<String>,
    run_version: Option<i32>,
    publish: Option<String>,
    input: Option<String>,
    ordering_key: Option<String>,
    on_failure: String,
    retry_max_attempts: i32,
    retry_base_ms: i64,
    retry_cap_ms: i64,
    retry_max_age_ms: i64,
    rate_per_second: Option<i32>,
    rate_key: Option<String>,
    enabled: bool,
    error: Option<String>,
    cost: Option<i64>,
    created_at: OffsetDateTime,
}

impl Raw {
    /// None for a row that the constraint `rules_run_or_publish` does not let in.
    fn row(self) -> Option<RuleRow> {
        let millis = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        let target = match (self.run, self.publish) {
            (Some(function), _) => Target::Run { function, version: self.run_version.map(i32::unsigned_abs) },
            (None, Some(target)) => {
                let (bus, subject) = target.split_once('/')?;
                Target::Publish { bus: bus.to_owned(), subject: subject.to_owned() }
            }
            (None, None) => return None,
        };
        let rule = Rule {
            name: self.name,
            trigger: self.trigger,
            pattern: self.pattern,
            target,
            input: self.input,
            ordering_key: self.ordering_key,
            on_failure: if self.on_failure == "skip" { OnFailure::Skip } else { OnFailure::ParkKey },
            retry: RetryPolicy {
                max_attempts: self.retry_max_attempts.unsigned_abs(),
                base: millis(self.retry_base_ms),
                cap: millis(self.retry_cap_ms),
                max_age: millis(self.retry_max_age_ms),
            },
            rate: self.rate_per_second.map(|n| Rate { per_second: n.unsigned_abs(), key: self.rate_key }),
            enabled: self.enabled,
        };
        Some(RuleRow { rule, error: self.error, cost: self.cost, created_at: self.created_at })
    }
}

/// All rules, by name.
pub(super) async fn all(tx: &mut Tx) -> Result<Vec<RuleRow>, StoreError> {
    let rows = sqlx::query_as!(
        Raw,
        "select name, trigger, pattern::text as pattern, run, run_version, publish, input, ordering_key, on_failure,
             retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, rate_per_second, rate_key,
             enabled, error, cost, created_at
         from oncue.rules
         order by name"
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().filter_map(Raw::row).collect())
}

/// The rules that were changed by transactions that are not visible in the snapshot `before`, by name.
pub(super) async fn since(tx: &mut Tx, before: &str) -> Result<Vec<RuleRow>, StoreError> {
    let rows = sqlx::query_as!(
        Raw,
        "select name, trigger, pattern::text as pattern, run, run_version, publish, input, ordering_key, on_failure,
             retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, rate_per_second, rate_key,
             enabled, error, cost, created_at
         from oncue.rules
         where changed_in >= pg_snapshot_xmin($1::text::pg_snapshot)
             and not pg_visible_in_snapshot(changed_in, $1::text::pg_snapshot)
         order by name",
        before
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().filter_map(Raw::row).collect())
}

/// How many rules there are.
pub(super) async fn count(tx: &mut Tx) -> Result<usize, StoreError> {
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from oncue.rules"#).fetch_one(&mut **tx).await?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// The names of all rules.
pub(super) async fn names(tx: &mut Tx) -> Result<HashSet<String>, StoreError> {
    Ok(sqlx::query_scalar!("select name from oncue.rules").fetch_all(&mut **tx).await?.into_iter().collect())
}

impl Store {
    /// Writes what the nodes say of these rules.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_rule_verdicts(&self, verdicts: &[(String, Verdict)]) -> Result<(), StoreError> {
        let names: Vec<String> = verdicts.iter().map(|(name, _)| name.clone()).collect();
        let errors: Vec<Option<String>> = verdicts.iter().map(|(_, verdict)| verdict.error.clone()).collect();
        let costs: Vec<Option<i64>> = verdicts.iter().map(|(_, verdict)| verdict.cost).collect();
        sqlx::query!(
            "update oncue.rules r set error = v.error, cost = v.cost
             from unnest($1::text[], $2::text[], $3::bigint[]) as v(name, error, cost)
             where v.name = r.name and (r.error, r.cost) is distinct from (v.error, v.cost)",
            &names,
            &errors as &[Option<String>],
            &costs as &[Option<i64>]
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

//! Reads the control plane: functions, triggers and rules as one consistent picture.
//!
//! Invariant: all of a `ControlPlane` comes from one snapshot of the database. A row that cannot be read is given with
//! its error and does not hide the others.

use std::time::Duration;

use sqlx::types::time::OffsetDateTime;

use crate::function::{FunctionSpec, hex};
use crate::retry::RetryPolicy;
use crate::rules::{OnFailure, Rate, Rule, Target};

use super::recorded::{Recording, What};
use super::{Store, StoreError};

/// A version of a function, without its component.
#[derive(Clone, Debug)]
pub struct FunctionVersion {
    /// The function.
    pub function: String,
    /// Counted from 1.
    pub version: u32,
    /// SHA-256 of the component.
    pub digest: Vec<u8>,
    /// Limits, grants, configuration.
    pub spec: FunctionSpec,
    /// Whether rules without a version run this one.
    pub current: bool,
    /// When it was deployed.
    pub created_at: OffsetDateTime,
}

/// A trigger as its row says; `spec` is read by `triggers`.
#[derive(Clone, Debug, PartialEq)]
pub struct TriggerRow {
    /// Unique.
    pub name: String,
    /// The bus.
    pub bus: String,
    /// `nats`, `jetstream`, ….
    pub kind: String,
    /// What the kind needs.
    pub spec: serde_json::Value,
    /// `active`, `paused` or `gap`.
    pub state: String,
    /// What is wrong with it, as a node found.
    pub error: Option<String>,
    /// Which source it was bound to.
    pub identity: Option<String>,
    /// `none`, `matched` or `all`: which of its events are recorded.
    pub record: String,
    /// For how long.
    pub record_for_ms: i64,
}

impl TriggerRow {
    /// What it records.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording {
            what: What::named(&self.record).unwrap_or_default(),
            keep: Duration::from_millis(self.record_for_ms.unsigned_abs()),
        }
    }
}

/// A rule's row with what the nodes say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRow {
    /// The rule.
    pub rule: Rule,
    /// Why the nodes leave it out.
    pub error: Option<String>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// Functions, triggers and rules of one moment.
#[derive(Clone, Debug, Default)]
pub struct ControlPlane {
    /// Raised by every change.
    pub version: i64,
    /// By name and version.
    pub functions: Vec<FunctionVersion>,
    /// By name.
    pub triggers: Vec<TriggerRow>,
    /// By name.
    pub rules: Vec<RuleRow>,
    /// Function versions that could not be read, with the reason.
    pub unreadable: Vec<(String, u32, String)>,
}

impl Store {
    /// The version of the control plane.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ruleset_version(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar!("select version from oncue.ruleset").fetch_one(&self.pool).await?)
    }

    /// Reads the control plane.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn control_plane(&self) -> Result<ControlPlane, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *tx).await?;
        let version = sqlx::query_scalar!("select version from oncue.ruleset").fetch_one(&mut *tx).await?;
        let (functions, unreadable) = functions(&mut tx).await?;
        let triggers = sqlx::query_as!(
            TriggerRow,
            "select name, bus, kind, spec, state, error, identity, record, record_for_ms from oncue.triggers order by name"
        )
        .fetch_all(&mut *tx)
        .await?;
        let rules = rules(&mut tx).await?;
        tx.commit().await?;
        Ok(ControlPlane { version, functions, triggers, rules, unreadable })
    }

    /// The component of a digest.
    ///
    /// # Errors
    /// `Missing` when there is none.
    pub async fn component(&self, digest: &[u8]) -> Result<Vec<u8>, StoreError> {
        sqlx::query_scalar!("select bytes from oncue.components where digest = $1", digest)
            .fetch_optional(&self.pool)
            .await?
            .ok_or_else(|| StoreError::Missing { kind: "component", name: hex(digest) })
    }

    /// Writes what the nodes found wrong with rules: each named rule gets its error, every other one none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_rule_errors(&self, errors: &[(String, String)]) -> Result<(), StoreError> {
        let names: Vec<String> = errors.iter().map(|(n, _)| n.clone()).collect();
        let texts: Vec<String> = errors.iter().map(|(_, e)| super::clean_error(e)).collect();
        sqlx::query!(
            "update oncue.rules r set error = e.error
             from (select r2.name, u.error from oncue.rules r2
                   left join unnest($1::text[], $2::text[]) as u(name, error) on u.name = r2.name) e
             where e.name = r.name and r.error is distinct from e.error",
            &names,
            &texts
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Writes what a node found wrong with a trigger, or that nothing is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_trigger_error(&self, name: &str, error: Option<&str>) -> Result<(), StoreError> {
        let error = error.map(super::clean_error);
        sqlx::query!(
            "update oncue.triggers set error = $2 where name = $1 and error is distinct from $2",
            name,
            error.as_deref()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Remembers which source a trigger is bound to.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_trigger_identity(&self, name: &str, identity: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.triggers set identity = $2 where name = $1 and identity is distinct from $2",
            name,
            identity
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Halts a trigger whose source lost what was not read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_trigger_gap(&self, name: &str, error: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.triggers set state = 'gap', error = $2 where name = $1 and state = 'active'",
            name,
            super::clean_error(error)
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

async fn functions(tx: &mut Tx) -> Result<(Vec<FunctionVersion>, Vec<(String, u32, String)>), StoreError> {
    let rows = sqlx::query!(
        r#"select v.function, v.version, v.digest, v.spec, v.created_at, f.current_version = v.version as "current!"
           from oncue.function_versions v join oncue.functions f on f.name = v.function order by 1, 2"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let mut readable = Vec::with_capacity(rows.len());
    let mut unreadable = Vec::new();
    for row in rows {
        let version = row.version.unsigned_abs();
        match serde_json::from_value(row.spec) {
            Ok(spec) => readable.push(FunctionVersion {
                function: row.function,
                version,
                digest: row.digest,
                spec,
                current: row.current,
                created_at: row.created_at,
            }),
            Err(error) => unreadable.push((row.function, version, error.to_string())),
        }
    }
    Ok((readable, unreadable))
}

async fn rules(tx: &mut Tx) -> Result<Vec<RuleRow>, StoreError> {
    let rows = sqlx::query!(
        r#"select name, trigger, pattern::text as pattern, run, run_version, publish, input, ordering_key, on_failure,
                  retry_max_attempts, retry_base_ms, retry_cap_ms, retry_max_age_ms, rate_per_second, rate_key,
                  enabled, error, created_at
           from oncue.rules order by name"#
    )
    .fetch_all(&mut **tx)
    .await?;
    let millis = |ms: i64| Duration::from_millis(ms.unsigned_abs());
    let rows = rows.into_iter().filter_map(|row| {
        let target = match (row.run, row.publish) {
            (Some(function), _) => Target::Run { function, version: row.run_version.map(i32::unsigned_abs) },
            (None, Some(target)) => {
                let (bus, subject) = target.split_once('/')?;
                Target::Publish { bus: bus.to_owned(), subject: subject.to_owned() }
            }
            // The constraint rules_run_or_publish does not let such a row in.
            (None, None) => return None,
        };
        let rule = Rule {
            name: row.name,
            trigger: row.trigger,
            pattern: row.pattern,
            target,
            input: row.input,
            ordering_key: row.ordering_key,
            on_failure: if row.on_failure == "skip" { OnFailure::Skip } else { OnFailure::ParkKey },
            retry: RetryPolicy {
                max_attempts: row.retry_max_attempts.unsigned_abs(),
                base: millis(row.retry_base_ms),
                cap: millis(row.retry_cap_ms),
                max_age: millis(row.retry_max_age_ms),
            },
            rate: row.rate_per_second.map(|n| Rate { per_second: n.unsigned_abs(), key: row.rate_key }),
            enabled: row.enabled,
        };
        Some(RuleRow { rule, error: row.error, created_at: row.created_at })
    });
    Ok(rows.collect())
}

//! Reads the control plane: functions, triggers and rules as one consistent picture.
//!
//! Invariant: all of a `ControlPlane` comes from one snapshot of the database. A row that cannot be read is given with
//! its error and does not hide the others.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::types::time::OffsetDateTime;

use crate::function::{FunctionSpec, hex};
use crate::rules::Rule;

use super::recorded::{Recording, What};
use super::{Store, StoreError, rule_rows};

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
    /// How many comparisons an event may need, as a node said.
    pub cost: Option<i64>,
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
    /// By name: all of them, or those that changed.
    pub rules: Vec<RuleRow>,
    /// The snapshot that all of it was read in, for [`Store::control_plane_since`].
    pub snapshot: String,
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
        let mut tx = self.snapshot().await?;
        let mut plane = all_but_rules(&mut tx).await?;
        plane.rules = rule_rows::all(&mut tx).await?;
        tx.commit().await?;
        Ok(plane)
    }

    /// Reads the control plane, but of the rules only those that changed since `before` was read, and the names of those
    /// that are gone. `known` says which rules there were, `count` how many.
    ///
    /// It must be the same server: another one counts its transactions differently.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn control_plane_since(
        &self,
        before: &str,
        known: &(impl Fn(&str) -> bool + Sync),
        count: usize,
    ) -> Result<(ControlPlane, NotGone), StoreError> {
        let mut tx = self.snapshot().await?;
        let mut plane = all_but_rules(&mut tx).await?;
        plane.rules = rule_rows::since(&mut tx, before).await?;
        let new = plane.rules.iter().filter(|row| !known(&row.rule.name)).count();
        let there = if rule_rows::count(&mut tx).await? == count + new {
            NotGone::All
        } else {
            NotGone::Only(rule_rows::names(&mut tx).await?)
        };
        tx.commit().await?;
        Ok((plane, there))
    }

    async fn snapshot(&self) -> Result<Tx, StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!("set transaction isolation level repeatable read, read only").execute(&mut *tx).await?;
        Ok(tx)
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

/// Which of the rules that were known are still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotGone {
    /// All of them.
    All,
    /// Only those among these.
    Only(HashSet<String>),
}

pub(super) type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

async fn all_but_rules(tx: &mut Tx) -> Result<ControlPlane, StoreError> {
    let row = sqlx::query!(r#"select version, pg_current_snapshot()::text as "snapshot!" from oncue.ruleset"#)
        .fetch_one(&mut **tx)
        .await?;
    let (functions, unreadable) = functions(tx).await?;
    let triggers = sqlx::query_as!(
        TriggerRow,
        "select name, bus, kind, spec, state, error, identity, record, record_for_ms from oncue.triggers order by name"
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(ControlPlane {
        version: row.version,
        functions,
        triggers,
        rules: Vec::new(),
        snapshot: row.snapshot,
        unreadable,
    })
}

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

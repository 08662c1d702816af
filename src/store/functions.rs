//! Writes components, functions and their versions; reads what `function logs` shows.
//!
//! Invariant: a version is never changed: a deployment adds one or finds that the same is there. A function and its
//! first version come and go together.

use std::collections::BTreeMap;

use sqlx::types::time::OffsetDateTime;
use sqlx::types::{Json, Uuid};

use crate::function::FunctionSpec;

use super::apply::Tx;
use super::{Store, StoreError};

/// A version of a function to be.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The function; created if it is not there.
    pub function: String,
    /// The component.
    pub component: Vec<u8>,
    /// SHA-256 of the component.
    pub digest: Vec<u8>,
    /// Limits, grants, configuration.
    pub spec: FunctionSpec,
    /// Whether rules without a version run it from now on; always so for a first version.
    pub promote: bool,
}

/// What a function logged in one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// The delivery.
    pub delivery_id: Uuid,
    /// Counted from 1.
    pub attempt: i32,
    /// The rule; none if the ledger's row is gone.
    pub rule: Option<String>,
    /// The version that ran.
    pub version: Option<i32>,
    /// How it ended.
    pub outcome: Option<String>,
    /// When it began.
    pub started_at: Option<OffsetDateTime>,
    /// A JSON list of [level, message].
    pub lines: String,
    /// Bytes that were dropped above the limit.
    pub dropped: i64,
}

impl Store {
    /// Lets rules without a version run `version` of `function`.
    ///
    /// # Errors
    /// `Missing` when there is no such function or version.
    pub async fn promote(&self, function: &str, version: u32) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        promote(&mut tx, function, version).await?;
        Ok(tx.commit().await?)
    }

    /// Bytes of the components of `function`, by version.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn component_sizes(&self, function: &str) -> Result<BTreeMap<u32, i64>, StoreError> {
        let rows = sqlx::query!(
            r#"select v.version, length(c.bytes)::bigint as "bytes!"
               from oncue.function_versions v join oncue.components c using (digest) where v.function = $1"#,
            function
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.version.unsigned_abs(), row.bytes)).collect())
    }

    /// What `function` logged since `since`, the newest `limit` attempts, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn function_logs(
        &self,
        function: &str,
        since: Option<OffsetDateTime>,
        limit: u32,
    ) -> Result<Vec<LogRow>, StoreError> {
        let rows = sqlx::query_as!(
            LogRow,
            r#"select g.delivery_id, g.attempt, l.rule as "rule?", l.version, l.outcome as "outcome?",
                      l.started_at as "started_at?", g.lines, g.dropped
               from oncue.logs g left join oncue.ledger l using (delivery_id, attempt)
               where g.function = $1 and g.delivery_id >= coalesce(oncue.delivery_floor($2), $3)
               order by g.delivery_id desc, g.attempt desc limit $4"#,
            function,
            since,
            Uuid::nil(),
            i64::from(limit)
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }
}

/// Adds a version, or finds the same one, and gives its number.
pub(super) async fn deploy(tx: &mut Tx, deployment: &Deployment) -> Result<u32, StoreError> {
    insert_component(tx, deployment).await?;
    let version = match same_version(tx, deployment).await? {
        Some(version) => version,
        None => insert_version(tx, deployment).await?,
    };
    insert_function(tx, &deployment.function, version).await?;
    if deployment.promote {
        promote(tx, &deployment.function, version.unsigned_abs()).await?;
    }
    Ok(version.unsigned_abs())
}

pub(super) async fn promote(tx: &mut Tx, function: &str, version: u32) -> Result<(), StoreError> {
    let wanted = i32::try_from(version).unwrap_or(i32::MAX);
    let done = sqlx::query!(
        "update oncue.functions f set current_version = v.version from oncue.function_versions v
         where f.name = $1 and v.function = f.name and v.version = $2",
        function,
        wanted
    )
    .execute(&mut **tx)
    .await?;
    match done.rows_affected() {
        0 => Err(StoreError::Missing { kind: "version", name: format!("{function}@{version}") }),
        _ => Ok(()),
    }
}

pub(super) async fn delete_function(tx: &mut Tx, name: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from oncue.functions where name = $1", name).execute(&mut **tx).await?;
    Ok(())
}

async fn insert_component(tx: &mut Tx, deployment: &Deployment) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into oncue.components (digest, bytes) values ($1, $2) on conflict (digest) do nothing",
        deployment.digest,
        deployment.component
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn same_version(tx: &mut Tx, deployment: &Deployment) -> Result<Option<i32>, StoreError> {
    let version = sqlx::query_scalar!(
        "select max(version) from oncue.function_versions where function = $1 and digest = $2 and spec = $3",
        deployment.function,
        deployment.digest,
        Json(&deployment.spec) as _
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(version)
}

async fn insert_version(tx: &mut Tx, deployment: &Deployment) -> Result<i32, StoreError> {
    let version = sqlx::query_scalar!(
        "insert into oncue.function_versions (function, version, digest, spec)
         select $1, coalesce(max(version), 0) + 1, $2, $3 from oncue.function_versions where function = $1
         returning version",
        deployment.function,
        deployment.digest,
        Json(&deployment.spec) as _
    )
    .fetch_one(&mut **tx)
    .await?;
    Ok(version)
}

async fn insert_function(tx: &mut Tx, name: &str, version: i32) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into oncue.functions (name, current_version) values ($1, $2) on conflict (name) do nothing",
        name,
        version
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

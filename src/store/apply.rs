//! Changes of the control plane that belong together: all of them or none.
//!
//! Invariant: one transaction, and one writer at a time: it locks the row of the version first, so that numbers of
//! versions are not given twice and what was planned against an older version is refused.

use crate::rules::Rule;

use super::functions::{Deployment, delete_function, deploy, promote};
use super::rules::{delete_rule, write_rule};
use super::triggers::{TriggerWrite, delete_trigger, write_trigger};
use super::{Store, StoreError};

pub(super) type Tx = sqlx::Transaction<'static, sqlx::Postgres>;

/// Rows to write and to delete.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The version of the tables that the changes were planned against; none for any.
    pub planned_at: Option<i64>,
    /// New versions of functions.
    pub deployments: Vec<Deployment>,
    /// Versions that become current.
    pub promotions: Vec<(String, u32)>,
    /// Triggers to write.
    pub triggers: Vec<TriggerWrite>,
    /// Rules to write.
    pub rules: Vec<Rule>,
    /// Rules to delete.
    pub deleted_rules: Vec<String>,
    /// Triggers to delete.
    pub deleted_triggers: Vec<String>,
    /// Functions to delete, with their versions.
    pub deleted_functions: Vec<String>,
}

/// Why changes were not made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Somebody else changed the tables after the plan was made.
    #[error("the tables changed since the plan was made; plan again")]
    Changed,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Makes the changes and gives the version of each deployment.
    ///
    /// # Errors
    /// `Changed` when the tables are not at the version that was planned against; what a constraint refuses.
    pub async fn apply(&self, changes: &Changes) -> Result<Vec<u32>, ApplyError> {
        let mut tx = self.pool.begin().await.map_err(StoreError::from)?;
        let version = lock_version(&mut tx).await?;
        if changes.planned_at.is_some_and(|planned| planned != version) {
            return Err(ApplyError::Changed);
        }
        let mut versions = Vec::with_capacity(changes.deployments.len());
        for deployment in &changes.deployments {
            versions.push(deploy(&mut tx, deployment).await?);
        }
        for (function, version) in &changes.promotions {
            promote(&mut tx, function, *version).await?;
        }
        for trigger in &changes.triggers {
            write_trigger(&mut tx, trigger).await?;
        }
        for rule in &changes.rules {
            write_rule(&mut tx, rule).await?;
        }
        delete(&mut tx, changes).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(versions)
    }
}

/// Rules go first: they name the others.
async fn delete(tx: &mut Tx, changes: &Changes) -> Result<(), StoreError> {
    for name in &changes.deleted_rules {
        delete_rule(tx, name).await?;
    }
    for name in &changes.deleted_triggers {
        delete_trigger(tx, name).await?;
    }
    for name in &changes.deleted_functions {
        delete_function(tx, name).await?;
    }
    Ok(())
}

async fn lock_version(tx: &mut Tx) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!("select version from oncue.ruleset for update").fetch_one(&mut **tx).await?)
}

//! Fences: what was read under a lease that has passed on since is not settled.
//!
//! Invariant: a lease cannot pass on while a transaction that found it valid is open: its row is locked in share mode,
//! and whoever takes the lease updates that row.

use std::collections::HashSet;

use crate::delivery::DeliveryId;
use crate::store::StoreError;

use super::{Fence, Group, Tx};

/// The fences of a group whose lease has another epoch now.
#[derive(Debug, Default)]
pub(in crate::store) struct Passed(HashSet<Fence>);

impl Passed {
    pub(in crate::store) fn contains(&self, fence: &Fence) -> bool {
        self.0.contains(fence)
    }

    /// What of `group` is behind one of them.
    pub(in crate::store) fn deliveries(&self, group: &Group) -> HashSet<DeliveryId> {
        let records = group.records.iter().map(|r| (r.subject.id, &r.fence));
        let rejected = group.rejected.iter().map(|r| (r.id, &r.fence));
        let fenced = records.chain(rejected).filter(|(_, fence)| fence.as_ref().is_some_and(|f| self.contains(f)));
        fenced.map(|(id, _)| id).collect()
    }
}

/// Looks up the leases that `group` needs and keeps those that hold from passing on before the commit.
pub(in crate::store) async fn passed(tx: &mut Tx, group: &Group) -> Result<Passed, StoreError> {
    let records = group.records.iter().filter_map(|r| r.fence.as_deref());
    let fences: HashSet<&Fence> = records.chain(group.rejected.iter().filter_map(|r| r.fence.as_deref())).collect();
    if fences.is_empty() {
        return Ok(Passed::default());
    }
    let mut names: Vec<String> = fences.iter().map(|f| f.lease.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let leases =
        sqlx::query!("select name, epoch from oncue.leases where name = any($1) order by name for share", &names)
            .fetch_all(&mut **tx)
            .await?;
    let valid = |fence: &Fence| leases.iter().any(|l| l.name == fence.lease && l.epoch == fence.epoch);
    Ok(Passed(fences.into_iter().filter(|f| !valid(f)).cloned().collect()))
}

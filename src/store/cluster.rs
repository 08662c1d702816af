//! Nodes and leases: who is alive, and who does the work that one node does at a time.
//!
//! Invariant: a lease's epoch grows with every change of owner and never falls (a trigger of the table refuses it).

use std::time::Duration;

use super::{Store, StoreError};

/// What a node tells of itself.
#[derive(Clone, Debug)]
pub struct Beat<'a> {
    /// The node's name.
    pub node: &'a str,
    /// `starting`, `running`, `draining` or `stopped`.
    pub state: &'a str,
    /// The rules that it matches against.
    pub ruleset_version: i64,
}

/// What a node learns from one question, so that an idle node asks less than once a second.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// The version of the control plane.
    pub ruleset_version: i64,
    /// When the next parked delivery is due, from now; negative when it is overdue.
    pub next_due_ms: Option<i64>,
    /// The same of the outbox.
    pub outbox_due_ms: Option<i64>,
    /// Backfills of any feed that have not ended.
    pub open_backfills: i64,
}

impl Store {
    /// Asks for the version of the control plane and the next due times in one round trip.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pulse(&self) -> Result<Pulse, StoreError> {
        let row = sqlx::query!(
            r#"select version as "version!",
                   (select (extract(epoch from min(greatest(next_at, lease_until)) - now()) * 1000)::bigint
                    from oncue.parked) as next_due_ms,
                   (select (extract(epoch from min(next_at) - now()) * 1000)::bigint from oncue.outbox) as outbox_due_ms,
                   (select count(*) from oncue.backfills where state in ('waiting', 'running')) as "open_backfills!"
               from oncue.ruleset"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Pulse {
            ruleset_version: row.version,
            next_due_ms: row.next_due_ms,
            outbox_due_ms: row.outbox_due_ms,
            open_backfills: row.open_backfills,
        })
    }

    /// Says that the node is there. A node that starts overwrites what an earlier one of its name left.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn beat(&self, beat: &Beat<'_>) -> Result<(), StoreError> {
        sqlx::query!(
            "insert into oncue.nodes (node, version, state, ruleset_version) values ($1, $2, $3, $4)
             on conflict (node) do update set version = excluded.version, state = excluded.state,
                 ruleset_version = excluded.ruleset_version, beat_at = now(),
                 started_at = case when excluded.state = 'starting' then now() else oncue.nodes.started_at end",
            beat.node,
            env!("CARGO_PKG_VERSION"),
            beat.state,
            beat.ruleset_version
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes the lease `name`, or renews it where `owner` has it. Gives its epoch, or none while another has it. The
    /// epoch is a new one unless this very process has had the lease without a break.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<i64>, StoreError> {
        let epoch = sqlx::query_scalar!(
            "insert into oncue.leases as l (name, owner, epoch, expires_at, holder)
             values ($1, $2, 1, now() + $3::bigint * interval '1 millisecond', $4)
             on conflict (name) do update
             set owner = excluded.owner, expires_at = excluded.expires_at, holder = excluded.holder,
                 epoch = l.epoch + (l.holder is distinct from excluded.holder or l.expires_at < now())::int
             where l.owner = excluded.owner or l.expires_at < now()
             returning epoch",
            name,
            owner,
            i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX),
            self.process
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(epoch)
    }

    /// Ends the lease `name` of this process now; that of another is left alone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_lease(&self, name: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "update oncue.leases set expires_at = now() where name = $1 and holder = $2 and expires_at > now()",
            name,
            self.process
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Ends every lease of `owner` now, so that others need not wait for them to expire.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn release_leases(&self, owner: &str) -> Result<(), StoreError> {
        sqlx::query!("update oncue.leases set expires_at = now() where owner = $1 and expires_at > now()", owner)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

//! A change feed: its slot, what it lost, what it reads whole, and whether it would survive a failover.
//!
//! Invariant: a feed whose slot cannot go on is an error, with the two ways in which it can begin again.

use time::OffsetDateTime;

use crate::bus::postgres::{PLUGIN, Slot, SourceError, literal};
use crate::cli::output::bytes;
use crate::store::StoreError;
use crate::store::feeds::{self, BackfillState};

use super::{Feed, Findings, Look};

/// WAL kept above which somebody should know, where the server has no bound.
const RETAINED_MUCH: u64 = 1 << 30;
/// How long a backfill may wait, and for how long one that failed is told.
const WAITING: time::Duration = time::Duration::minutes(10);
const RECENT: time::Duration = time::Duration::days(7);

impl Look<'_> {
    pub(super) async fn feed(&self, feed: &Feed<'_>, findings: &mut Findings) {
        let about = format!("trigger {}", feed.row.name);
        if let Err(error) = self.published(feed, findings).await {
            findings.bad(&about, error.to_string(), "look at the server's log");
        }
        if let Err(error) = self.slot(feed, &about, findings).await {
            findings.bad(&about, error.to_string(), "look at the server's log");
        }
        if let Err(error) = self.history(feed, &about, findings).await {
            findings.bad(&about, error.to_string(), "look at the log of Oncue's own database");
        }
    }

    async fn slot(&self, feed: &Feed<'_>, about: &str, findings: &mut Findings) -> Result<(), SourceError> {
        let (name, trigger) = (feed.spec.slot(&feed.row.name), &feed.row.name);
        // That the tables cannot be asked is told by what asks them next.
        let position = self.store.feed(trigger).await.ok().flatten();
        let Some(slot) = self.bus.slot(&name).await? else {
            match position {
                Some(at) => findings.bad(
                    about,
                    format!("the slot {name} is gone: what was committed after {} cannot be read", at.settled_lsn),
                    again(trigger),
                ),
                None if feed.spec.create => {
                    let text = format!("there is no slot {name} yet: the feed makes it when it begins");
                    findings.warn(about, text, "`oncue serve`");
                }
                None => {
                    let sql = format!("select pg_create_logical_replication_slot({}, '{PLUGIN}');", literal(&name));
                    findings.bad(about, format!("there is no slot {name}"), sql);
                }
            }
            return Ok(());
        };
        self.usable(&slot, position.as_ref(), trigger, about, findings);
        self.failover(feed, &slot, about, findings);
        Ok(())
    }

    fn usable(&self, slot: &Slot, position: Option<&feeds::Feed>, trigger: &str, about: &str, findings: &mut Findings) {
        let name = &slot.name;
        if slot.plugin.as_deref() != Some(PLUGIN) || slot.database.as_deref() != Some(&self.server.database) {
            let text = format!("the slot {name} is none of {PLUGIN} in the database {}", self.server.database);
            return findings.bad(about, text, "name another one with `slot`");
        }
        if let Some(why) = slot.lost() {
            let text = format!("the slot {name} is lost ({why}): WAL that was not read is gone");
            return findings.bad(about, text, again(trigger));
        }
        if let (Some(position), Some(at)) = (position, slot.confirmed_flush)
            && at > position.settled_lsn
        {
            let settled = position.settled_lsn;
            let text = format!("the slot {name} is at {at} and only {settled} is settled: it was moved or made again");
            findings.bad(about, text, again(trigger));
        }
        let keeps = format!("keeps {} of WAL", bytes(slot.retained));
        match slot.active_pid {
            Some(pid) => findings.ok(about, format!("slot {name}, read by the backend {pid}, {keeps}")),
            None => {
                let fix = format!("`oncue serve`, `oncue trigger resume {trigger}`, or look at its error");
                findings.warn(about, format!("nobody reads the slot {name}; it {keeps}"), fix);
            }
        }
        retained(slot, trigger, about, findings);
    }

    fn failover(&self, feed: &Feed<'_>, slot: &Slot, about: &str, findings: &mut Findings) {
        let (name, server) = (&slot.name, self.server);
        if server.physical_slots == 0 && !feed.spec.failover {
            return;
        }
        if !server.has_failover_slots() {
            let text = format!(
                "Postgres {} has no failover slots: after a failover the feed is in a gap, because what the slot {name} \
                 missed is not known",
                server.major()
            );
            findings.warn(about, text, "`oncue trigger resume … --resnapshot` after a failover; or Postgres 17");
        } else if !slot.failover {
            let text = format!("the slot {name} is not copied to standbys: after a failover the feed is in a gap");
            let fix = format!(
                "psql 'dbname={} replication=database' -c 'ALTER_REPLICATION_SLOT {name} (FAILOVER)', while no node reads \
                 it; and `failover = true` on the trigger",
                server.database
            );
            findings.warn(about, text, fix);
        } else if server.synchronized_standby_slots.is_empty() {
            let text = "the feed may be ahead of the standbys: after a failover it can have seen what the new primary never had";
            let fix = "alter system set synchronized_standby_slots = 'SLOT OF THE STANDBY'; select pg_reload_conf();";
            findings.warn(about, text, fix);
        } else {
            findings.ok(about, format!("the slot {name} follows a failover"));
        }
    }

    async fn history(&self, feed: &Feed<'_>, about: &str, findings: &mut Findings) -> Result<(), StoreError> {
        let (trigger, now) = (&feed.row.name, OffsetDateTime::now_utc());
        for gap in self.store.gaps(trigger).await?.iter().filter(|gap| gap.accepted_at.is_none()) {
            let place = |lsn: &Option<String>| lsn.clone().unwrap_or_else(|| "?".to_owned());
            let text = format!("events from {} to {} are missing: {}", place(&gap.from), place(&gap.to), gap.reason);
            findings.bad(about, text, again(trigger));
        }
        for backfill in self.store.backfills(trigger).await? {
            let table = format!("{}.{}", backfill.request.schema, backfill.request.table);
            match (backfill.state, &backfill.error) {
                (BackfillState::Waiting, _) if backfill.requested_at + WAITING < now => {
                    let text = format!("the backfill of {table} waits, and nobody has begun it");
                    let fix = format!(
                        "`oncue serve`, `oncue trigger resume {trigger}`, or `oncue trigger backfill {trigger} --cancel`"
                    );
                    findings.warn(about, text, fix);
                }
                (BackfillState::Failed, Some(error)) if backfill.finished_at.is_some_and(|at| at + RECENT > now) => {
                    let fix = format!("mend that, then `oncue trigger backfill {trigger} --table {table}`");
                    findings.warn(about, format!("the backfill of {table} failed: {error}"), fix);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How a feed that has lost something begins again.
fn again(trigger: &str) -> String {
    format!(
        "`oncue trigger resume {trigger} --accept-gap` goes on without what is missing; \
         `oncue trigger resume {trigger} --resnapshot` also reads the tables again"
    )
}

/// By the part of the bound that is used: above a quarter somebody should know, above 60 % somebody must act.
fn retained(slot: &Slot, trigger: &str, about: &str, findings: &mut Findings) {
    let fix = format!(
        "find out what holds it up (`oncue trigger show {trigger}`), or raise max_slot_wal_keep_size: once the slot is lost, \
         events are"
    );
    let keeps = format!("the slot {} keeps {} of WAL", slot.name, bytes(slot.retained));
    let Some(safe) = slot.safe_wal_size else {
        if slot.retained > RETAINED_MUCH {
            findings.warn(about, keeps, fix);
        }
        return;
    };
    let safe = u64::try_from(safe).unwrap_or(0);
    let bound = slot.retained.saturating_add(safe);
    let text = format!("{keeps} and is lost after {} more", bytes(safe));
    if slot.retained > bound / 5 * 3 {
        findings.bad(about, text, fix);
    } else if slot.retained > bound / 4 || slot.retained > RETAINED_MUCH {
        findings.warn(about, text, fix);
    }
}

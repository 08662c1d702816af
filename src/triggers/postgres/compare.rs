//! Whether a slot still has what a feed has not settled: decided at each connection, before anything is read.
//!
//! Invariant: a feed goes on only where the server, the timeline and the slot are those that it settled on, the server
//! still has what is settled, and the slot has not passed it. `START_REPLICATION` from an older position does not fail,
//! it silently begins at the slot's, and from one that is not written yet it skips what comes up to there (seen on
//! PostgreSQL 15.18). Pure: the table in the tests is the specification.

use crate::bus::postgres::{PLUGIN, Server, Slot};
use crate::lsn::Lsn;
use crate::store::feeds::{Feed, Restart};

/// What a feed does at a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Follow the slot from where the feed has settled.
    Follow,
    /// The timeline is a new one and the slot came with it: write it down, then follow.
    Adopt,
    /// Begin: at the slot's position, or at that of a new slot.
    Begin {
        /// Whether the slot is to be dropped first: it can never be read again.
        replace: bool,
        /// Whether the tables are to be read whole.
        snapshot: bool,
    },
    /// It can not be read now.
    Refuse(String),
    /// Something is missing.
    Gap {
        /// What was found.
        reason: String,
        /// The first position that is still there, as far as it is known.
        to: Option<Lsn>,
    },
}

/// What is known when a connection is about to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// Where the feed is; none if it never began.
    pub(super) feed: Option<&'a Feed>,
    /// The server.
    pub(super) server: &'a Server,
    /// The slot's name as the trigger says.
    pub(super) slot_name: &'a str,
    /// The slot, if it is there.
    pub(super) slot: Option<&'a Slot>,
    /// Whether a feed that begins reads its tables first.
    pub(super) snapshot: bool,
}

/// What the feed does.
pub(super) fn compare(known: Known<'_>) -> Decision {
    let Known { feed, server, slot_name, slot, snapshot } = known;
    if let Some(slot) = slot
        && let Some(refusal) = unusable(slot, server)
    {
        return Decision::Refuse(refusal);
    }
    let Some(feed) = feed else {
        // Nothing was ever read from it, so nothing is missing: it is in the way, and not ours to drop.
        return match slot.and_then(Slot::lost) {
            Some(why) => Decision::Refuse(format!(
                "the slot \"{slot_name}\" is invalid ({why}) and nothing can be read from it; run `select \
                 pg_drop_replication_slot('{slot_name}')`"
            )),
            None => Decision::Begin { replace: false, snapshot },
        };
    };
    if let Some(restart) = feed.restart {
        // What is behind the slot's position although nothing was settled past it could not be decoded. A slot of
        // another server, or of one that was set back, was not even tried.
        let undecodable = |slot: &Slot| slot.confirmed_flush.is_none_or(|at| at <= feed.settled_lsn);
        let same = feed.system_id == server.system_id && feed.slot == slot_name && feed.settled_lsn <= server.wal_lsn;
        let replace = slot.is_some_and(|slot| slot.lost().is_some() || (same && undecodable(slot)));
        return Decision::Begin { replace, snapshot: restart == Restart::Resnapshot };
    }
    resume(feed, server, slot_name, slot)
}

fn resume(feed: &Feed, server: &Server, slot_name: &str, slot: Option<&Slot>) -> Decision {
    let gap = |reason: String| Decision::Gap { reason, to: None };
    let settled = feed.settled_lsn;
    if feed.system_id != server.system_id || feed.database != server.database {
        return gap(format!(
            "the server is another one: system {} database {:?}, and {settled} was settled on system {} database {:?}",
            server.system_id, server.database, feed.system_id, feed.database
        ));
    }
    if server.wal_lsn < settled {
        return gap(format!(
            "the server was set back: its WAL ends at {}, and {settled} is settled already: what it writes up to there \
             would be skipped",
            server.wal_lsn
        ));
    }
    if feed.slot != slot_name {
        return gap(format!(
            "the trigger names the slot \"{slot_name}\" now; up to {settled} was settled with \"{}\"",
            feed.slot
        ));
    }
    let Some(slot) = slot else {
        return gap(format!("the slot \"{slot_name}\" is gone: what was committed after {settled} cannot be read"));
    };
    if let Some(why) = slot.lost() {
        return lost(slot_name, &format!("is invalid ({why}); settled up to {settled}"));
    }
    if let Some(at) = slot.confirmed_flush.filter(|at| *at > settled) {
        let reason = format!(
            "the slot \"{slot_name}\" is at {at} and only {settled} is settled: it was moved, or dropped and made again"
        );
        return Decision::Gap { reason, to: Some(at) };
    }
    match server.timeline {
        Some(timeline) if timeline != feed.timeline && !(slot.failover || slot.synced) => gap(format!(
            "the server is on timeline {timeline}, {settled} was settled on timeline {}, and the slot \"{slot_name}\" is \
             no failover slot: what it missed is not known",
            feed.timeline
        )),
        Some(timeline) if timeline != feed.timeline => Decision::Adopt,
        _ => Decision::Follow,
    }
}

fn lost(slot_name: &str, what: &str) -> Decision {
    let reason = format!("the slot \"{slot_name}\" {what}: the server has removed WAL that was not read");
    Decision::Gap { reason, to: None }
}

/// Why a slot of that name cannot be followed at all.
fn unusable(slot: &Slot, server: &Server) -> Option<String> {
    let name = &slot.name;
    let fix = format!("name another one with `slot`, or run `select pg_drop_replication_slot('{name}')`");
    if slot.plugin.as_deref() != Some(PLUGIN) {
        let plugin = slot.plugin.as_deref().unwrap_or("none: it is a physical slot");
        return Some(format!("the slot \"{name}\" has the plugin {plugin}, and a feed needs {PLUGIN}; {fix}"));
    }
    if slot.database.as_deref() != Some(server.database.as_str()) {
        let database = slot.database.as_deref().unwrap_or_default();
        return Some(format!("the slot \"{name}\" is of database {database:?}, not {:?}; {fix}", server.database));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server {
            version_num: 170_000,
            in_recovery: false,
            system_id: "1".to_owned(),
            timeline: Some(1),
            database: "app".to_owned(),
            encoding: "UTF8".to_owned(),
            wal_level: "logical".to_owned(),
            wal_lsn: Lsn(1_000),
            slot_wal_max: Some(1 << 30),
            role: "app".to_owned(),
            is_superuser: false,
            can_replicate: true,
            slots_free: 1,
            senders_free: 1,
            synchronized_standby_slots: String::new(),
            idle_slot_timeout: 0,
            physical_slots: 0,
        }
    }

    fn slot(at: u64) -> Slot {
        Slot {
            name: "s".to_owned(),
            plugin: Some("pgoutput".to_owned()),
            slot_type: "logical".to_owned(),
            database: Some("app".to_owned()),
            temporary: false,
            active_pid: None,
            restart_lsn: Some(Lsn(at)),
            confirmed_flush: Some(Lsn(at)),
            wal_status: Some("reserved".to_owned()),
            safe_wal_size: None,
            retained: 0,
            failover: false,
            synced: false,
            invalidation: None,
            inactive_since: None,
        }
    }

    fn feed() -> Feed {
        Feed {
            slot: "s".to_owned(),
            publication: "p".to_owned(),
            publication_oid: Some(7),
            system_id: "1".to_owned(),
            timeline: 1,
            database: "app".to_owned(),
            settled_lsn: Lsn(500),
            read_until: Lsn(600),
            restart: None,
        }
    }

    fn decide(feed: Option<&Feed>, server: &Server, slot: Option<&Slot>) -> Decision {
        compare(Known { feed, server, slot_name: "s", slot, snapshot: true })
    }

    fn is_gap(decision: &Decision, words: &str) -> bool {
        matches!(decision, Decision::Gap { reason, .. } if reason.contains(words))
    }

    #[test]
    fn a_feed_goes_on_only_where_nothing_is_missing() {
        let (feed, server) = (feed(), server());
        assert_eq!(decide(Some(&feed), &server, Some(&slot(500))), Decision::Follow);
        assert_eq!(decide(Some(&feed), &server, Some(&slot(400))), Decision::Follow, "the slot was told less");
        let ahead = decide(Some(&feed), &server, Some(&slot(501)));
        assert!(is_gap(&ahead, "only 0/1F4 is settled"), "{ahead:?}");
        assert!(matches!(ahead, Decision::Gap { to: Some(Lsn(501)), .. }));
        assert!(is_gap(&decide(Some(&feed), &server, None), "is gone"));
        let lost = Slot { wal_status: Some("lost".to_owned()), ..slot(400) };
        assert!(is_gap(&decide(Some(&feed), &server, Some(&lost)), "removed WAL"));
        let invalid = Slot { invalidation: Some("idle_timeout".to_owned()), ..slot(400) };
        assert!(is_gap(&decide(Some(&feed), &server, Some(&invalid)), "idle_timeout"));
        let set_back = Server { wal_lsn: Lsn(499), ..server.clone() };
        assert!(is_gap(&decide(Some(&feed), &set_back, Some(&slot(400))), "was set back"));
        let other = Server { system_id: "2".to_owned(), ..server.clone() };
        assert!(is_gap(&decide(Some(&feed), &other, Some(&slot(500))), "another one"));
        let renamed = Feed { slot: "t".to_owned(), ..feed };
        assert!(is_gap(&decide(Some(&renamed), &server, Some(&slot(500))), "names the slot"));
    }

    #[test]
    fn another_timeline_needs_a_slot_that_came_with_it() {
        let promoted = Server { timeline: Some(2), ..server() };
        assert!(is_gap(&decide(Some(&feed()), &promoted, Some(&slot(500))), "timeline 2"));
        let failover = Slot { failover: true, ..slot(400) };
        assert_eq!(decide(Some(&feed()), &promoted, Some(&failover)), Decision::Adopt);
        let ahead = Slot { failover: true, ..slot(501) };
        assert!(is_gap(&decide(Some(&feed()), &promoted, Some(&ahead)), "is at 0/1F5"));
    }

    #[test]
    fn a_new_feed_begins_and_an_accepted_gap_replaces_what_cannot_be_read() {
        let begin = |replace, snapshot| Decision::Begin { replace, snapshot };
        assert_eq!(decide(None, &server(), None), begin(false, true));
        assert_eq!(decide(None, &server(), Some(&slot(3))), begin(false, true));
        let lost = Slot { wal_status: Some("lost".to_owned()), ..slot(400) };
        let refused = decide(None, &server(), Some(&lost));
        assert!(
            matches!(&refused, Decision::Refuse(text) if text.contains("pg_drop_replication_slot('s')")),
            "{refused:?}"
        );
        let accepted = Feed { restart: Some(Restart::Accept), ..feed() };
        assert_eq!(decide(Some(&accepted), &server(), None), begin(false, false));
        assert_eq!(
            decide(Some(&accepted), &server(), Some(&slot(700))),
            begin(false, false),
            "ahead: keep what it has"
        );
        assert_eq!(decide(Some(&accepted), &server(), Some(&lost)), begin(true, false));
        assert_eq!(decide(Some(&accepted), &server(), Some(&slot(500))), begin(true, false), "it could not be decoded");
        let set_back = Server { wal_lsn: Lsn(499), ..server() };
        assert_eq!(decide(Some(&accepted), &set_back, Some(&slot(400))), begin(false, false), "keep what it has");
        let again = Feed { restart: Some(Restart::Resnapshot), ..feed() };
        assert_eq!(decide(Some(&again), &server(), None), begin(false, true));
    }

    #[test]
    fn a_slot_of_another_kind_is_refused_and_not_touched() {
        let physical = Slot { plugin: None, ..slot(1) };
        let other = Slot { database: Some("b".to_owned()), ..slot(1) };
        for slot in [physical, other] {
            let decision = decide(Some(&feed()), &server(), Some(&slot));
            assert!(matches!(decision, Decision::Refuse(text) if text.contains("pg_drop_replication_slot('s')")));
        }
    }
}

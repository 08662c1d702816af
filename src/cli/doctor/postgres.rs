//! The Postgres buses: whether the server can be a source, what it has left, and what its change feeds lack.
//!
//! Invariant: a question that fails is a finding and does not end the look. Nothing is changed: each finding has the SQL
//! that mends it.

mod feed;
mod publishing;
mod tables;

use crate::bus::BusConfig;
use crate::bus::postgres::{OLDEST, PostgresBus, Server, quoted};
use crate::store::Store;
use crate::store::control::{ControlPlane, TriggerRow};
use crate::triggers::spec::{PostgresSpec, TriggerSpec};

use super::Findings;

/// The newest major version that was tried.
const NEWEST: i32 = 18;

/// What is known of a bus while its triggers are looked at.
struct Look<'a> {
    bus: &'a PostgresBus,
    server: &'a Server,
    store: &'a Store,
}

/// A change feed of this bus.
struct Feed<'a> {
    row: &'a TriggerRow,
    spec: PostgresSpec,
}

pub(super) async fn look(
    name: &str,
    config: &BusConfig,
    control: Option<(&Store, &ControlPlane)>,
    findings: &mut Findings,
) {
    let about = format!("bus {name}");
    let fix = "start it, or correct `url` in [bus.…]";
    let bus = match PostgresBus::new(name, config) {
        Ok(bus) => bus,
        Err(error) => return findings.bad(about, error.to_string(), fix),
    };
    let server = match bus.server().await {
        Ok(server) => server,
        Err(error) => return findings.bad(about, error.to_string(), fix),
    };
    let feeds = control.map(|(_, tables)| feeds(name, tables)).unwrap_or_default();
    kind_of_server(&server, &about, findings);
    room(&server, &feeds, &about, findings);
    unbounded(&server, config, &about, findings);
    publishing::look(&bus, &feeds, &about, findings).await;
    shared(&feeds, findings);
    let Some((store, _)) = control else { return };
    let look = Look { bus: &bus, server: &server, store };
    for feed in &feeds {
        Box::pin(look.feed(feed, findings)).await;
    }
    bus.close().await;
}

fn feeds<'a>(bus: &str, tables: &'a ControlPlane) -> Vec<Feed<'a>> {
    let rows = tables.triggers.iter().filter(|row| row.bus == bus);
    let feeds = rows.filter_map(|row| match TriggerSpec::parse(&row.kind, &row.spec) {
        Ok(TriggerSpec::Postgres(spec)) => Some(Feed { row, spec }),
        _ => None,
    });
    feeds.collect()
}

fn kind_of_server(server: &Server, about: &str, findings: &mut Findings) {
    let (version, major) = (server.version(), server.major());
    match major {
        ..OLDEST => {
            let text = format!("Postgres {version} is too old to be a source");
            findings.bad(about, text, format!("upgrade it to Postgres {OLDEST} or newer"));
        }
        OLDEST..=NEWEST => findings.ok(about, format!("Postgres {version}, database {}", server.database)),
        _ => {
            let text = format!("Postgres {version} is newer than {NEWEST}, the newest that was tried");
            findings.warn(about, text, "upgrade this program");
        }
    }
    if server.in_recovery {
        let fix = "put the primary's host into `url` of the bus, or promote this one: select pg_promote();";
        findings.bad(about, "it is a standby: a change feed reads from the primary", fix);
    }
    if server.wal_level == "logical" {
        findings.ok(about, "wal_level is logical");
    } else {
        let text = format!("wal_level is {}: changes cannot be decoded", server.wal_level);
        findings.bad(about, text, "alter system set wal_level = logical;  -- then restart the server");
    }
    if !server.can_replicate {
        let text = format!("the role {} may not replicate", server.role);
        findings.bad(about, text, format!("alter role {} replication;", quoted(&server.role)));
    }
    if server.idle_slot_timeout > 0 {
        let text = format!(
            "idle_replication_slot_timeout is {} s: a slot that no node reads for so long is lost, and its feed is in a gap",
            server.idle_slot_timeout
        );
        findings.warn(about, text, "alter system set idle_replication_slot_timeout = 0; select pg_reload_conf();");
    }
}

/// Slots and senders that are left.
fn room(server: &Server, feeds: &[Feed<'_>], about: &str, findings: &mut Findings) {
    let rows = [
        ("replication slots", server.slots_free, "max_replication_slots"),
        ("senders of WAL", server.senders_free, "max_wal_senders"),
    ];
    for (what, free, setting) in rows {
        let fix = format!("alter system set {setting} = 20;  -- then restart the server");
        match free {
            1.. => findings.ok(about, format!("{free} {what} are left")),
            _ if feeds.is_empty() => findings.warn(about, format!("no {what} are left"), fix),
            _ => findings.warn(about, format!("no {what} are left: a feed that has none cannot begin"), fix),
        }
    }
}

fn unbounded(server: &Server, config: &BusConfig, about: &str, findings: &mut Findings) {
    if let Some(most) = server.slot_wal_max {
        let text = format!("a slot keeps {} of WAL at most", crate::cli::output::bytes(most));
        return findings.ok(about, text);
    }
    let text = "max_slot_wal_keep_size is -1: while a feed cannot read, its slot keeps WAL until the disk is full";
    let fix = "alter system set max_slot_wal_keep_size = '50GB'; select pg_reload_conf();";
    if config.accept_unbounded_wal {
        findings.warn(about, text, fix);
    } else {
        findings.bad(
            about,
            format!("{text}; nodes do not begin"),
            format!("{fix}\nor `accept_unbounded_wal = true` in [bus.…]"),
        );
    }
}

/// Two triggers with one slot: one of them will wait for ever.
fn shared(feeds: &[Feed<'_>], findings: &mut Findings) {
    for (at, feed) in feeds.iter().enumerate() {
        let slot = feed.spec.slot(&feed.row.name);
        if let Some(other) = feeds[at + 1..].iter().find(|other| other.spec.slot(&other.row.name) == slot) {
            let text = format!("it has the slot {slot} of the trigger {}: one of them cannot read", other.row.name);
            findings.bad(format!("trigger {}", feed.row.name), text, "give one of them another `slot`");
        }
    }
}

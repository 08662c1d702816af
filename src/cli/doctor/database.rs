//! The database: server, settings, tables, what waits, the nodes' signs of life.
//!
//! Invariant: a question that fails is a finding and does not end the look.

use time::OffsetDateTime;

use crate::config::NodeSettings;
use crate::store::checks::{NodeFacts, ServerFacts};
use crate::store::control::ControlPlane;
use crate::store::{Store, StoreError};

use super::Findings;

/// Row filters of publications, and what migrations use.
const VERSION_MIN: i32 = 150_000;
/// A node says that it is there each ten seconds.
const SILENT_SECONDS: f64 = 30.0;
/// Nodes claim what is due within a second.
const OVERDUE_SECONDS: f64 = 60.0;
/// Times in ids, leases and schedules are compared with the database's.
const SKEW_SECONDS: f64 = 2.0;
/// Connections that should be left for people and other programs.
const CONNECTIONS_LEFT: i64 = 5;

/// Looks; gives the tables if they could be read.
pub(super) async fn look(
    store: &Store,
    node: &NodeSettings,
    fix: bool,
    findings: &mut Findings,
) -> Option<ControlPlane> {
    let before = OffsetDateTime::now_utc();
    match store.server_facts().await {
        Ok(facts) => {
            server(&facts, findings);
            connections(&facts, node, findings);
            skew(before, OffsetDateTime::now_utc(), facts.now, findings);
        }
        Err(error) => {
            findings.bad(
                "postgres",
                error.to_string(),
                "start it, or correct DATABASE_URL (a password or `sslmode` may be wrong too), or run `oncue dev`",
            );
            return None;
        }
    }
    if !schema(store, findings).await {
        return None;
    }
    let tables = match store.control_plane().await {
        Ok(tables) => tables,
        Err(error) => {
            findings.bad("tables", error.to_string(), "`oncue migrate`, as the owner of the schema oncue");
            return None;
        }
    };
    namesake(store, findings).await;
    let nodes = keep(store.node_facts().await, "nodes", findings).unwrap_or_default();
    let alive = nodes_alive(&nodes, tables.version, findings);
    partitions(store, fix, findings).await;
    parked(store, alive, findings).await;
    outbox(store, alive, findings).await;
    dead_letters(store, findings).await;
    long_transactions(store, findings).await;
    Some(tables)
}

fn server(facts: &ServerFacts, findings: &mut Findings) {
    let about = "postgres";
    let version = format!("{}.{}", facts.version / 10_000, facts.version % 10_000);
    if facts.version < VERSION_MIN {
        findings.bad(about, format!("version {version} is too old"), "upgrade to Postgres 15 or newer");
    } else if facts.standby {
        findings.bad(about, "this is a standby: nothing can be written", "name the primary in DATABASE_URL");
    } else {
        findings.ok(about, format!("version {version}, wal_level {}", facts.wal_level));
    }
    if facts.fsync != "on" || facts.full_page_writes != "on" {
        let text = format!(
            "fsync is {}, full_page_writes is {}: a crash of the machine can lose or break what was settled",
            facts.fsync, facts.full_page_writes
        );
        let fix = "alter system set fsync = on; alter system set full_page_writes = on; select pg_reload_conf();";
        findings.bad(about, text, fix);
    }
    if facts.synchronous_commit == "off" {
        let text = "synchronous_commit is off: a crash of the machine can lose the last settled deliveries, whose \
                    messages were acknowledged already";
        findings.bad(about, text, "alter system set synchronous_commit = on; select pg_reload_conf();");
    }
}

fn connections(facts: &ServerFacts, node: &NodeSettings, findings: &mut Findings) {
    let left = i64::from(facts.connections_max) - facts.connections;
    let text = format!("{} of {} connections are used", facts.connections, facts.connections_max);
    if left < CONNECTIONS_LEFT {
        let fix =
            format!("raise max_connections, or lower `connections` in [node] (now {}) on each node", node.connections);
        findings.warn("connections", text, fix);
    } else {
        findings.ok("connections", text);
    }
}

fn skew(before: OffsetDateTime, after: OffsetDateTime, database: OffsetDateTime, findings: &mut Findings) {
    let early = (before - database).as_seconds_f64();
    let late = (database - after).as_seconds_f64();
    let skew = early.max(late).max(0.0);
    if skew > SKEW_SECONDS {
        let text = format!("this machine and the database are {skew:.1} s apart");
        findings.warn("clock", text, "run an NTP client on both (`timedatectl set-ntp true`)");
    } else {
        findings.ok("clock", "this machine and the database agree");
    }
}

async fn schema(store: &Store, findings: &mut Findings) -> bool {
    match store.schema_facts().await {
        Ok(facts) if !facts.missing.is_empty() => {
            findings.bad("tables", format!("migrations {:?} are not applied", facts.missing), "`oncue migrate`");
            false
        }
        Ok(facts) if !facts.unknown.is_empty() => {
            let text = format!("a newer Oncue applied migrations {:?} that this one does not know", facts.unknown);
            findings.bad("tables", text, "upgrade this program");
            true
        }
        Ok(_) => {
            findings.ok("tables", "every migration is applied");
            true
        }
        Err(error) => {
            findings.bad("tables", error.to_string(), "`oncue migrate`");
            false
        }
    }
}

/// A role with the schema's name makes its tables among Oncue's without saying so.
async fn namesake(store: &Store, findings: &mut Findings) {
    if keep(store.has_namesake().await, "roles", findings) == Some(true) {
        let text = "a role is named oncue, as the schema is: what it makes without naming a schema lands there, because \
                    `search_path` begins with \"$user\"";
        findings.warn("roles", text, "alter role oncue set search_path = public; -- or give the role another name");
    }
}

/// Whether a node is there that works.
fn nodes_alive(nodes: &[NodeFacts], version: i64, findings: &mut Findings) -> bool {
    let (silent, alive): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| n.silent_seconds > SILENT_SECONDS);
    for node in silent {
        let text = format!(
            "{}, no sign of life for {:.0} s: it was killed, or cannot reach the database",
            node.state, node.silent_seconds
        );
        let fix =
            format!("start it again with `oncue serve`, or: delete from oncue.nodes where node = '{}';", node.node);
        findings.warn(format!("node {}", node.node), text, fix);
    }
    for node in &alive {
        let about = format!("node {}", node.node);
        if node.ruleset_version < version && node.state == "running" {
            let text =
                format!("matches with version {} of the rules, the tables are at {version}", node.ruleset_version);
            findings.warn(
                about,
                text,
                "nodes say so each 10 s: look again then; else read its log for \"cannot load the rules\"",
            );
        } else {
            findings.ok(about, format!("{}, version {}", node.state, node.version));
        }
    }
    if alive.is_empty() {
        findings.warn("nodes", "no node runs: events wait in their streams", "`oncue serve`, or `oncue dev`");
    }
    !alive.is_empty()
}

async fn partitions(store: &Store, fix: bool, findings: &mut Findings) {
    let about = "ledger";
    let Some(mut facts) = keep(store.partition_facts().await, about, findings) else { return };
    if fix && !(facts.today && facts.tomorrow) {
        if keep(store.add_partitions().await, about, findings) == Some(true) {
            findings.ok(about, "the partitions of today and the next days were added");
        }
        let Some(now) = keep(store.partition_facts().await, about, findings) else { return };
        facts = now;
    }
    let mend = "`oncue doctor --fix`; a node that runs adds them each hour";
    match (facts.today, facts.tomorrow) {
        (true, true) => findings.ok(about, "the partitions of today and tomorrow are there"),
        (true, false) => findings.warn(about, "there is no partition for tomorrow", mend),
        (false, _) => findings.bad(about, "there is no partition for today: rows go to the default one", mend),
    }
    if facts.default_rows > 0 {
        let many = if facts.default_rows == 10_000 { " or more" } else { "" };
        let text = format!(
            "{}{many} rows are in the default partition: their sources gave them other days",
            facts.default_rows
        );
        let fix = "select rule, trigger, count(*) from oncue.ledger_default group by 1, 2; -- they are removed by age";
        findings.warn(about, text, fix);
    }
}

async fn parked(store: &Store, alive: bool, findings: &mut Findings) {
    let about = "parked";
    let Some(facts) = keep(store.parked_facts().await, about, findings) else { return };
    if facts.overdue_seconds > OVERDUE_SECONDS {
        let text = format!("{} of {} are due, one for {:.0} s", facts.overdue, facts.total, facts.overdue_seconds);
        let fix = "more or faster nodes; or an ordering key waits behind one that is not due: `oncue event list --outcome retry`";
        findings.warn(about, text, if alive { fix } else { "`oncue serve`: nobody runs them" });
    } else {
        findings.ok(about, format!("{} wait for another try", facts.total));
    }
    if facts.expired_claims > 0 {
        let text = format!("{} were claimed by a node that is gone", facts.expired_claims);
        findings.warn(about, text, "a node that runs takes them over within a second: start one with `oncue serve`");
    }
}

async fn outbox(store: &Store, alive: bool, findings: &mut Findings) {
    let about = "outbox";
    let Some(facts) = keep(store.outbox_facts().await, about, findings) else { return };
    if facts.oldest_seconds <= OVERDUE_SECONDS {
        return findings.ok(about, format!("{} events wait to be published", facts.pending));
    }
    let mut text = format!("{} events wait to be published, one for {:.0} s", facts.pending, facts.oldest_seconds);
    if let Some(error) = &facts.error {
        text.push_str(&format!("; {} failed, such as: {error}", facts.failed));
    }
    let fix = "make the stream or the bus that is missing: they go out by themselves within a minute; or give them up: \
               delete from oncue.outbox where bus = 'BUS' and subject = 'SUBJECT';";
    findings.warn(about, text, if alive { fix } else { "`oncue serve`: nobody publishes them" });
}

async fn dead_letters(store: &Store, findings: &mut Findings) {
    let about = "dead letters";
    let Some(tally) = keep(store.dead_letter_tally(5).await, about, findings) else { return };
    if tally.is_empty() {
        return findings.ok(about, "none");
    }
    let list: Vec<String> = tally.iter().map(|t| format!("{} {}", t.count, t.name)).collect();
    let fix = "`oncue dead-letter list`, then `oncue dead-letter redrive` or `drop` with --rule, --class or --trigger";
    findings.warn(about, list.join("; "), fix);
}

async fn long_transactions(store: &Store, findings: &mut Findings) {
    let about = "transactions";
    let Some(open) = keep(store.long_transactions().await, about, findings) else { return };
    for t in open {
        let text =
            format!("\"{}\" ({}) has one open for {:.0} s: vacuum cannot clean up", t.application, t.state, t.seconds);
        findings.warn(about, text, format!("select pg_terminate_backend({});", t.pid));
    }
}

/// A failed question is a finding.
fn keep<T>(answer: Result<T, StoreError>, about: &str, findings: &mut Findings) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            findings.bad(
                about,
                error.to_string(),
                "grant this user the rights on the schema oncue, or `oncue migrate`",
            );
            None
        }
    }
}

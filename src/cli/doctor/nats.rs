//! The NATS buses: the server, the streams that triggers read and functions publish to, the consumers.
//!
//! Invariant: a question that fails is a finding and does not end the look.

use std::time::Duration;

use crate::bus::inspect::{self, ConsumerFacts, StreamFacts, covers};
use crate::bus::nats::{self, NatsBus};
use crate::bus::shown::shown;
use crate::bus::{BusConfig, Publishing};
use crate::config::Config;
use crate::function::FunctionSpec;
use crate::rules::Target;
use crate::store::control::ControlPlane;
use crate::triggers::spec::{JetStreamSpec, TriggerSpec};

use super::Findings;

/// Consumers with several filter subjects.
const VERSION_MIN: (u32, u32) = (2, 10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);

/// What is known of a bus while it is looked at.
struct Look<'a> {
    name: &'a str,
    bus: &'a NatsBus,
    streams: &'a [StreamFacts],
    tables: &'a ControlPlane,
    fix: bool,
}

pub(super) async fn look(
    name: &str,
    config: &BusConfig,
    manifest: &Config,
    tables: Option<&ControlPlane>,
    fix: bool,
    findings: &mut Findings,
) {
    let about = format!("bus {name}");
    let Some(bus) = connect(name, config, &about, findings).await else { return };
    if !server(&bus, manifest, &about, findings).await {
        return;
    }
    let streams = match inspect::streams(&bus).await {
        Ok(streams) => streams,
        Err(error) => {
            return findings.bad(about, error.to_string(), "grant this user the subjects $JS.API.> and _INBOX.>");
        }
    };
    let Some(tables) = tables else { return };
    let look = Look { name, bus: &bus, streams: &streams, tables, fix };
    for (trigger, spec) in look.triggers() {
        look.trigger(trigger, &spec, findings).await;
    }
    if config.publish == Publishing::Durable {
        look.published(findings);
    }
}

async fn connect(name: &str, config: &BusConfig, about: &str, findings: &mut Findings) -> Option<NatsBus> {
    let fix = "start it, correct its address, or log in otherwise (credentials, user, token, tls in [bus.…])";
    match tokio::time::timeout(CONNECT_TIMEOUT, nats::connect(name, config)).await {
        Ok(Ok(bus)) => return Some(bus),
        Ok(Err(error)) => findings.bad(about, error.to_string(), fix),
        Err(_) => {
            let (url, seconds) = (shown(&config.url), CONNECT_TIMEOUT.as_secs());
            findings.bad(about, format!("{url} does not answer within {seconds} s"), fix);
        }
    }
    None
}

/// False when there is no JetStream to look at.
async fn server(bus: &NatsBus, manifest: &Config, about: &str, findings: &mut Findings) -> bool {
    let facts = match inspect::server(bus).await {
        Ok(facts) => facts,
        Err(error) => {
            findings.bad(about, error.to_string(), "look at the server's log");
            return false;
        }
    };
    let trip = facts.round_trip.as_secs_f64() * 1e3;
    if !is_new_enough(&facts.version) {
        findings.bad(about, format!("nats-server {} is too old", facts.version), "upgrade it to 2.10 or newer");
    } else {
        findings.ok(about, format!("nats-server {}, round trip {trip:.1} ms", facts.version));
    }
    if manifest.node.limits.max_bytes < facts.max_payload {
        let text = format!(
            "the server takes messages of {} bytes, the nodes take {}: larger ones become dead letters",
            facts.max_payload, manifest.node.limits.max_bytes
        );
        findings.warn(about, text, "raise `limits.message` in [node], or lower the server's max_payload");
    }
    if let Err(error) = &facts.jetstream {
        let fix = "start nats-server with -js, or enable JetStream for the account; core NATS delivers at most once";
        findings.bad(about, format!("JetStream is not to be had: {error}"), fix);
        return false;
    }
    true
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= VERSION_MIN
}

impl Look<'_> {
    /// The JetStream triggers of this bus.
    fn triggers(&self) -> Vec<(&str, JetStreamSpec)> {
        let rows = self.tables.triggers.iter().filter(|t| t.bus == self.name);
        let specs = rows.filter_map(|t| match TriggerSpec::parse(&t.kind, &t.spec) {
            Ok(TriggerSpec::JetStream(spec)) => Some((t.name.as_str(), spec)),
            _ => None,
        });
        specs.collect()
    }

    async fn trigger(&self, trigger: &str, spec: &JetStreamSpec, findings: &mut Findings) {
        let about = format!("stream {}", spec.stream);
        let Some(stream) = self.streams.iter().find(|s| s.name == spec.stream) else {
            return self.missing_stream(trigger, spec, &about, findings).await;
        };
        describe_stream(stream, &about, findings);
        for subject in spec.subjects.iter().filter(|s| !stream.subjects.iter().any(|wide| covers(wide, s))) {
            let text = format!("it does not store {subject}, which the trigger {trigger} reads");
            findings.bad(&about, text, format!("nats stream edit {} --subjects …", spec.stream));
        }
        let durable = spec.durable(trigger);
        let about = format!("consumer {durable}");
        match inspect::consumer(self.bus, &spec.stream, &durable).await {
            Ok(Some(facts)) => self.consumer(trigger, spec, &facts, &about, findings),
            Ok(None) => findings.warn(about, "it is not there yet", "a node makes it: `oncue serve`"),
            Err(error) => findings.bad(about, error.to_string(), "grant this user $JS.API.CONSUMER.>"),
        }
    }

    async fn missing_stream(&self, trigger: &str, spec: &JetStreamSpec, about: &str, findings: &mut Findings) {
        let text = format!("it is not there; the trigger {trigger} reads it");
        if !spec.create_stream {
            let subjects = if spec.subjects.is_empty() { "…".to_owned() } else { spec.subjects.join(",") };
            let fix = format!(
                "nats stream add {} --subjects '{subjects}' --defaults, or `create_stream = true` on the trigger",
                spec.stream
            );
            return findings.bad(about, text, fix);
        }
        if !self.fix {
            return findings.warn(about, text, "a node makes it, or `oncue doctor --fix`");
        }
        match inspect::create_stream(self.bus, &spec.stream, spec.subjects.clone(), None).await {
            Ok(_) => findings.ok(about, format!("was made for {}", spec.subjects.join(", "))),
            Err(error) => findings.bad(about, error.to_string(), "give another stream's subjects up, or choose others"),
        }
    }

    fn consumer(
        &self,
        trigger: &str,
        spec: &JetStreamSpec,
        facts: &ConsumerFacts,
        about: &str,
        findings: &mut Findings,
    ) {
        let text = format!(
            "{} to deliver, {} not acknowledged (at most {}), {} of them delivered again, {} pulls wait",
            facts.pending, facts.ack_pending, facts.ack_pending_max, facts.redelivered, facts.waiting
        );
        findings.ok(about, text);
        if !facts.explicit_ack || facts.max_deliver != -1 {
            let text = "it does not acknowledge each message, or gives messages up: events would be lost";
            findings.bad(about, text, format!("name another one with `durable` on the trigger {trigger}"));
        }
        if usize::try_from(facts.ack_pending_max).is_ok_and(|max| facts.ack_pending >= max) {
            let fix = format!("wait, add nodes, or raise `max_ack_pending` of the trigger {trigger}");
            findings.warn(about, "everything that may be unacknowledged is: nothing more is delivered", fix);
        }
        if facts.pending > 0 && facts.waiting == 0 && facts.ack_pending == 0 {
            findings.warn(about, "messages wait and nobody asks for them", "`oncue serve`, or `oncue trigger resume`");
        }
        if let Some((function, timeout)) = self.slowest(trigger)
            && timeout > spec.ack_wait()
        {
            let text = format!(
                "ack_wait is {} s and {function} may run {} s: a node that hangs is noticed late, and only its signs of \
                 progress keep the message from being delivered again",
                spec.ack_wait().as_secs(),
                timeout.as_secs()
            );
            findings.warn(
                about,
                text,
                format!("raise `ack_wait` of the trigger {trigger} above the function's timeout"),
            );
        }
    }

    /// The function with the longest timeout that rules of `trigger` run.
    fn slowest(&self, trigger: &str) -> Option<(&str, Duration)> {
        let rules = self.tables.rules.iter().map(|r| &r.rule);
        let rules = rules.filter(|r| r.trigger.as_deref().is_none_or(|t| t == trigger));
        let specs = rules.filter_map(|r| match &r.target {
            Target::Run { function, .. } => self.current(function).map(|s| (function.as_str(), s.limits.timeout())),
            Target::Publish { .. } => None,
        });
        specs.max_by_key(|(_, timeout)| *timeout)
    }

    fn current(&self, function: &str) -> Option<&FunctionSpec> {
        self.tables.functions.iter().find(|f| f.current && f.function == function).map(|f| &f.spec)
    }

    /// Whether streams store what functions and rules publish.
    fn published(&self, findings: &mut Findings) {
        let current = self.tables.functions.iter().filter(|f| f.current);
        let grants =
            current.flat_map(|f| f.spec.grants.publish.iter().map(move |g| (format!("function {}", f.function), g)));
        let rules = self.tables.rules.iter().filter_map(|r| match &r.rule.target {
            Target::Publish { bus, subject } => Some((format!("rule {}", r.rule.name), format!("{bus}/{subject}"))),
            Target::Run { .. } => None,
        });
        let wanted: Vec<(String, String)> = grants.map(|(who, g)| (who, g.clone())).chain(rules).collect();
        for (who, target) in wanted {
            let Some((bus, subject)) = target.split_once('/') else { continue };
            let stored = self.streams.iter().flat_map(|s| &s.subjects).any(|wide| covers(wide, subject));
            if bus == self.name && !stored {
                let text = format!("no stream stores all of {subject}: what is published there and not stored fails");
                let fix = format!(
                    "nats stream add NAME --subjects '{subject}' --defaults, or `publish = \"core\"` in [bus.{bus}]"
                );
                findings.warn(who, text, fix);
            }
        }
    }
}

fn describe_stream(stream: &StreamFacts, about: &str, findings: &mut Findings) {
    let window = stream.duplicate_window.as_secs();
    let place = if stream.file { "on disk" } else { "in memory" };
    let text = format!(
        "{} messages of {}, {} copies {place}, duplicates known for {window} s",
        stream.messages,
        stream.subjects.join(", "),
        stream.replicas
    );
    findings.ok(about, text);
    if !stream.file {
        let text = "it is in memory: a restart of the server loses what was not read";
        findings.warn(
            about,
            text,
            format!("nats stream edit cannot change that: make {} anew with --storage file", stream.name),
        );
    } else if stream.replicas < 2 {
        let text = "one copy, and the server writes to disk each two minutes unless sync_interval says otherwise: a crash \
                    of its machine can lose messages that it acknowledged to their publishers";
        let fix = format!(
            "nats stream edit {} --replicas 3 in a cluster, or `sync_interval: always` in jetstream {{}}",
            stream.name
        );
        findings.warn(about, text, fix);
    }
    if stream.removes_acknowledged {
        let text =
            "it removes what is acknowledged: two triggers cannot both read it, and history cannot be read again";
        findings.warn(about, text, format!("make {} anew with --retention limits", stream.name));
    }
    if !stream.max_age.is_zero() && stream.max_age < Duration::from_secs(24 * 3_600) {
        let text = format!("messages live {} s: an outage that is longer loses events", stream.max_age.as_secs());
        findings.warn(about, text, format!("nats stream edit {} --max-age 7d", stream.name));
    }
}

#[cfg(test)]
mod tests {
    use super::is_new_enough;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let table = [("2.10.0", true), ("2.9.25", false), ("2.12.1-RC.1", true), ("3.0.0", true), ("dev", false)];
        for (version, expected) in table {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }
}

//! The Kafka buses: the brokers, how we log in, the topics that triggers read and functions publish to, the groups.
//!
//! Invariant: a question that fails is a finding and does not end the look. Nothing is changed: each finding has the
//! command that mends it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bus::BusConfig;
use crate::bus::inspect::covers;
use crate::bus::kafka::{KafkaBus, Mechanism, TopicFacts};
use crate::config::Config;
use crate::rules::Target;
use crate::store::control::ControlPlane;

use super::Findings;

mod group;
mod topic;

/// How long a broker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of a bus while it is looked at.
struct Look<'a> {
    bus: &'a KafkaBus,
    topics: &'a [TopicFacts],
    tables: &'a ControlPlane,
    /// The largest message that the nodes take.
    message_max: usize,
}

pub(super) async fn look(
    name: &str,
    config: &BusConfig,
    manifest: &Config,
    tables: Option<&ControlPlane>,
    findings: &mut Findings,
) {
    let about = format!("bus {name}");
    let fix = format!("start its brokers, or correct [bus.{name}]: `url`, `tls`, `mechanism`, `user`, `password`");
    let bus = match KafkaBus::new(name, config) {
        Ok(bus) => bus,
        Err(error) => return findings.bad(about, error.to_string(), fix),
    };
    login(config, &about, findings);
    match bus.ping().await {
        Ok(round_trip) => {
            let cluster = bus.cluster_id().await.ok().flatten();
            let cluster = cluster.map(|id| format!("cluster {id}, ")).unwrap_or_default();
            findings.ok(&about, format!("{cluster}round trip {:.1} ms", round_trip.as_secs_f64() * 1e3));
        }
        Err(error) => return findings.bad(about, error.to_string(), fix),
    }
    brokers(&bus, &about, findings).await;
    let topics = match bus.topics().await {
        Ok(topics) => topics,
        Err(error) => return findings.bad(about, error.to_string(), "look at the brokers' log"),
    };
    let Some(tables) = tables else { return };
    let look = Look { bus: &bus, topics: &topics, tables, message_max: manifest.node.limits.max_bytes };
    look.triggers(findings).await;
    look.published(findings).await;
}

/// What the configuration says about trust.
fn login(config: &BusConfig, about: &str, findings: &mut Findings) {
    let tls = &config.tls;
    let encrypted = tls.required || tls.ca.is_some() || tls.cert.is_some();
    if config.mechanism == Some(Mechanism::Plain) && !encrypted {
        let text = "the password goes over the network as it is";
        findings.warn(about, text, "`tls = { required = true }`, or a SCRAM `mechanism`");
    }
    let off = |key: &str, value: &str| config.options.get(key) == Some(value);
    let unverified = off("enable.ssl.certificate.verification", "false");
    if unverified || off("ssl.endpoint.identification.algorithm", "none") {
        let text = "the brokers' certificates are not checked: anybody between can read and write";
        let fix = "remove `enable.ssl.certificate.verification` and `ssl.endpoint.identification.algorithm` from \
                   `options`; `tls = { ca = \"…\" }` names the authority";
        findings.warn(about, text, fix);
    }
}

/// Whether every broker can be reached where the cluster says that it is: an address that only brokers know is the usual
/// mistake.
async fn brokers(bus: &KafkaBus, about: &str, findings: &mut Findings) {
    let brokers = match bus.broker_list().await {
        Ok(brokers) => brokers,
        Err(error) => return findings.bad(about, error.to_string(), "look at the brokers' log"),
    };
    let mut reached = 0;
    for broker in &brokers {
        let (id, address) = (broker.id, format!("{}:{}", broker.host, broker.port));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::TcpStream::connect(&address)).await;
        let error = match connected {
            Ok(Ok(_)) => {
                reached += 1;
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        let fix = format!("start it, or give broker {id} an `advertised.listeners` that this machine can reach");
        findings.bad(about, format!("broker {id} cannot be reached at {address}: {error}"), fix);
    }
    findings.ok(about, format!("{reached} of {} brokers can be reached", brokers.len()));
}

impl Look<'_> {
    /// Topics that functions and rules publish to.
    async fn published(&self, findings: &mut Findings) {
        let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
        let wanted = self.targets();
        for (who, subject) in &wanted {
            let mut found = self.topics.iter().filter(|topic| covers(subject, &topic.name)).peekable();
            if found.peek().is_none() {
                let text = format!("there is no topic {subject}: what is published there fails");
                findings.warn(who, text, self.create(subject));
            }
            for topic in found {
                if seen.insert(&topic.name, ()).is_none() {
                    self.topic(topic, findings).await;
                }
            }
        }
    }

    /// Who publishes where on this bus.
    fn targets(&self) -> Vec<(String, String)> {
        let current = self.tables.functions.iter().filter(|f| f.current);
        let grants = current
            .flat_map(|f| f.spec.grants.publish.iter().map(move |g| (format!("function {}", f.function), g.clone())));
        let rules = self.tables.rules.iter().filter_map(|r| match &r.rule.target {
            Target::Publish { bus, subject } => Some((format!("rule {}", r.rule.name), format!("{bus}/{subject}"))),
            Target::Run { .. } => None,
        });
        let all = grants.chain(rules);
        let here = all.filter_map(|(who, target)| {
            let (bus, subject) = target.split_once('/')?;
            (bus == self.bus.name()).then(|| (who, subject.to_owned()))
        });
        here.collect()
    }

    /// The command that makes a topic.
    fn create(&self, topic: &str) -> String {
        let topic = if topic.contains(['*', '>']) { "NAME" } else { topic };
        let server = self.server();
        format!("kafka-topics.sh {server} --create --topic {topic} --partitions 12 --replication-factor 3")
    }

    fn server(&self) -> String {
        let first = self.bus.brokers().split(',').next().unwrap_or_default().trim();
        format!("--bootstrap-server {first}")
    }
}

//! The checked list of librdkafka's properties: which of them `options` may set, and why not the others.
//!
//! Invariant: whatever decides what is lost, committed, ordered or trusted is Oncue's to set and is refused here with the
//! key that does it. A property that is not on the list is refused, so that a new one of librdkafka's is looked at first.
//! No error shows a value.

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use serde::Deserialize;

use super::Mistake;
use super::settings::Role;

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mechanism {
    /// User and password as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// A challenge, SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// A challenge, SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A bearer token.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::ScramSha256, Self::ScramSha512, Self::OauthBearer];

    /// As SASL names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// `options` of a bus: properties of librdkafka and their values as text. `Debug` shows the keys alone.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Options(BTreeMap<String, String>);

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Options {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(options: T) -> Self {
        Self(options.into_iter().collect())
    }
}

/// Which clients a property is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    All,
    Tls,
    Consumer,
    Producer,
}

/// What may be set.
pub(super) const OPTIONS: &[(&str, Of)] = &[
    ("api.version.request.timeout.ms", Of::All),
    ("broker.address.family", Of::All),
    ("broker.address.ttl", Of::All),
    ("client.dns.lookup", Of::All),
    ("client.rack", Of::All),
    ("connections.max.idle.ms", Of::All),
    ("debug", Of::All),
    ("enable.metrics.push", Of::All),
    ("message.max.bytes", Of::All),
    ("metadata.max.age.ms", Of::All),
    ("metadata.recovery.rebootstrap.trigger.ms", Of::All),
    ("metadata.recovery.strategy", Of::All),
    ("receive.message.max.bytes", Of::All),
    ("reconnect.backoff.max.ms", Of::All),
    ("reconnect.backoff.ms", Of::All),
    ("retry.backoff.max.ms", Of::All),
    ("retry.backoff.ms", Of::All),
    ("socket.connection.setup.timeout.ms", Of::All),
    ("socket.keepalive.enable", Of::All),
    ("socket.max.fails", Of::All),
    ("socket.nagle.disable", Of::All),
    ("socket.receive.buffer.bytes", Of::All),
    ("socket.send.buffer.bytes", Of::All),
    ("socket.timeout.ms", Of::All),
    ("topic.metadata.propagation.max.ms", Of::All),
    ("topic.metadata.refresh.interval.ms", Of::All),
    ("enable.ssl.certificate.verification", Of::Tls),
    ("ssl.cipher.suites", Of::Tls),
    ("ssl.crl.location", Of::Tls),
    ("ssl.curves.list", Of::Tls),
    ("ssl.endpoint.identification.algorithm", Of::Tls),
    ("ssl.key.password", Of::Tls),
    ("ssl.keystore.location", Of::Tls),
    ("ssl.keystore.password", Of::Tls),
    ("ssl.providers", Of::Tls),
    ("ssl.sigalgs.list", Of::Tls),
    ("check.crcs", Of::Consumer),
    ("fetch.error.backoff.ms", Of::Consumer),
    ("fetch.max.bytes", Of::Consumer),
    ("fetch.min.bytes", Of::Consumer),
    ("fetch.queue.backoff.ms", Of::Consumer),
    ("fetch.wait.max.ms", Of::Consumer),
    ("heartbeat.interval.ms", Of::Consumer),
    ("isolation.level", Of::Consumer),
    ("max.partition.fetch.bytes", Of::Consumer),
    ("max.poll.interval.ms", Of::Consumer),
    ("queued.max.messages.kbytes", Of::Consumer),
    ("queued.min.messages", Of::Consumer),
    ("session.timeout.ms", Of::Consumer),
    ("batch.num.messages", Of::Producer),
    ("batch.size", Of::Producer),
    ("compression.level", Of::Producer),
    ("compression.type", Of::Producer),
    ("delivery.timeout.ms", Of::Producer),
    ("linger.ms", Of::Producer),
    ("message.copy.max.bytes", Of::Producer),
    ("partitioner", Of::Producer),
    ("queue.buffering.max.kbytes", Of::Producer),
    ("queue.buffering.max.messages", Of::Producer),
    ("request.timeout.ms", Of::Producer),
    ("sticky.partitioning.linger.ms", Of::Producer),
];

/// What stands before a range in librdkafka's errors. It repeats values, so that nothing else of them is shown.
const RANGE: &str = "outside allowed range ";

const COMMITS: &str = "remove it: Oncue commits what is settled, and nothing else";
const DURABLE: &str = "remove it: Oncue publishes with an idempotent producer and acks=all";
const LEVEL: &str = "remove it: `[node] log` says what is logged";
const MEMBER: &str = "set it on the trigger";
const OLD: &str = "remove it: brokers before 0.10 are not supported";
const PEM: &str = "write it to a file and name that in `tls`";
const TOKEN: &str = "set `mechanism = \"OAUTHBEARER\"` and `credentials` (a file with the token, read again before the token \
     ends) or `token`";
const KERBEROS: &str = "remove it: this build has no Kerberos; `mechanism` is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or \
     OAUTHBEARER";

/// What may not be set, and what to do instead. One that ends in a dot stands for all that begin so.
pub(super) const OWNED: &[(&str, &str)] = &[
    ("acks", DURABLE),
    ("allow.auto.create.topics", "remove it: a topic that does not exist is an error; create it with kafka-topics.sh"),
    ("api.version.fallback.ms", OLD),
    ("api.version.request", OLD),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("auto.offset.reset", "set `start` on the trigger: where it begins; later nothing is ever skipped by itself"),
    ("bootstrap.servers", "write it in `url`"),
    ("broker.version.fallback", OLD),
    ("client.id", "remove it: Oncue names each client after its bus, its trigger and its node"),
    ("compression.codec", "call it `compression.type`"),
    ("delivery.report.only.error", DURABLE),
    ("enable.auto.commit", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("enable.gapless.guarantee", DURABLE),
    ("enable.idempotence", DURABLE),
    ("enable.partition.eof", "remove it: triggers ask for the end of a partition themselves"),
    ("enable.sasl.oauthbearer.unsecure.jwt", TOKEN),
    ("fetch.message.max.bytes", "call it `max.partition.fetch.bytes`"),
    ("group.id", "set `group` on the trigger"),
    ("group.instance.id", "remove it: two nodes with one id would throw each other out of the group"),
    ("group.protocol", MEMBER),
    ("group.protocol.type", MEMBER),
    ("group.remote.assignor", MEMBER),
    ("https.ca.", TOKEN),
    ("interceptors", "remove it: no code is loaded into a node"),
    ("internal.termination.signal", "remove it: Oncue ends its clients itself"),
    ("log.", LEVEL),
    ("log_level", LEVEL),
    ("max.in.flight", DURABLE),
    ("max.in.flight.requests.per.connection", DURABLE),
    ("message.send.max.retries", DURABLE),
    ("message.timeout.ms", "call it `delivery.timeout.ms`"),
    ("metadata.broker.list", "write it in `url`"),
    ("msg_order_cmp", DURABLE),
    ("offset.store.", COMMITS),
    ("partition.assignment.strategy", MEMBER),
    ("plugin.library.paths", "remove it: no code is loaded into a node"),
    ("queue.buffering.backpressure.threshold", DURABLE),
    ("queue.buffering.max.ms", "call it `linger.ms`"),
    ("queuing.strategy", DURABLE),
    ("request.required.acks", DURABLE),
    ("retries", DURABLE),
    ("sasl.kerberos.", KERBEROS),
    ("sasl.mechanism", "set `mechanism` on the bus"),
    ("sasl.mechanisms", "set `mechanism` on the bus"),
    ("sasl.oauthbearer.", TOKEN),
    ("sasl.password", "set `password` on the bus"),
    ("sasl.username", "set `user` on the bus"),
    ("security.protocol", "set `tls = { required = true }` for TLS and `mechanism` for SASL"),
    ("ssl.ca.location", "set `tls = { ca = \"…\" }`"),
    ("ssl.ca.pem", PEM),
    ("ssl.certificate.location", "set `tls = { cert = \"…\", key = \"…\" }`"),
    ("ssl.certificate.pem", PEM),
    ("ssl.engine.", "use `ssl.providers`"),
    ("ssl.key.location", "set `tls = { cert = \"…\", key = \"…\" }`"),
    ("ssl.key.pem", PEM),
    ("statistics.interval.ms", "remove it: lag, commits and rebalances are at /metrics"),
    ("topic.blacklist", "name the topics on the trigger"),
    ("transaction.timeout.ms", DURABLE),
    ("transactional.id", DURABLE),
];

impl Options {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Those that concern a client of this role.
    pub(super) fn of(&self, role: Role) -> impl Iterator<Item = (&str, &str)> {
        let concerns = move |of: Of| match of {
            Of::All | Of::Tls => true,
            Of::Consumer => role == Role::Consumer,
            Of::Producer => role == Role::Producer,
        };
        let of = |key: &str| OPTIONS.iter().find(|(known, _)| *known == key).map(|(_, of)| *of);
        let pairs = self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        pairs.filter(move |(key, _)| of(key).is_some_and(concerns))
    }

    /// Checks every key and every value; `tls` is whether the bus uses it.
    pub(super) fn check(&self, tls: bool) -> Result<(), Mistake> {
        for (key, value) in &self.0 {
            let of = known(key)?;
            if of == Of::Tls && !tls {
                let fix = "add `tls = { required = true }`, or remove it".to_owned();
                return Err(mistake(key, "the bus uses no TLS", fix));
            }
            check_value(key, value)?;
        }
        self.check_pairs()
    }

    /// What librdkafka would find only when the client is made.
    fn check_pairs(&self) -> Result<(), Mistake> {
        let number = |key: &str, default: u64| self.get(key).and_then(|v| v.parse().ok()).unwrap_or(default);
        // The defaults are librdkafka's, or ours where `settings` has one.
        let ordered = [
            ("reconnect.backoff.ms", 100, "reconnect.backoff.max.ms", 10_000, 0),
            ("retry.backoff.ms", 100, "retry.backoff.max.ms", 1_000, 0),
            ("session.timeout.ms", 45_000, "max.poll.interval.ms", 300_000, 0),
            ("heartbeat.interval.ms", 3_000, "session.timeout.ms", 45_000, 1),
            ("linger.ms", 5, "delivery.timeout.ms", 5_000, 0),
            ("message.max.bytes", 1_000_000, "fetch.max.bytes", 1 << 30, 0),
            ("fetch.max.bytes", 0, "receive.message.max.bytes", 1 << 31, 512),
        ];
        for (low, low_default, high, high_default, room) in ordered {
            if self.get(low).is_none() && self.get(high).is_none() {
                continue;
            }
            let (low_value, high_value) = (number(low, low_default), number(high, high_default));
            if low_value + room > high_value {
                let key = if self.get(low).is_some() { low } else { high };
                let above = if room > 0 { format!("at least {room} above") } else { "at least".to_owned() };
                let message = format!("`{low}` and `{high}` conflict");
                return Err(mistake(key, &message, format!("`{high}` must be {above} `{low}`")));
            }
        }
        if self.get("ssl.keystore.location").is_some() != self.get("ssl.keystore.password").is_some() {
            let fix = "give both or neither".to_owned();
            let message = "`ssl.keystore.location` and `ssl.keystore.password` go together";
            return Err(mistake("ssl.keystore.location", message, fix));
        }
        let delivery = number("delivery.timeout.ms", 5_000);
        if !(1_000..=300_000).contains(&delivery) {
            return Err(mistake(
                "delivery.timeout.ms",
                "it is not from 1000 to 300000",
                "a delivery waits that long for its acknowledgement".to_owned(),
            ));
        }
        Ok(())
    }
}

fn known(key: &str) -> Result<Of, Mistake> {
    if let Some((_, of)) = OPTIONS.iter().find(|(known, _)| *known == key) {
        return Ok(*of);
    }
    let stands_for = |owned: &str| owned == key || (owned.ends_with('.') && key.starts_with(owned));
    if let Some((_, fix)) = OWNED.iter().find(|(owned, _)| stands_for(owned)) {
        return Err(mistake(key, "this is Oncue's to set", (*fix).to_owned()));
    }
    let fix = match nearest(key) {
        Some(near) => format!("did you mean `{near}`? docs/kafka.md lists the options"),
        None => "docs/kafka.md lists the options".to_owned(),
    };
    Err(mistake(key, "this is no option of a Kafka bus", fix))
}

fn nearest(key: &str) -> Option<&'static str> {
    let like = |known: &str| strsim::jaro_winkler(key, known);
    let best = OPTIONS.iter().map(|(known, _)| *known).max_by(|a, b| like(a).total_cmp(&like(b)));
    best.filter(|known| like(known) > 0.75)
}

/// Lets librdkafka judge one value.
fn check_value(key: &str, value: &str) -> Result<(), Mistake> {
    let alone = ClientConfig::new().set(key, value).create_native_config();
    let Err(error) = alone else { return Ok(()) };
    let range = match &error {
        KafkaError::ClientConfig(_, text, ..) => text.split_once(RANGE).map(|(_, range)| range.trim_end()),
        _ => None,
    };
    let words = match range {
        Some(range) => format!("its value is outside the allowed range {range}"),
        None => "its value is not valid".to_owned(),
    };
    Err(mistake(key, &words, String::new()))
}

fn mistake(key: &str, message: &str, fix: String) -> Mistake {
    Mistake { key: format!("options.{key}"), message: message.to_owned(), fix }
}

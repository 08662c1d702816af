//! From `[bus.NAME]` to the properties of librdkafka's clients.
//!
//! Invariant: what is durable and what is committed is decided here, last, whatever `options` say. A configuration that
//! passes [`check`] says one way to log in and everything that this way needs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::Mistake;
use super::options::Mechanism;
use crate::bus::BusConfig;

/// Bytes that a consumer holds before the trigger has taken them; librdkafka's default is 64 MiB.
const CONSUMER_QUEUE_KBYTES: &str = "16384";
/// Bytes of one answer to a fetch, over all partitions; never below the largest message.
const FETCH_BYTES: u64 = 16 << 20;
/// Bytes that wait for brokers before publishing waits too; librdkafka's default is 1 GiB.
const PRODUCER_QUEUE_KBYTES: &str = "65536";
/// How long a probe's connection may take, TLS and login included. librdkafka looks once a second and its default is 30 s:
/// of a port that does not speak TLS a question would end, after `ANSWER_TIMEOUT`, before there is a reason to tell.
const PROBE_SETUP_MS: &str = "3000";
/// librdkafka's default of `message.max.bytes`.
const MESSAGE_BYTES: u64 = 1_000_000;

/// How long a record may take to be acknowledged, where the options say nothing: as long as on NATS.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a record waits for others to its partition, where the options say nothing: as with the Java clients since 4.0.
const LINGER: Duration = Duration::from_millis(5);

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A trigger's.
    Consumer,
    /// Publishes.
    Producer,
    /// Asks for facts.
    Probe,
}

/// Checks the configuration of a Kafka bus as far as it can be known without its brokers.
///
/// # Errors
/// The first mistake, with its key.
pub fn check(config: &BusConfig) -> Result<(), Mistake> {
    check_brokers(&config.url)?;
    check_login(config)?;
    config.options.check(uses_tls(config))
}

/// How long a record may take to be acknowledged.
pub(super) fn delivery_timeout(config: &BusConfig) -> Duration {
    let ms = config.options.get("delivery.timeout.ms").and_then(|ms| ms.parse().ok());
    ms.map_or(DELIVERY_TIMEOUT, Duration::from_millis)
}

/// How long a record waits for others to its partition, where nothing is on its way.
pub(super) fn linger(config: &BusConfig) -> Duration {
    let ms = config.options.get("linger.ms").and_then(|ms| ms.parse::<f64>().ok());
    ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1_000.0).ok()).unwrap_or(LINGER)
}

/// Most records that a producer queues.
pub(super) fn producer_queue(config: &BusConfig) -> usize {
    let records = config.options.get("queue.buffering.max.messages").and_then(|records| records.parse().ok());
    records.unwrap_or(usize::MAX)
}

/// The properties of a client of this role.
pub(super) fn settings(config: &BusConfig, role: Role) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut set = |key: &str, value: &str| {
        settings.insert(key.to_owned(), value.to_owned());
    };
    let message_bytes = config.options.get("message.max.bytes").and_then(|v| v.parse().ok()).unwrap_or(MESSAGE_BYTES);
    let usual: &[(&str, &str)] = match role {
        Role::Consumer => &[
            ("isolation.level", "read_committed"),
            ("queued.max.messages.kbytes", CONSUMER_QUEUE_KBYTES),
            ("fetch.max.bytes", &FETCH_BYTES.max(message_bytes).to_string()),
        ],
        Role::Producer => &[
            ("delivery.timeout.ms", &DELIVERY_TIMEOUT.as_millis().to_string()),
            ("linger.ms", &LINGER.as_millis().to_string()),
            // As the Java clients do: a key has one partition, whoever writes it.
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.kbytes", PRODUCER_QUEUE_KBYTES),
            // How long an unknown topic may be one that is just being made.
            ("topic.metadata.propagation.max.ms", "1000"),
        ],
        Role::Probe => &[("socket.connection.setup.timeout.ms", PROBE_SETUP_MS)],
    };
    set("socket.keepalive.enable", "true");
    usual.iter().for_each(|(key, value)| set(key, value));
    config.options.of(role).for_each(|(key, value)| set(key, value));
    security(config, &mut set);
    let owned: &[(&str, &str)] = match role {
        Role::Consumer => &[
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "false"),
        ],
        Role::Producer => &[("enable.idempotence", "true"), ("acks", "all")],
        Role::Probe => &[],
    };
    owned.iter().for_each(|(key, value)| set(key, value));
    let brokers: Vec<&str> = config.url.split(',').map(str::trim).collect();
    set("bootstrap.servers", &brokers.join(","));
    set("allow.auto.create.topics", "false");
    // A broker closes what is idle, and the client opens it again when it is needed. Those that only ask and write wait for an
    // answer, and have to say why there is none.
    set("log.connection.close", if role == Role::Consumer { "false" } else { "true" });
    settings
}

fn security(config: &BusConfig, set: &mut impl FnMut(&str, &str)) {
    let protocol = match (uses_tls(config), config.mechanism.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    set("security.protocol", protocol);
    let files = [
        ("ssl.ca.location", &config.tls.ca),
        ("ssl.certificate.location", &config.tls.cert),
        ("ssl.key.location", &config.tls.key),
    ];
    for (key, file) in files {
        if let Some(file) = file {
            set(key, &file.to_string_lossy());
        }
    }
    let Some(mechanism) = config.mechanism else { return };
    set("sasl.mechanism", mechanism.name());
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        set("sasl.username", user);
        set("sasl.password", &password.0);
    }
}

/// Whether connections are TLS.
pub(super) fn uses_tls(config: &BusConfig) -> bool {
    let tls = &config.tls;
    tls.required || tls.ca.is_some() || tls.cert.is_some() || tls.key.is_some()
}

fn check_brokers(url: &str) -> Result<(), Mistake> {
    let wrong = |message: String, fix: &str| Mistake { key: "url".to_owned(), message, fix: fix.to_owned() };
    for (at, broker) in url.split(',').map(str::trim).enumerate() {
        // By its place: a url that is none may be anything, a password too.
        let none = || format!("broker {} of the url is no broker", at + 1);
        if broker.contains('@') {
            // What stands before it may be a password.
            let fix = "use `user` and `password`";
            return Err(wrong("the address of a broker holds no user".to_owned(), fix));
        }
        if broker.contains("://") {
            let fix = "write host:port; TLS is `tls = { required = true }`";
            return Err(wrong(none(), fix));
        }
        let (host, port) = match broker.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (broker, None),
        };
        let name = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_host = !name.is_empty() && name.chars().all(plain) && (name != host || !host.contains(':'));
        let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_host || !is_port {
            let fix = "it looks like \"kafka-1:9092,kafka-2:9092\"; without a port it is 9092";
            return Err(wrong(none(), fix));
        }
    }
    Ok(())
}

fn check_login(config: &BusConfig) -> Result<(), Mistake> {
    let wrong = |key: &str, message: &str, fix: &str| {
        Err(Mistake { key: key.to_owned(), message: message.to_owned(), fix: fix.to_owned() })
    };
    let has_token = config.token.is_some() || config.credentials.is_some();
    let token_key = if config.token.is_some() { "token" } else { "credentials" };
    match config.mechanism {
        None if config.user.is_some() => {
            let fix = "add `mechanism`: \"SCRAM-SHA-512\", \"SCRAM-SHA-256\" or \"PLAIN\", as the brokers have it";
            wrong("user", "nothing says how to log in", fix)
        }
        None if has_token => {
            wrong(token_key, "nothing says how to log in", "add `mechanism = \"OAUTHBEARER\"`, or remove it")
        }
        Some(Mechanism::OauthBearer) if config.user.is_some() => {
            wrong("user", "OAUTHBEARER takes a token", "use `credentials` (a file with the token) or `token`")
        }
        Some(Mechanism::OauthBearer) if !has_token => {
            wrong("mechanism", "there is no token", "add `credentials` (a file with the token) or `token`")
        }
        Some(Mechanism::Plain | Mechanism::ScramSha256 | Mechanism::ScramSha512) if has_token => {
            wrong(token_key, "a token needs `mechanism = \"OAUTHBEARER\"`", "use `user` and `password`")
        }
        Some(Mechanism::Plain | Mechanism::ScramSha256 | Mechanism::ScramSha512) if config.user.is_none() => {
            wrong("mechanism", "there is no user", "add `user` and `password`")
        }
        _ => Ok(()),
    }
}

//! `[bus.NAME]`: connections. They stay in the configuration of the node and are never written to a table.
//!
//! Invariant: a bus that was read has an address and at most one way to prove who it is, and no key of another kind. No
//! error shows a value.

use std::path::PathBuf;

use crate::bus::kafka::{self, Mechanism, Mistake, Options};
use crate::bus::{BusConfig, BusKind, Publishing, Secret, Tls, nats, postgres};

use super::error::ConfigError;
use super::reader::{Field, Node, Section, Value, join, wrong_type};
use super::values::{NAME_FORM, is_name};

const KEYS: &[&str] = &[
    "kind",
    "url",
    "credentials",
    "user",
    "password",
    "token",
    "mechanism",
    "tls",
    "publish",
    "accept_unbounded_wal",
    "options",
];
/// Keys that are none of a NATS bus, with what to do instead.
const NOT_NATS: &[(&str, &str)] = &[
    ("accept_unbounded_wal", "remove it"),
    ("mechanism", "remove it: `credentials`, `user` with `password` or `token` says how to log in"),
    ("options", "remove it"),
];
/// And none of a Kafka bus.
const NOT_KAFKA: &[(&str, &str)] = &[
    ("accept_unbounded_wal", "remove it"),
    ("publish", "remove it: what is published is acknowledged by every in-sync replica"),
];
/// And none of a Postgres bus.
const NOT_POSTGRES: &[(&str, &str)] = &[
    ("credentials", "use `user` and `password`, or write them into the url"),
    ("token", "use `user` and `password`, or write them into the url"),
    ("mechanism", "remove it: the server says how to log in"),
    ("tls", "write it into the url: ?sslmode=verify-full&sslrootcert=/path/ca.pem"),
    ("publish", "remove it: what is published is committed"),
    ("options", "write them into the url"),
];
const TLS_KEYS: &[&str] = &["required", "ca", "cert", "key"];

/// Reads the bus `name` at `path`.
pub(super) fn read(name: &str, node: &Node, path: &str) -> Result<BusConfig, ConfigError> {
    let section = Section::open(node, path, KEYS)?;
    if !is_name(name) {
        return Err(section.error("", format!("{name:?} cannot be the name of a bus"), NAME_FORM.to_owned()));
    }
    let kind = kind(&section.required("kind", "\"nats\", \"kafka\" or \"postgres\"")?)?;
    let (strangers, example) = match kind {
        BusKind::Nats => (NOT_NATS, "\"${NATS_URL}\""),
        BusKind::Kafka => (NOT_KAFKA, "\"${KAFKA_BROKERS}\""),
        BusKind::Postgres => (NOT_POSTGRES, "\"${DATABASE_URL}\""),
    };
    if let Some((key, fix)) = strangers.iter().find(|(key, _)| section.get(key).is_some()) {
        return Err(section.error(key, format!("`{key}` is no key of a {} bus", kind.name()), (*fix).to_owned()));
    }
    let text = |key: &str| section.get(key).map(|f| f.word().map(str::to_owned)).transpose();
    let secret = |key: &str| text(key).map(|s| s.map(Secret));
    let bus = BusConfig {
        kind,
        url: section.required("url", example)?.word()?.to_owned(),
        credentials: text("credentials")?.map(PathBuf::from),
        user: text("user")?,
        password: secret("password")?,
        token: secret("token")?,
        mechanism: section.get("mechanism").map(|f| mechanism(&f)).transpose()?,
        tls: section.get("tls").map_or(Ok(Tls::default()), |f| tls(&f))?,
        publish: section.get("publish").map_or(Ok(Publishing::default()), |f| publishing(&f))?,
        accept_unbounded_wal: section.get("accept_unbounded_wal").map_or(Ok(false), |f| f.flag())?,
        options: section.get("options").map_or(Ok(Options::default()), |f| options(&f))?,
    };
    check(&section, &bus)?;
    match kind {
        BusKind::Nats => {
            nats::check_address(&bus.url).map_err(|message| section.error("url", message, String::new()))?;
        }
        BusKind::Kafka => kafka::check(&bus).map_err(|mistake| kafka_error(&section, mistake))?,
        BusKind::Postgres => {
            postgres::check_address(&bus).map_err(|message| section.error("url", message, String::new()))?;
        }
    }
    Ok(bus)
}

fn kind(field: &Field<'_>) -> Result<BusKind, ConfigError> {
    match field.text()? {
        "nats" => Ok(BusKind::Nats),
        "kafka" => Ok(BusKind::Kafka),
        "postgres" => Ok(BusKind::Postgres),
        _ => Err(field.error("this is no kind of bus", "it is \"nats\", \"kafka\" or \"postgres\"")),
    }
}

fn mechanism(field: &Field<'_>) -> Result<Mechanism, ConfigError> {
    let text = field.text()?;
    Mechanism::ALL.into_iter().find(|m| m.name() == text).ok_or_else(|| {
        let fix = format!("it is one of {}", Mechanism::ALL.map(Mechanism::name).join(", "));
        field.error("this is no way to log in", fix)
    })
}

/// Properties of librdkafka: text, numbers and booleans. Whether there is such a one is the bus's to say.
fn options(field: &Field<'_>) -> Result<Options, ConfigError> {
    let Value::Table(entries) = &field.node.value else {
        return Err(wrong_type(field.node, &field.path, "a table"));
    };
    let option = |key: &str, node: &Node| match &node.value {
        Value::Text(text) => Ok((key.to_owned(), text.clone())),
        Value::Number(number) => Ok((key.to_owned(), number.clone())),
        Value::Flag(flag) => Ok((key.to_owned(), flag.to_string())),
        _ => Err(wrong_type(node, &join(&field.path, key), "a string, a number, true or false")),
    };
    entries.iter().map(|entry| option(&entry.key, &entry.node)).collect()
}

/// The mistake at the place of its key.
fn kafka_error(section: &Section<'_>, mistake: Mistake) -> ConfigError {
    let Mistake { key, message, fix } = mistake;
    let inside = key.strip_prefix("options.").and_then(|option| Some((section.get("options")?, option)));
    match inside {
        Some((options, option)) => {
            let node = options.node.get(option).unwrap_or(options.node);
            ConfigError { place: node.place.clone(), key: join(&options.path, option), message, fix }
        }
        None => section.error(&key, message, fix),
    }
}

fn tls(field: &Field<'_>) -> Result<Tls, ConfigError> {
    let section = Section::open(field.node, &field.path, TLS_KEYS)?;
    let path = |key: &str| section.get(key).map(|f| f.word().map(PathBuf::from)).transpose();
    let required = section.get("required").map_or(Ok(false), |f| f.flag())?;
    let tls = Tls { required, ca: path("ca")?, cert: path("cert")?, key: path("key")? };
    if tls.cert.is_some() != tls.key.is_some() {
        return Err(section.error("", "`cert` and `key` go together".to_owned(), "give both or neither".to_owned()));
    }
    Ok(tls)
}

fn publishing(field: &Field<'_>) -> Result<Publishing, ConfigError> {
    match field.text()? {
        "durable" => Ok(Publishing::Durable),
        "core" => Ok(Publishing::Core),
        _ => Err(field.error("this is no way to publish", "it is \"durable\" or \"core\"")),
    }
}

fn check(section: &Section<'_>, bus: &BusConfig) -> Result<(), ConfigError> {
    if bus.user.is_some() != bus.password.is_some() {
        let fix = "give both or neither".to_owned();
        return Err(section.error("user", "`user` and `password` go together".to_owned(), fix));
    }
    let ways = [bus.credentials.is_some(), bus.user.is_some(), bus.token.is_some()];
    if ways.iter().filter(|w| **w).count() > 1 {
        let fix = "keep one of `credentials`, `user` with `password`, `token`".to_owned();
        return Err(section.error("", "there is more than one way to log in".to_owned(), fix));
    }
    Ok(())
}

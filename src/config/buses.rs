//! `[bus.NAME]`: connections. They stay in the configuration of the node and are never written to a table.
//!
//! Invariant: a bus that was read has an address and at most one way to prove who it is, and no key of another kind.

use std::path::PathBuf;

use crate::bus::{BusConfig, BusKind, Publishing, Secret, Tls, postgres};

use super::error::ConfigError;
use super::reader::{Field, Node, Section};
use super::values::{NAME_FORM, is_name};

const KEYS: &[&str] =
    &["kind", "url", "credentials", "user", "password", "token", "tls", "publish", "accept_unbounded_wal"];
/// Keys of one kind of bus, with what does it for the other.
const NATS_ONLY: &[(&str, &str)] = &[
    ("credentials", "use `user` and `password`, or write them into the url"),
    ("token", "use `user` and `password`, or write them into the url"),
    ("tls", "write it into the url: ?sslmode=verify-full&sslrootcert=/path/ca.pem"),
    ("publish", "remove it: what is published is committed"),
];
const POSTGRES_ONLY: &[(&str, &str)] = &[("accept_unbounded_wal", "remove it")];
const TLS_KEYS: &[&str] = &["required", "ca", "cert", "key"];

/// Reads the bus `name` at `path`.
pub(super) fn read(name: &str, node: &Node, path: &str) -> Result<BusConfig, ConfigError> {
    let section = Section::open(node, path, KEYS)?;
    if !is_name(name) {
        return Err(section.error("", format!("{name:?} cannot be the name of a bus"), NAME_FORM.to_owned()));
    }
    let kind = kind(&section.required("kind", "\"nats\" or \"postgres\"")?)?;
    let strangers = if kind == BusKind::Nats { POSTGRES_ONLY } else { NATS_ONLY };
    if let Some((key, fix)) = strangers.iter().find(|(key, _)| section.get(key).is_some()) {
        return Err(section.error(key, format!("`{key}` is no key of a {} bus", kind.name()), (*fix).to_owned()));
    }
    let example = if kind == BusKind::Nats { "\"${NATS_URL}\"" } else { "\"${DATABASE_URL}\"" };
    let text = |key: &str| section.get(key).map(|f| f.word().map(str::to_owned)).transpose();
    let secret = |key: &str| text(key).map(|s| s.map(Secret));
    let bus = BusConfig {
        kind,
        url: section.required("url", example)?.word()?.to_owned(),
        credentials: text("credentials")?.map(PathBuf::from),
        user: text("user")?,
        password: secret("password")?,
        token: secret("token")?,
        tls: section.get("tls").map_or(Ok(Tls::default()), |f| tls(&f))?,
        publish: section.get("publish").map_or(Ok(Publishing::default()), |f| publishing(&f))?,
        accept_unbounded_wal: section.get("accept_unbounded_wal").map_or(Ok(false), |f| f.flag())?,
    };
    check(&section, &bus)?;
    if kind == BusKind::Postgres
        && let Err(message) = postgres::check_address(&bus)
    {
        return Err(section.error("url", message, String::new()));
    }
    Ok(bus)
}

fn kind(field: &Field<'_>) -> Result<BusKind, ConfigError> {
    match field.text()? {
        "nats" => Ok(BusKind::Nats),
        "postgres" => Ok(BusKind::Postgres),
        "kafka" => {
            let fix = "use \"nats\" or \"postgres\"";
            Err(field.error("buses of the kind \"kafka\" are not supported by this version", fix))
        }
        other => Err(field.error(format!("{other:?} is no kind of bus"), "it is \"nats\" or \"postgres\"")),
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
        other => Err(field.error(format!("{other:?} is no way to publish"), "it is \"durable\" or \"core\"")),
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

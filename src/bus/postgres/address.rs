//! The address of a Postgres bus: libpq's URL, read once for both kinds of connection, so that a statement and a
//! replication stream go to the same server in the same way.
//!
//! Invariant: a password is never shown by `Debug` or in an error, and a parameter that is not understood is an error
//! and never ignored. Connects to nothing; of the environment only the user's name is taken where the URL has none.

use std::path::PathBuf;
use std::str::FromStr;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::error::SourceError;
use crate::bus::{BusConfig, Secret};

const FORM: &str = "it looks like postgres://user:password@host:5432/database?sslmode=verify-full";
const ENCODE: &str = "@, :, /, ? and % of a password are written %40, %3A, %2F, %3F and %25";
const PORT: u16 = 5432;

/// How far a server must prove who it is, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it; nothing is verified.
    #[default]
    Prefer,
    /// TLS; nothing is verified.
    Require,
    /// The certificate must come from a trusted authority.
    VerifyCa,
    /// And be that of the host.
    VerifyFull,
}

impl SslMode {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "prefer" | "allow" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }

    fn options(self) -> PgSslMode {
        match self {
            Self::Disable => PgSslMode::Disable,
            Self::Prefer => PgSslMode::Prefer,
            Self::Require => PgSslMode::Require,
            Self::VerifyCa => PgSslMode::VerifyCa,
            Self::VerifyFull => PgSslMode::VerifyFull,
        }
    }
}

/// TLS of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceTls {
    /// How far the server must prove who it is.
    pub mode: SslMode,
    /// Authorities to trust, PEM; the system's without.
    pub ca: Option<PathBuf>,
    /// This client's certificate, PEM.
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
}

/// What a replication connection needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// The host's name or address; `localhost` where there is a socket.
    pub host: String,
    /// The port; part of the socket's name too.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password, empty without one.
    pub password: Secret,
    /// The database.
    pub database: String,
    /// TLS; always off on a socket.
    pub tls: SourceTls,
    /// The directory of the Unix socket to use instead of the host.
    pub socket: Option<PathBuf>,
}

impl Replication {
    /// Reads the bus's address; its `user` and `password` stand in where the URL has none.
    pub(super) fn read(bus: &str, config: &BusConfig) -> Result<Self, SourceError> {
        let fail = |message: String| SourceError::Address { bus: bus.to_owned(), message };
        Self::of(config).map_err(fail)
    }

    /// Reads an address that stands alone.
    ///
    /// # Errors
    /// What is wrong with it, without any part that may be secret.
    pub fn of_url(url: &str) -> Result<Self, String> {
        Self::whole(url, None, None)
    }

    fn of(config: &BusConfig) -> Result<Self, String> {
        Self::whole(&config.url, config.user.clone(), config.password.clone())
    }

    fn whole(url: &str, user: Option<String>, password: Option<Secret>) -> Result<Self, String> {
        let mut read = parse(url)?;
        if read.user.is_empty() {
            read.user = user.unwrap_or_else(|| whoami().unwrap_or_else(|| "postgres".to_owned()));
        }
        if read.password.0.is_empty() {
            read.password = password.unwrap_or_else(|| Secret(String::new()));
        }
        if read.database.is_empty() {
            read.database.clone_from(&read.user);
        }
        if read.socket.is_some() {
            read.tls = SourceTls { mode: SslMode::Disable, ..SourceTls::default() };
        }
        Ok(read)
    }

    /// Where the server is, for people: without user and password.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.socket {
            Some(socket) => format!("{}:{}/{}", socket.display(), self.port, self.database),
            None => format!("{}:{}/{}", self.host, self.port, self.database),
        }
    }

    /// The same for statements.
    pub(super) fn options(&self) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.user)
            .password(&self.password.0)
            .database(&self.database)
            .ssl_mode(self.tls.mode.options())
            .disable_statement_logging();
        if let Some(socket) = &self.socket {
            options = options.socket(socket);
        }
        if let Some(ca) = &self.tls.ca {
            options = options.ssl_root_cert(ca);
        }
        if let (Some(cert), Some(key)) = (&self.tls.cert, &self.tls.key) {
            options = options.ssl_client_cert(cert).ssl_client_key(key);
        }
        options
    }
}

/// Whether the address of a bus can be read.
///
/// # Errors
/// What is wrong with it, without any part that may be secret.
pub fn check_address(config: &BusConfig) -> Result<(), String> {
    Replication::of(config).map(drop)
}

/// The name that libpq takes where none is given: that of the user who runs the program.
fn whoami() -> Option<String> {
    // The driver knows it in a portable way, and PGUSER too.
    Some(PgConnectOptions::new_without_pgpass().get_username().to_owned()).filter(|name| name != "unknown")
}

/// Takes a URL apart; what it does not say is empty. The messages hold no part of it that may be secret.
fn parse(url: &str) -> Result<Replication, String> {
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| format!("it does not begin with postgres://; {FORM}"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    if database.contains('@') {
        // It would be shown with the place.
        return Err(format!("the database holds an @; {ENCODE}"));
    }
    let mut read = Replication {
        host: "localhost".to_owned(),
        port: PORT,
        user: decode("user", user)?,
        password: Secret(decode("password", password)?),
        database: decode("database", database)?,
        tls: SourceTls::default(),
        socket: None,
    };
    let (host, port) = split_port(place)?;
    if !host.is_empty() {
        read.set_host(&decode("host", host)?)?;
    }
    if let Some(port) = port {
        read.port = parse_port(port)?;
    }
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // By its place: it may be the end of a password with a ? that is not encoded.
        let what = format!("parameter {}", at + 1);
        read.set(name, &what, decode(&what, value)?)?;
    }
    if read.tls.cert.is_some() != read.tls.key.is_some() {
        return Err("sslcert and sslkey go together".to_owned());
    }
    Ok(read)
}

impl Replication {
    fn set(&mut self, name: &str, what: &str, value: String) -> Result<(), String> {
        match name {
            "sslmode" => {
                self.tls.mode = SslMode::parse(&value)
                    .ok_or_else(|| "sslmode is none of disable, prefer, require, verify-ca, verify-full".to_owned())?;
            }
            "sslrootcert" => self.tls.ca = Some(PathBuf::from(value)).filter(|path| path.as_os_str() != "system"),
            "sslcert" => self.tls.cert = Some(PathBuf::from(value)),
            "sslkey" => self.tls.key = Some(PathBuf::from(value)),
            "host" | "hostaddr" => self.set_host(&value)?,
            "port" => self.port = parse_port(&value)?,
            "dbname" => self.database = value,
            "user" => self.user = value,
            "password" => self.password = Secret(value),
            // Ours says who holds the slot. The rest changes nothing about where and as whom.
            "application_name" | "connect_timeout" | "keepalives" | "target_session_attrs" | "channel_binding" => {}
            _ => {
                return Err(format!(
                    "{what} is not supported; those that are: sslmode, sslrootcert, sslcert, sslkey, \
                     host, port, dbname, user, password"
                ));
            }
        }
        Ok(())
    }

    fn set_host(&mut self, host: &str) -> Result<(), String> {
        if host.contains(',') {
            return Err("it names several hosts; a slot is on one server: name that one".to_owned());
        }
        if host.starts_with('/') {
            self.socket = Some(PathBuf::from(host));
        } else {
            self.socket = None;
            host.clone_into(&mut self.host);
        }
        Ok(())
    }
}

/// `host`, `host:port`, `[::1]:port`.
fn split_port(place: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the address of the host has no ] at its end")?;
        return Ok((host, after.strip_prefix(':')));
    }
    Ok(match place.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    })
}

fn parse_port(text: &str) -> Result<u16, String> {
    u16::from_str(text).ok().filter(|port| *port > 0).ok_or_else(|| {
        // Without the port: a password with an @ or a / that is not encoded ends up there.
        format!("the port is not a number from 1 to 65535; {FORM}, where {ENCODE}")
    })
}

/// Undoes percent encoding.
fn decode(field: &str, text: &str) -> Result<String, String> {
    let bad = || format!("the {field} is not percent-encoded text: write % as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        bytes.push(digits.and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or_else(bad)?);
        rest = after;
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    if text.contains('\0') { Err(bad()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Replication, String> {
        Replication::read("app", &BusConfig::postgres(url)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_of_libpq_is_taken_apart() {
        let table = [
            ("postgres://me:pw@db.example:6432/shop", "db.example", 6432, "me", "pw", "shop", None),
            ("postgresql://me@db/shop", "db", 5432, "me", "", "shop", None),
            ("postgres://me:p%40%3a%2F%25@db", "db", 5432, "me", "p@:/%", "me", None),
            ("postgres://me@[::1]:7000/x", "::1", 7000, "me", "", "x", None),
            ("postgres://me@localhost/x?host=/run/pg&port=7", "localhost", 7, "me", "", "x", Some("/run/pg")),
            ("postgres://me@%2Frun%2Fpg/x", "localhost", 5432, "me", "", "x", Some("/run/pg")),
            ("postgres:///x?user=a&password=b&host=h", "h", 5432, "a", "b", "x", None),
        ];
        for (url, host, port, user, password, database, socket) in table {
            let read = read(url).expect(url);
            let got = (read.host.as_str(), read.port, read.user.as_str(), read.password.0.as_str());
            assert_eq!(got, (host, port, user, password), "{url}");
            assert_eq!((read.database.as_str(), read.socket), (database, socket.map(PathBuf::from)), "{url}");
        }
    }

    #[test]
    fn tls_is_what_the_address_says() {
        let tls = |url: &str| read(url).expect(url).tls;
        assert_eq!(tls("postgres://a@b/c").mode, SslMode::Prefer);
        let full = tls("postgres://a@b/c?sslmode=verify-full&sslrootcert=%2Fca.pem&sslcert=/c&sslkey=/k");
        assert_eq!(full.mode, SslMode::VerifyFull);
        assert_eq!(full.ca, Some(PathBuf::from("/ca.pem")));
        assert_eq!((full.cert, full.key), (Some(PathBuf::from("/c")), Some(PathBuf::from("/k"))));
        for (word, mode) in
            [("disable", SslMode::Disable), ("require", SslMode::Require), ("verify-ca", SslMode::VerifyCa)]
        {
            assert_eq!(tls(&format!("postgres://a@b/c?sslmode={word}")).mode, mode);
        }
        let socket = tls("postgres://a@b/c?sslmode=require&host=/run/pg");
        assert_eq!(socket.mode, SslMode::Disable, "there is no TLS on a socket");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        let table = [
            ("mysql://me:hush@db/x", "postgres://"),
            ("postgres://me:hu/sh@db/x", "holds an @"),
            ("postgres://me:hush@db:hush/x", "port"),
            ("postgres://me:hush%zz@db/x", "password"),
            ("postgres://me:hush@db:99999/x", "port"),
            ("postgres://me:hush@a,b/x", "several hosts"),
            ("postgres://me:hush@db/x?sslmode=hush", "sslmode is none of"),
            ("postgres://me:hush@db/x?sslmode=require&passwort=hush", "parameter 2"),
            ("postgres://me:1/hush@db/x", "holds an @"),
            ("postgres://me:1?hush@db/x", "parameter 1"),
            ("postgres://me:hush@db/x?sslcert=/a", "together"),
        ];
        for (url, expected) in table {
            let error = read(url).expect_err(url);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hu"), "{url}: {error}");
        }
        let shown = format!("{:?}", read("postgres://me:hush@db/x").expect("it is valid"));
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn user_and_password_of_the_bus_stand_in() {
        let mut config = BusConfig::postgres("postgres://db/x");
        config.user = Some("me".to_owned());
        config.password = Some(Secret("p:@/".to_owned()));
        let read = Replication::read("app", &config).expect("it is valid");
        assert_eq!((read.user.as_str(), read.password.0.as_str()), ("me", "p:@/"));
    }
}

//! What `oncue dev` adds to a node: private servers, streams that are made by themselves, builds, a watcher.
//!
//! Invariant: everything that it keeps is in one folder, `.oncue` beside the manifest; no server that it did not start
//! is changed, and the servers accept nobody who does not know a password of that folder. What is printed, and in which order things happen, is in `cli::dev`.

pub mod build;
pub mod passwords;
pub mod ports;
pub mod roles;
pub mod servers;
pub mod streams;
pub mod watch;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use self::passwords::{Passwords, write_private};
use self::servers::{Access, NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, ServerError};

/// Where the program looks for a NATS when it could start none: NATS's own default.
pub const DEFAULT_NATS: &str = "nats://127.0.0.1:4222";

/// Where the program looks for a Kafka when nobody names one, since it has none of its own: Kafka's default.
pub const DEFAULT_KAFKA: &str = "127.0.0.1:9092";

/// The one user of the private NATS.
const NATS_USER: &str = "dev";

/// Which servers are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// No database is named.
    pub postgres: bool,
    /// A NATS bus has no address.
    pub nats: bool,
    /// A Kafka bus has no brokers.
    pub kafka: bool,
}

/// The servers that were started.
#[derive(Debug)]
pub struct Servers {
    /// The database.
    pub postgres: Option<PrivatePostgres>,
    /// NATS.
    pub nats: Option<PrivateNats>,
    /// Why there is no NATS, though it was wanted.
    pub missing_nats: Option<ServerError>,
    /// Whether a Kafka is wanted and nobody names one.
    pub missing_kafka: bool,
    folder: PathBuf,
    passwords: Passwords,
}

/// The folder of the project whose manifest is in `base`, made if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn folder(base: &Path) -> io::Result<PathBuf> {
    let folder = base.join(".oncue");
    std::fs::create_dir_all(&folder)?;
    let ignore = folder.join(".gitignore");
    if !ignore.exists() {
        std::fs::write(ignore, "*\n")?;
    }
    // Postgres runs as another user where this is root, and has to pass through; nobody else has to look in.
    std::fs::set_permissions(&folder, Permissions::from_mode(0o711))?;
    folder.canonicalize()
}

impl Servers {
    /// Starts what is `wanted` with its data in `folder`, on the ports of the last time if they are free.
    ///
    /// # Errors
    /// Postgres is wanted and cannot be started; a NATS that is there cannot be started.
    pub async fn start(folder: &Path, wanted: Wanted, overrides: &Overrides) -> Result<Self, ServerError> {
        let known = ports::read(folder);
        let passwords = Passwords::of(folder).map_err(|source| ServerError::Directory {
            action: "keep passwords in",
            path: folder.to_path_buf(),
            source,
        })?;
        let mut servers = Self {
            postgres: None,
            nats: None,
            missing_nats: None,
            missing_kafka: wanted.kafka,
            folder: folder.to_path_buf(),
            passwords: passwords.clone(),
        };
        if wanted.postgres {
            let config = PostgresConfig::new(servers::find_postgres(overrides)?, folder.join("postgres"));
            let port = known.postgres.filter(|p| ports::is_free(*p));
            servers.postgres = Some(
                PrivatePostgres::start(PostgresConfig { port, access: Some(access(&passwords)), ..config }).await?,
            );
        }
        if wanted.nats {
            match servers::find_nats_server(overrides) {
                Ok(program) => {
                    let config = NatsConfig::new(program, folder.join("nats"));
                    let port = known.nats.filter(|p| ports::is_free(*p));
                    let login = Some((NATS_USER.to_owned(), passwords.nats.clone()));
                    servers.nats = Some(PrivateNats::start(NatsConfig { port, login, ..config }).await?);
                }
                Err(missing) => servers.missing_nats = Some(missing),
            }
        }
        let now = ports::Ports {
            postgres: servers.postgres.as_ref().map(PrivatePostgres::port).or(known.postgres),
            nats: servers.nats.as_ref().map(PrivateNats::port).or(known.nats),
        };
        ports::write(folder, now).map_err(|source| ServerError::Directory {
            action: "write the ports into",
            path: folder.to_path_buf(),
            source,
        })?;
        Ok(servers)
    }

    /// The variables that name the servers.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let postgres = self.postgres.as_ref().map(|p| ("DATABASE_URL", p.url().to_owned()));
        let admin = self.admin_url().map(|url| ("ADMIN_DATABASE_URL", url));
        let nats = self.nats.as_ref().map(|n| ("NATS_URL", n.url().to_owned()));
        let missing = self.missing_nats.as_ref().map(|_| ("NATS_URL", DEFAULT_NATS.to_owned()));
        let kafka = self.missing_kafka.then(|| ("KAFKA_BROKERS", DEFAULT_KAFKA.to_owned()));
        [postgres, admin, nats, missing, kafka].into_iter().flatten().collect()
    }

    /// Writes the variables to the file `env` of the folder, for the commands of other terminals.
    ///
    /// # Errors
    /// Those of writing.
    pub fn publish(&self) -> io::Result<()> {
        let lines: String = self.variables().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        write_private(&self.env(), &lines)
    }

    /// Stops the servers; the file `env` goes, so that nobody looks for them.
    pub async fn stop(self) {
        // It is read with care anyway: a killed process leaves it behind.
        let _ = std::fs::remove_file(self.env());
        let nats = async {
            if let Some(nats) = self.nats {
                nats.stop().await;
            }
        };
        let postgres = async {
            if let Some(postgres) = self.postgres {
                postgres.stop().await;
            }
        };
        tokio::join!(nats, postgres);
    }

    /// The file with the variables.
    #[must_use]
    pub fn env(&self) -> PathBuf {
        self.folder.join("env")
    }

    /// The database as its superuser, who may make roles.
    fn admin_url(&self) -> Option<String> {
        let port = self.postgres.as_ref()?.port();
        let password = &self.passwords.admin.0;
        Some(format!("postgres://{}:{password}@127.0.0.1:{port}/postgres?sslmode=disable", roles::ADMIN))
    }
}

/// The node's login, and all roles.
fn access(passwords: &Passwords) -> Access {
    Access { login: roles::NODE.to_owned(), password: passwords.node.clone(), statements: roles::statements(passwords) }
}

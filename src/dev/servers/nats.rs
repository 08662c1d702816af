//! A private nats-server with JetStream.
//!
//! Invariant: streams and consumers are kept in the directory, and the port stays the same over restarts.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ServerError,
    home::Home,
    process::{Process, Signal, end_orphan, server_command, tail, wait_until},
};
use crate::bus::Secret;
use crate::dev::passwords::write_private;

const NAME: &str = "nats-server";
/// It takes 60 ms, and longer when it recovers large streams.
const READY_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// `Drop` blocks its thread.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// How a private nats-server runs.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The program, as of [`find_nats_server`](super::find_nats_server).
    pub program: PathBuf,
    /// Holds the streams and `server.log`; kept between runs.
    pub store_dir: PathBuf,
    /// The port; none: a free one.
    pub port: Option<u16>,
    /// More configuration in the server's own language (`authorization { … }`, `tls { … }`).
    pub extra: String,
    /// The one user who may connect, and the password; none: everybody.
    pub login: Option<(String, Secret)>,
}

impl NatsConfig {
    /// A server on a free port.
    #[must_use]
    pub fn new(program: PathBuf, store_dir: PathBuf) -> Self {
        Self { program, store_dir, port: None, extra: String::new(), login: None }
    }
}

/// A running private nats-server. Dropping it stops the server, blocking for up to two seconds.
#[derive(Debug)]
pub struct PrivateNats {
    config: NatsConfig,
    home: Home,
    process: Process,
    port: u16,
    url: String,
}

impl PrivateNats {
    /// Starts a server and returns when it accepts connections.
    ///
    /// # Errors
    /// [`ServerError`]; the directory is free again then.
    pub async fn start(config: NatsConfig) -> Result<Self, ServerError> {
        let home = Home::claim(&config.store_dir)?;
        if let Some(pid) = fs::read_to_string(pid_file(&home)).ok().and_then(|pid| pid.trim().parse().ok()) {
            end_orphan(pid, home.dir(), Signal::Int).await;
        }
        let (process, port) = launch(&config, &home, config.port).await?;
        let login = config.login.as_ref().map(|(user, password)| format!("{user}:{}@", password.0));
        let url = format!("nats://{}127.0.0.1:{port}", login.unwrap_or_default());
        Ok(Self { config, home, process, port, url })
    }

    /// `nats://127.0.0.1:PORT`, with user and password where the server wants them.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port, the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id (the last one when it is stopped).
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The directory in use.
    #[must_use]
    pub fn store_dir(&self) -> &Path {
        self.home.dir()
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// An orderly shutdown.
    pub async fn stop(mut self) {
        self.process.end(&[Signal::Int], STOP_LIMIT).await;
    }

    /// `kill -9`; [`restart`](Self::restart) recovers.
    pub async fn stop_immediate(&mut self) {
        self.process.end(&[], STOP_LIMIT).await;
    }

    /// Stops it if it runs (orderly) and starts it again with the same streams on the same port.
    ///
    /// # Errors
    /// [`ServerError`]; it is stopped then, and may be restarted again.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.process.end(&[Signal::Int], STOP_LIMIT).await;
        (self.process, _) = launch(&self.config, &self.home, Some(self.port)).await?;
        Ok(())
    }
}

impl Drop for PrivateNats {
    fn drop(&mut self) {
        self.process.end_now(Signal::Int, DROP_LIMIT);
    }
}

async fn launch(config: &NatsConfig, home: &Home, port: Option<u16>) -> Result<(Process, u16), ServerError> {
    forget_ports(home.dir());
    let extra = home.dir().join("extra.conf");
    let login = config
        .login
        .as_ref()
        .map(|(user, password)| format!("authorization {{ user: \"{user}\", password: \"{}\" }}\n", password.0));
    let text = login.unwrap_or_default() + &config.extra;
    write_private(&extra, &text).map_err(ServerError::directory("write", &extra))?;
    let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
    let mut command = server_command(&config.program, Signal::Int);
    command.arg("-js").arg("-sd").arg(home.dir()).args(["-a", "127.0.0.1", "-p", &port]);
    command.arg("--ports_file_dir").arg(home.dir()).arg("-P").arg(pid_file(home)).arg("-c").arg(&extra);
    home.apply(&mut command);
    let log_start = home.log_to(&mut command)?;
    let failed = |reason: String| ServerError::Start { server: NAME, reason, tail: tail(&home.log(), log_start) };
    let spawned = Process::spawn(command).await;
    let mut process = spawned.map_err(|error| failed(format!("{} does not run: {error}", config.program.display())))?;
    let mut found = None;
    wait_until(READY_LIMIT, || {
        found = listening_on(home.dir());
        found.is_some() || process.exited()
    })
    .await;
    match found {
        _ if process.exited() => Err(failed("the server ended at once".to_owned())),
        Some(port) => Ok((process, port)),
        None => {
            process.end(&[Signal::Int], STOP_LIMIT).await;
            Err(failed(format!("the server was not ready after {} s", READY_LIMIT.as_secs())))
        }
    }
}

fn pid_file(home: &Home) -> PathBuf {
    home.dir().join("server.pid")
}

/// The server removes its ports file unless it is killed, and names it after its program and process.
fn forget_ports(dir: &Path) {
    for file in ports_files(dir) {
        let _ = fs::remove_file(file);
    }
}

fn ports_files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "ports"))
}

/// `{"nats":["nats://127.0.0.1:36267"]}`; the scheme is `tls` with TLS. Half a file is no JSON yet.
fn listening_on(dir: &Path) -> Option<u16> {
    let text = fs::read_to_string(ports_files(dir).next()?).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports.get("nats")?.get(0)?.as_str()?.rsplit(':').next()?.parse().ok()
}

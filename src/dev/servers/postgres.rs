//! A private Postgres: `initdb` once, then the server itself as a direct child, with a logical WAL.
//!
//! Invariant: a data directory appears complete or not at all, and the port stays the same over restarts. It listens on
//! the loopback address only; without an [`Access`] every local user may connect as superuser.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    ServerError,
    access::{self, Access},
    home::Home,
    process::{Process, Signal, end_orphan, server_command, tail, wait_until},
};

const NAME: &str = "Postgres";
/// Crash recovery of a large WAL takes long; a hang takes longer.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A fast shutdown takes 50 to 120 ms, unless it waits for a checkpoint on a slow disk.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// `Drop` blocks its thread.
const DROP_LIMIT: Duration = Duration::from_secs(2);
/// Another process may take a free port before Postgres does.
const PORT_TRIES: usize = 5;
/// Below the range from which systems choose the ports of outgoing connections, so that nobody takes the port while
/// the server restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// `sun_path` holds 108 bytes on Linux, 104 on macOS, the NUL included.
const SOCKET_PATH_MAX: usize = 103;

/// What a change feed needs, and enough of it for many triggers; the WAL that a forgotten slot keeps is bounded.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_replication_slots", "32"),
    ("max_wal_senders", "32"),
    ("max_slot_wal_keep_size", "2GB"),
    ("max_connections", "100"),
];
/// A killed server loses nothing even so: the page cache stays. Only a crash of the machine would.
const NOT_DURABLE: &[(&str, &str)] = &[("fsync", "off"), ("full_page_writes", "off")];

/// How a private Postgres runs.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Where the binaries are, as of [`find_postgres`](super::find_postgres).
    pub bin_dir: PathBuf,
    /// Holds the data, the socket and `server.log`; kept between runs. As root the server runs as an ordinary user: if
    /// that one cannot enter the directory, a durable server moves to another one and others fail to start.
    pub data_dir: PathBuf,
    /// The port; none: a free one.
    pub port: Option<u16>,
    /// Settings as in `postgresql.conf`; they win over the built-in ones.
    pub settings: Vec<(String, String)>,
    /// Whether committed data survive a crash of the machine.
    pub durable: bool,
    /// Where to keep a fresh cluster to copy from: many tests then wait for `initdb` once. Such servers have the same
    /// system identifier, as after a restored backup.
    pub template_dir: Option<PathBuf>,
    /// Who may connect; none: every local user, as superuser.
    pub access: Option<Access>,
}

impl PostgresConfig {
    /// A durable server on a free port.
    #[must_use]
    pub fn new(bin_dir: PathBuf, data_dir: PathBuf) -> Self {
        Self { bin_dir, data_dir, port: None, settings: Vec::new(), durable: true, template_dir: None, access: None }
    }
}

/// A running private Postgres. Dropping it stops the server, blocking for up to two seconds.
#[derive(Debug)]
pub struct PrivatePostgres {
    config: PostgresConfig,
    home: Home,
    process: Process,
    port: u16,
    url: String,
}

impl PrivatePostgres {
    /// Starts a server and returns when it accepts connections.
    ///
    /// # Errors
    /// [`ServerError`]; the directory is free again then.
    pub async fn start(config: PostgresConfig) -> Result<Self, ServerError> {
        let home = Home::claim_unprivileged(&config.data_dir, config.durable)?;
        let data = home.dir().join("data");
        if !data.exists() {
            init(&config, &home, &data).await?;
        }
        check_version(&config, &data)?;
        if let Some(pid) = pid_file(&data).and_then(|lines| lines.first()?.parse().ok()) {
            end_orphan(pid, &data, Signal::Quit).await;
        }
        if let Some(access) = &config.access {
            let program = config.bin_dir.join("postgres");
            access::apply(access, &program, &home, &settings(&config, home.dir(), PORTS.start)).await?;
        }
        let (process, port) = launch(&config, &home, config.port).await?;
        let login = match &config.access {
            Some(access) => format!("{}:{}", access.login, access.password.0),
            None => "postgres".to_owned(),
        };
        let url = format!("postgres://{login}@127.0.0.1:{port}/postgres?sslmode=disable");
        Ok(Self { config, home, process, port, url })
    }

    /// `postgres://postgres@127.0.0.1:PORT/postgres?sslmode=disable`, with login and password of an [`Access`].
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

    /// The directory in use: as root not the configured one when an ordinary user cannot reach that.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.home.dir()
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// A fast shutdown: connections end, data are written.
    pub async fn stop(mut self) {
        self.process.end(&[Signal::Int, Signal::Quit], STOP_LIMIT).await;
    }

    /// An immediate shutdown, like a crash of the server; [`restart`](Self::restart) recovers.
    pub async fn stop_immediate(&mut self) {
        self.process.end(&[Signal::Quit], STOP_LIMIT).await;
    }

    /// Stops it if it runs (fast) and starts it again with the same data on the same port.
    ///
    /// # Errors
    /// [`ServerError`]; it is stopped then, and may be restarted again.
    pub async fn restart(&mut self) -> Result<(), ServerError> {
        self.process.end(&[Signal::Int, Signal::Quit], STOP_LIMIT).await;
        (self.process, _) = launch(&self.config, &self.home, Some(self.port)).await?;
        Ok(())
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // Without durability nobody comes back for the data.
        let signal = if self.config.durable { Signal::Int } else { Signal::Quit };
        self.process.end_now(signal, DROP_LIMIT);
    }
}

/// A new cluster beside the final place, then a rename: a run that is killed in between leaves no half of a database.
async fn init(config: &PostgresConfig, home: &Home, data: &Path) -> Result<(), ServerError> {
    let unfinished = home.dir().join("data.new");
    let template = config.template_dir.as_ref().map(|dir| dir.join(template_name(config)));
    remove(&unfinished)?;
    let copied = match &template {
        Some(template) if template.exists() => copy(template, &unfinished, Some(home)).await,
        _ => false,
    };
    if !copied {
        remove(&unfinished)?;
        initdb(config, home, &unfinished).await?;
        if let Some(template) = &template {
            keep_template(&unfinished, template).await;
        }
    }
    fs::rename(&unfinished, data).map_err(ServerError::directory("rename to its final name", &unfinished))
}

fn remove(dir: &Path) -> Result<(), ServerError> {
    if dir.exists() { fs::remove_dir_all(dir).map_err(ServerError::directory("remove", dir)) } else { Ok(()) }
}

/// A cluster fits only the version and the build that made it.
fn template_name(config: &PostgresConfig) -> String {
    let version = version(config);
    format!("template-{}", version.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-"))
}

fn version(config: &PostgresConfig) -> String {
    let output = Command::new(config.bin_dir.join("postgres")).arg("--version").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Several processes may be the first at the same time: each makes its own copy, one rename wins.
async fn keep_template(fresh: &Path, template: &Path) {
    let own = template.with_extension(std::process::id().to_string());
    let made = template.parent().is_some_and(|dir| fs::create_dir_all(dir).is_ok());
    if !(made && copy(fresh, &own, None).await && fs::rename(&own, template).is_ok()) {
        let _ = fs::remove_dir_all(&own);
    }
}

/// Whether it worked. The copy belongs to the home's user, or without one to the same user as the original.
async fn copy(from: &Path, to: &Path, home: Option<&Home>) -> bool {
    let mut command = Command::new("cp");
    command.arg("-Rp").arg(from).arg(to);
    if let Some(home) = home {
        home.apply(&mut command);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let status = tokio::process::Command::from(command).kill_on_drop(true).status().await;
    status.is_ok_and(|status| status.success())
}

async fn initdb(config: &PostgresConfig, home: &Home, dir: &Path) -> Result<(), ServerError> {
    let program = config.bin_dir.join("initdb");
    let mut command = Command::new(&program);
    command.args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
    command.arg(dir);
    home.apply(&mut command);
    let log_start = home.log_to(&mut command)?;
    let failed = |reason: String| ServerError::Start { server: NAME, reason, tail: tail(&home.log(), log_start) };
    let status = tokio::process::Command::from(command).kill_on_drop(true).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("initdb failed ({status})"))),
        Err(error) => Err(failed(format!("{} does not run: {error}", program.display()))),
    }
}

/// A clearer error than the server's own when the machine got a newer Postgres since the last run.
fn check_version(config: &PostgresConfig, data: &Path) -> Result<(), ServerError> {
    let made_by = fs::read_to_string(data.join("PG_VERSION"));
    let made_by = made_by.map_err(ServerError::directory("read the version in", data))?;
    let runs = version(config);
    if runs.contains(&format!(" {}", made_by.trim())) {
        return Ok(());
    }
    let reason = format!(
        "its data are of version {}, the binaries in {} of another; set ONCUE_PG_BIN, or remove {} to begin anew",
        made_by.trim(),
        config.bin_dir.display(),
        data.display(),
    );
    Err(ServerError::Start { server: NAME, reason, tail: runs })
}

/// Starts the server; without a wanted port, tries a few free ones.
async fn launch(config: &PostgresConfig, home: &Home, port: Option<u16>) -> Result<(Process, u16), ServerError> {
    let mut tries = 1;
    loop {
        let chosen = match port {
            Some(port) => port,
            None => free_port().map_err(ServerError::directory("find a free port for", home.dir()))?,
        };
        match launch_on(config, home, chosen).await {
            Err(ServerError::Start { tail, .. }) if port.is_none() && tries < PORT_TRIES && port_taken(&tail) => {
                tries += 1;
            }
            Err(error) => return Err(error),
            Ok(process) => return Ok((process, chosen)),
        }
    }
}

async fn launch_on(config: &PostgresConfig, home: &Home, port: u16) -> Result<Process, ServerError> {
    let data = home.dir().join("data");
    let program = config.bin_dir.join("postgres");
    let mut command = server_command(&program, Signal::Quit);
    command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
    for (key, value) in settings(config, home.dir(), port) {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    home.apply(&mut command);
    let log_start = home.log_to(&mut command)?;
    let failed = |reason: String| ServerError::Start { server: NAME, reason, tail: tail(&home.log(), log_start) };
    let spawned = Process::spawn(command).await;
    let mut process = spawned.map_err(|error| failed(format!("{} does not run: {error}", program.display())))?;
    let pid = process.pid().to_string();
    wait_until(READY_LIMIT, || process.exited() || is_ready(&data, &pid)).await;
    if process.exited() {
        return Err(failed("the server ended at once".to_owned()));
    }
    if !is_ready(&data, &pid) {
        process.end(&[Signal::Quit], STOP_LIMIT).await;
        return Err(failed(format!("the server was not ready after {} s", READY_LIMIT.as_secs())));
    }
    Ok(process)
}

/// The built-in settings, then the caller's: of two, the server takes the last.
fn settings(config: &PostgresConfig, home: &Path, port: u16) -> Vec<(String, String)> {
    let socket = home.join(format!(".s.PGSQL.{port}"));
    let fits = socket.as_os_str().len() <= SOCKET_PATH_MAX;
    let sockets = if fits { home.display().to_string() } else { String::new() };
    let durability = if config.durable { &[] } else { NOT_DURABLE };
    let built_in = SETTINGS.iter().chain(durability).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let sockets = ("unix_socket_directories".to_owned(), format!("\"{sockets}\"").replace("\"\"", ""));
    built_in.chain([sockets]).chain(config.settings.iter().cloned()).collect()
}

/// Line 8 of the pid file says `ready` when connections are accepted; line 1 tells an old file from ours.
fn is_ready(data: &Path, pid: &str) -> bool {
    pid_file(data).is_some_and(|lines| {
        lines.first().is_some_and(|line| line == pid) && lines.get(7).is_some_and(|line| line == "ready")
    })
}

fn pid_file(data: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    Some(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn port_taken(log: &str) -> bool {
    log.contains("Address already in use") || log.contains("could not create any TCP/IP sockets")
}

fn free_port() -> std::io::Result<u16> {
    for _ in 0..50 {
        let port = rand::random_range(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

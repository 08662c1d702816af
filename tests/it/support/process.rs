//! The real program as a process that dies with the test.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

use super::node::{free_address, get};
use super::{World, eventually, world};

/// A running `oncue serve`.
pub struct Process {
    child: Child,
    pub health: SocketAddr,
    pub log: PathBuf,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Writes a manifest for the servers of `world`, with `more` at its end, and gives its path.
pub fn manifest(world: &World, name: &str, more: &str) -> (PathBuf, SocketAddr) {
    let health = free_address();
    let text = format!(
        "[node]\nname = \"{name}\"\ndatabase = \"{}\"\nhealth = \"{health}\"\ncache_dir = \"{}\"\n\n\
         [bus.main]\nkind = \"nats\"\nurl = \"{}\"\n\n{more}",
        world.postgres.url(),
        world::kept("components").display(),
        world.nats_server.url(),
    );
    let path = world.dir.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).expect("the manifest is written");
    (path, health)
}

/// The program with an empty environment but for what it cannot do without.
fn oncue() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncue"));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command of the program to its end.
pub async fn run(manifest: &std::path::Path, arguments: &[&str]) -> Said {
    let dir = manifest.parent().expect("a directory");
    let output = oncue().arg("--config").arg(manifest).args(arguments).current_dir(dir).output().await;
    let output = output.expect("the program runs");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("data are text"),
        err: String::from_utf8(output.stderr).expect("messages are text"),
    }
}

/// Starts a command of the program whose output is read while it runs.
pub fn spawn(manifest: &std::path::Path, arguments: &[&str]) -> Child {
    let dir = manifest.parent().expect("a directory");
    let mut command = oncue();
    command.arg("--config").arg(manifest).args(arguments).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

impl Process {
    /// Starts a node of the servers of `world`.
    pub fn launch(world: &World, name: &str) -> Self {
        Self::launch_with(world, name, "")
    }

    /// Starts a node that has the world's Postgres as the bus `app`, which change feeds are on.
    pub fn launch_with_feed(world: &World, name: &str) -> Self {
        let bus = format!("[bus.app]\nkind = \"postgres\"\nurl = \"{}\"\n", world.postgres.url());
        Self::launch_with(world, name, &bus)
    }

    /// Starts a node with `more` at the end of its manifest.
    pub fn launch_with(world: &World, name: &str, more: &str) -> Self {
        Self::launch_logging(world, name, more, "info")
    }

    /// The same with a filter of logs.
    pub fn launch_logging(world: &World, name: &str, more: &str, filter: &str) -> Self {
        let (manifest, health) = manifest(world, name, more);
        let log = world.dir.path().join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log opens");
        // `setpriv` ends the node even when the test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_oncue"), "serve", "--config"]).arg(manifest);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("RUST_LOG", filter).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().expect("the node starts");
        Self { child, health, log }
    }

    /// Starts a node and waits until it is ready.
    pub async fn start(world: &World, name: &str) -> Self {
        Self::launch(world, name).ready().await
    }

    /// The same with the bus `app`.
    pub async fn start_with_feed(world: &World, name: &str) -> Self {
        Self::launch_with_feed(world, name).ready().await
    }

    /// Waits until it is ready.
    pub async fn ready(mut self) -> Self {
        let health = self.health;
        eventually("the node is ready", async || {
            assert!(self.child.try_wait().expect("it can be asked").is_none(), "it ended: {}", self.tail());
            get(health, "/readyz").await.is_some_and(|(status, _)| status == 200)
        })
        .await;
        self
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid]).status().await;
        assert!(sent.expect("a shell").success(), "{name} is sent");
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> ExitStatus {
        self.child.wait().await.expect("it ends")
    }

    /// Time on a processor so far, in ticks of 10 ms (proc(5), fields 14 and 15 of `stat`).
    pub fn cpu_ticks(&self) -> u64 {
        let pid = self.child.id().expect("it runs");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
        let (_, fields) = stat.rsplit_once(')').expect("the name stands in brackets");
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
    }

    /// Ends the node in order.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM").await;
        self.wait().await
    }

    /// Status and body of a page of the health port; none when nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.health, path).await
    }

    /// What `ps` shows of it.
    pub fn command_line(&self) -> String {
        let pid = self.child.id().expect("it runs");
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("it is there").replace('\0', " ")
    }

    /// Its whole log.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("the log is there")).into_owned()
    }

    /// The end of its log.
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

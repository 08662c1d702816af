//! tansu, a broker that speaks Kafka's protocol, as a process of its own: for volume, restarts and kills.
//!
//! `scripts/test --all` installs it. It knows neither transactions nor the `consumer` group protocol, and it takes commits of
//! anybody at any time, without their metadata. In memory it knows only whole batches: whoever reads on in the middle of one
//! misses the rest of it, and the end of a partition is told as the beginning of its last batch. So suites that read from it
//! again produce batches of one. With a file it does all that right and is slow to read: for suites with few records.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use oncue::bus::BusConfig;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::node::free_address;
use super::records::Client;
use super::{World, eventually, not_run};

/// Where the broker keeps what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, gone with the process.
    Memory,
    /// In a file: records and offsets outlive a `kill -9`.
    Sqlite,
}

/// A running broker. It ends with the test.
pub struct Broker {
    child: Child,
    program: PathBuf,
    port: u16,
    storage: String,
    log: PathBuf,
}

/// The program, if it is installed.
fn program() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/tansu");
    installed.exists().then_some(installed)
}

impl Broker {
    /// Starts a broker for `what` and waits until it answers; none where it is not installed, which is said.
    pub async fn start(world: &World, storage: Storage, what: &str) -> Option<Self> {
        let Some(program) = program() else {
            assert!(std::env::var_os("ONCUE_TEST_ALL").is_none(), "scripts/kafka-broker installed no .tools/bin/tansu");
            not_run(what, "the broker is not installed; scripts/test --all installs it");
            return None;
        };
        let dir = world.dir.path().join("broker");
        std::fs::create_dir_all(&dir).expect("a directory");
        let storage = match storage {
            Storage::Memory => "memory://tansu/".to_owned(),
            Storage::Sqlite => "sqlite://broker.db".to_owned(),
        };
        let (port, log) = (free_address().port(), dir.join("broker.log"));
        let child = spawn(&program, port, &storage, &log);
        let mut broker = Self { child, program, port, storage, log };
        broker.ready().await;
        Some(broker)
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// Starts it again on the same port after a kill.
    pub async fn restart(&mut self) {
        assert!(self.child.try_wait().expect("it can be asked").is_some(), "it was killed before");
        self.child = spawn(&self.program, self.port, &self.storage, &self.log);
        self.ready().await;
    }

    async fn ready(&mut self) {
        eventually("the broker listens", async || {
            assert!(self.child.try_wait().expect("it can be asked").is_none(), "it ended: {}", self.tail());
            TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    /// `host:port`.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The bus that it is.
    pub fn bus(&self) -> BusConfig {
        BusConfig::kafka(self.servers())
    }

    /// Its clients.
    pub fn client(&self) -> Client {
        Client { servers: self.servers() }
    }

    /// The end of its log.
    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn spawn(program: &Path, port: u16, storage: &str, log: &Path) -> Child {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log opens");
    let listener = format!("tcp://127.0.0.1:{port}");
    // `setpriv` ends the broker even when the test is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(["broker", "--silent", "--cluster-id", "test"]);
    command.args(["--listener-url", &listener, "--advertised-listener-url", &listener, "--storage-engine", storage]);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("RUST_LOG", "warn")
        .current_dir(log.parent().expect("a directory"));
    command.stdin(Stdio::null()).stdout(file.try_clone().expect("a handle")).stderr(file).kill_on_drop(true);
    command.spawn().expect("the broker starts")
}

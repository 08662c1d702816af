//! tansu, a broker that speaks Kafka's protocol, as a process of its own: for volume, restarts and kills.
//!
//! `scripts/test --all` installs it. It knows neither transactions nor the `consumer` group protocol, and it takes commits of
//! anybody at any time, without their metadata. In memory it knows only whole batches: whoever reads on in the middle of one
//! misses the rest of it, and the end of a partition is told as the beginning of its last batch. So suites that read from it
//! again produce batches of one. With a file it does all that right and is slow to read: for suites with few records.
//! It logs in with SCRAM, of which it keeps users in a file, and has no TLS of its own: `TlsFront` stands before it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use oncue::bus::BusConfig;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::node::free_address;
use super::records::Client;
use super::tls::TlsFront;
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
    setup: Setup,
}

/// What it is started with, each time.
struct Setup {
    program: PathBuf,
    port: u16,
    /// Where its clients find it: something may stand before it.
    advertised: u16,
    storage: String,
    /// Whether clients have to log in.
    closed: bool,
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
        Some(Self::launch(Setup::new(world, storage, what)?).await)
    }

    /// Starts one that is reached over TLS alone: its own has two flags that it refuses together.
    pub async fn start_behind_tls(world: &World, storage: Storage, what: &str) -> Option<(Self, TlsFront)> {
        let setup = Setup::new(world, storage, what)?;
        let front = TlsFront::start(setup.port).await;
        Some((Self::launch(Setup { advertised: front.port(), ..setup }).await, front))
    }

    async fn launch(setup: Setup) -> Self {
        let mut broker = Self { child: setup.spawn(), setup };
        broker.ready().await;
        broker
    }

    /// Adds users, each with its mechanism (`scram256`, `scram512`) and password, and lets in nobody else from now on. What
    /// is stored has to outlive a restart.
    pub async fn require_login(&mut self, users: &[(&str, &str, &str)]) {
        let at = format!("tcp://127.0.0.1:{}", self.setup.port);
        for (mechanism, user, password) in users {
            let mut command = Command::new(&self.setup.program);
            command.args(["user", "create", "--broker", &at, "--mechanism", mechanism, user, password]);
            let made = command.env_clear().stdin(Stdio::null()).output().await.expect("the program runs");
            assert!(made.status.success(), "{made:?}");
        }
        self.setup.closed = true;
        self.kill().await;
        self.restart().await;
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// Starts it again on the same port after a kill.
    pub async fn restart(&mut self) {
        assert!(self.child.try_wait().expect("it can be asked").is_some(), "it was killed before");
        self.child = self.setup.spawn();
        self.ready().await;
    }

    async fn ready(&mut self) {
        eventually("the broker listens", async || {
            assert!(self.child.try_wait().expect("it can be asked").is_none(), "it ended: {}", self.tail());
            TcpStream::connect(("127.0.0.1", self.setup.port)).await.is_ok()
        })
        .await;
    }

    /// `host:port`.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.setup.advertised)
    }

    /// The bus that it is.
    pub fn bus(&self) -> BusConfig {
        BusConfig::kafka(self.servers())
    }

    /// Its clients.
    pub fn client(&self) -> Client {
        Client::new(self.servers())
    }

    /// The end of its log.
    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.setup.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Setup {
    fn new(world: &World, storage: Storage, what: &str) -> Option<Self> {
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
        let port = free_address().port();
        Some(Self { program, port, advertised: port, storage, closed: false, log: dir.join("broker.log") })
    }

    fn spawn(&self) -> Child {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("the log opens");
        let url = |port: u16| format!("tcp://127.0.0.1:{port}");
        let (listener, advertised) = (url(self.port), url(self.advertised));
        // `setpriv` ends the broker even when the test is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
        command.args(["broker", "--silent", "--cluster-id", "test"]);
        command.args(["--listener-url", &listener, "--advertised-listener-url", &advertised]);
        command.args(["--storage-engine", &self.storage]);
        if self.closed {
            command.arg("--authentication");
        }
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("RUST_LOG", "warn")
            .current_dir(self.log.parent().expect("a directory"));
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a handle")).stderr(file).kill_on_drop(true);
        command.spawn().expect("the broker starts")
    }
}

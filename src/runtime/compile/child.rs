//! One compilation in one child process: started, fed, bounded, judged.
//!
//! Invariant: the child is killed when this future is dropped, and ends by itself when this process does, because its
//! input ends then. Of what it says no more is held than an artefact may have, and nothing is taken for an artefact but
//! what a worker finished: its mark, its length, its hash, and an exit without an error.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::Artefact;
use super::worker::{Answer, HEADER, Order};

/// What the last words of a child may have.
const LAST_WORDS: u64 = 4 << 10;
/// How an allocation that failed is told by the standard library.
const NO_MEMORY: [&str; 2] = ["memory allocation of", "Cannot allocate memory"];
/// `SIGKILL` and `SIGXCPU`.
const KILL: i32 = 9;
const CPU_TIME: i32 = 24;
/// How a program of Rust ends that panics.
const PANIC: i32 = 101;
/// Characters of a child's last words that are shown.
const WORDS: usize = 300;

/// What is to be compiled, by whom, within which bounds.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) program: PathBuf,
    pub(super) order: Order,
    pub(super) bytes: Bytes,
    pub(super) artefact_max: usize,
}

/// Why there is no artefact.
#[derive(Debug)]
pub(super) enum Failure {
    /// The compiler says no.
    Refused(String),
    /// Its time was over.
    Late,
    /// Its memory was used up.
    Memory,
    /// The artefact has more bytes than this.
    TooLarge(usize),
    /// The compiler broke on it.
    Crashed(String),
    /// Nothing that the component did: another try may end otherwise.
    Lost(String),
}

impl Job {
    /// Compiles within `limit`, in which the time does not count while `paused` is above 0: the child stands still then.
    pub(super) async fn run(
        &self,
        limit: Duration,
        paused: Option<watch::Receiver<usize>>,
    ) -> Result<Artefact, Failure> {
        let mut child = self
            .command()
            .spawn()
            .map_err(|error| Failure::Lost(format!("cannot start {} to compile: {error}", self.program.display())))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let done = within(limit, pid, paused, self.talk(&mut child)).await;
        match done {
            Some(said) => self.judge(said.map_err(|error| Failure::Lost(format!("lost the compiler: {error}")))?),
            None => {
                drop(child.kill().await);
                Err(Failure::Late)
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg0("oncue").args(self.order.arguments()).env_clear().process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn talk(&self, child: &mut Child) -> std::io::Result<Said> {
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(std::io::Error::other("it has no pipes"));
        };
        let (mut answer, mut words) = (Vec::new(), Vec::new());
        let most = (self.artefact_max + HEADER + 1) as u64;
        let (mut stdout, mut stderr) = (stdout.take(most), stderr.take(LAST_WORDS));
        let read = async {
            let read = stdout.read_to_end(&mut answer).await;
            // Who says too much writes into a pipe without an end.
            drop(stdout);
            read
        };
        let (_input, read, heard) = tokio::join!(self.feed(stdin), read, stderr.read_to_end(&mut words));
        read?;
        heard?;
        drop(stderr);
        let status = child.wait().await?;
        Ok(Said { answer, words: String::from_utf8_lossy(&words).into_owned(), status })
    }

    /// The input stays open until the child has ended: its end says that this process is gone.
    async fn feed(&self, mut stdin: ChildStdin) -> ChildStdin {
        let length = (self.bytes.len() as u64).to_le_bytes();
        // A child that does not read has ended, and its status says why.
        let fed = async {
            stdin.write_all(&length).await?;
            stdin.write_all(&self.bytes).await?;
            stdin.flush().await
        };
        drop(fed.await);
        stdin
    }

    fn judge(&self, said: Said) -> Result<Artefact, Failure> {
        if said.answer.len() > self.artefact_max + HEADER {
            return Err(Failure::TooLarge(self.artefact_max));
        }
        let no_memory = NO_MEMORY.iter().any(|words| said.words.contains(words));
        if !said.status.success() {
            tracing::warn!(status = %said.status, "a compiler ended without a result");
            return Err(match said.status.signal() {
                _ if no_memory => Failure::Memory,
                Some(CPU_TIME) => Failure::Late,
                Some(KILL) => {
                    Failure::Lost("the compiler was killed from outside; the system may be out of memory".to_owned())
                }
                Some(signal) => Failure::Crashed(format!("the compiler crashed on it with signal {signal}")),
                None if said.status.code() != Some(PANIC) => Failure::Lost(format!(
                    "{} does not compile ({}): {}",
                    self.program.display(),
                    said.status,
                    said.words.trim().chars().take(WORDS).flat_map(char::escape_debug).collect::<String>()
                )),
                None => Failure::Crashed(format!("the compiler failed on it ({})", said.status)),
            });
        }
        match Answer::read(said.answer) {
            Some(Answer::Artefact(content)) => Ok(Artefact(content)),
            Some(Answer::Refused(text)) if NO_MEMORY.iter().any(|words| text.contains(words)) => Err(Failure::Memory),
            Some(Answer::Refused(text)) => Err(Failure::Refused(text)),
            None => Err(Failure::Lost(format!("{} is not this oncue: it gave no artefact", self.program.display()))),
        }
    }
}

struct Said {
    answer: Vec<u8>,
    words: String,
    status: ExitStatus,
}

/// What `work` gives within `limit`, if it does. While `paused` is above 0, the process stands still and no time passes.
async fn within<T>(
    limit: Duration,
    pid: Option<Pid>,
    mut paused: Option<watch::Receiver<usize>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut left = limit;
    loop {
        if paused.as_mut().is_some_and(|paused| *paused.borrow_and_update() > 0) {
            send(pid, Signal::STOP);
            tokio::select! {
                done = &mut work => return Some(done),
                () = changed(&mut paused) => {}
            }
            continue;
        }
        send(pid, Signal::CONT);
        let begun = Instant::now();
        tokio::select! {
            done = &mut work => return Some(done),
            () = tokio::time::sleep(left) => return None,
            () = changed(&mut paused) => left = left.saturating_sub(begun.elapsed()),
        }
    }
}

async fn changed(paused: &mut Option<watch::Receiver<usize>>) {
    let told = match paused {
        Some(paused) => paused.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending::<()>().await;
    }
}

/// The child is reaped by `talk` alone, in whose future nobody is when this runs: the id is still its own.
fn send(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

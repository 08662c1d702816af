//! One server process: started, signalled, awaited.
//!
//! Invariant: a child is reaped only here, so its id is never signalled after it could belong to somebody else.
//! Children are direct, in a process group of their own (Ctrl-C reaches us first), without standard input.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

/// Short against the 50 ms that a server takes, long against a system call.
const POLL: Duration = Duration::from_millis(5);
/// How much of a log goes into an error.
const TAIL: u64 = 2_000;
/// Servers are started one by one; the queue is only a hand-over.
const QUEUE: usize = 16;

/// What a process can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Int,
    Quit,
    Kill,
}

impl Signal {
    /// As `kill` and `setpriv` write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Kill => "KILL",
        }
    }
}

/// A running (or just exited) server.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` from the thread that lives as long as this process.
    pub(super) async fn spawn(command: Command) -> io::Result<Self> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts servers is gone");
        spawner().send((command, reply)).await.map_err(|_| gone())?;
        let child = answer.await.map_err(|_| gone())??;
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended; reaps it if so.
    pub(super) fn exited(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)) | Err(_))
    }

    /// Tells it to end in each way in turn, the last one being KILL, giving it `limit` after each.
    pub(super) async fn end(&mut self, signals: &[Signal], limit: Duration) {
        for signal in signals.iter().copied().chain([Signal::Kill]) {
            if self.exited() {
                return;
            }
            send(self.pid(), signal);
            wait_until(limit, || self.exited()).await;
        }
    }

    /// The same for `Drop`: blocks the thread for at most `limit`.
    pub(super) fn end_now(&mut self, signal: Signal, limit: Duration) {
        if self.exited() {
            return;
        }
        send(self.pid(), signal);
        let deadline = Instant::now() + limit;
        while !self.exited() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Polls `condition` until it holds (true) or `limit` is over (false).
pub(super) async fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A command that runs `program` and, where the system can, gets `on_orphaned` when this process is gone.
pub(super) fn server_command(program: &Path, on_orphaned: Signal) -> Command {
    let mut command = if dies_with_parent() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", on_orphaned.name(), "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// Whether there is a `setpriv` that knows the parent-death signal (not on macOS, not in busybox).
fn dies_with_parent() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let help = Command::new("setpriv").arg("--help").output();
        let known = help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--pdeathsig"));
        if !known {
            tracing::warn!("no setpriv: if this process is killed, its servers run on until the next start");
        }
        known
    })
}

/// Ends a server that an earlier, killed process left behind: `pid` counts only if its command line names `marker`.
/// The caller holds the directory's lock, so no living process owns it.
pub(super) async fn end_orphan(pid: u32, marker: &Path, signal: Signal) {
    let ours = || command_line(pid).is_some_and(|line| line.contains(&*marker.to_string_lossy()));
    for signal in [signal, Signal::Kill] {
        if !ours() {
            return;
        }
        tracing::warn!(pid, "ending a server that an earlier run left behind");
        send(pid, signal);
        wait_until(Duration::from_secs(10), || !ours()).await;
    }
}

fn command_line(pid: u32) -> Option<String> {
    let bytes = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(bytes) => bytes,
        Err(_) => Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output().ok()?.stdout,
    };
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `kill` is in every shell; as a program it is not in every image. Failure means that the process is gone.
fn send(pid: u32, signal: Signal) {
    let pid = pid.to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal.name(), &pid]);
    let _ = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// The end of `log` from `start` on.
pub(super) fn tail(log: &Path, start: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL))))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_else(|error| format!("(no log: {error})"))
}

type Request = (Command, oneshot::Sender<io::Result<Child>>);

/// The parent-death signal is sent when the *thread* that forked ends, not the process. Tokio's blocking threads end
/// when idle and a test's runtime ends with the test, so one plain thread of our own forks every server.
fn spawner() -> &'static mpsc::Sender<Request> {
    static SPAWNER: OnceLock<mpsc::Sender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, mut requests) = mpsc::channel::<Request>(QUEUE);
        let serve = move || {
            while let Some((mut command, reply)) = requests.blocking_recv() {
                if let Err(Ok(mut unwanted)) = reply.send(command.spawn()) {
                    let _ = unwanted.kill();
                    let _ = unwanted.wait();
                }
            }
        };
        // Without the thread the receiver is dropped, and `Process::spawn` says so.
        if let Err(error) = std::thread::Builder::new().name("oncue-servers".to_owned()).spawn(serve) {
            tracing::error!(error = %error, "failed to start the thread that starts servers");
        }
        sender
    })
}

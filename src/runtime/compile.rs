//! Compilation, out of the node's way: in child processes with bounds, the small and the quick first.
//!
//! Invariant: whatever a component does to the compiler ends in a child, within its time and memory, and the node only
//! ever holds the bytes of a component and of a finished artefact. One compilation takes one thread; as many run as a
//! quarter of the cores, at least one. What may be compiled at all is decided before (`structure`), and what the artefact
//! is worth after (`cache`).

mod child;
mod lanes;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

pub use self::worker::{Order, WorkerError, work};

use self::child::Failure;
use self::lanes::{Lane, Turn};
use super::component::{self, LoadError};

/// A component that compiles within this time is never behind one that does not.
const QUICK: Duration = Duration::from_secs(2);
/// Above this no component is done within `QUICK`.
const QUICK_BYTES: usize = 4 << 20;
/// How much longer than its own time a compilation may be held up by quicker ones.
const PATIENCE: u32 = 4;
/// Bytes of machine code for one byte of WebAssembly; measured are 3 to 8.
const GROWTH: usize = 16;
/// What even the smallest artefact may have.
const ARTEFACT_FLOOR: usize = 4 << 20;

/// Where components are compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In child processes of the running program, which must be `oncue`.
    #[default]
    ThisProgram,
    /// In child processes of this `oncue`, for programs that embed the library.
    Program(PathBuf),
    /// On a thread of this process, without a bound of memory, and with one of time only for who waits: for tests of
    /// the library.
    InProcess,
}

/// Machine code that a compiler of this program made, whole. Nothing else may be loaded.
#[derive(Debug)]
pub(super) struct Artefact(Vec<u8>);

impl Artefact {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Those who compile.
#[derive(Debug)]
pub(super) struct Compilers {
    compiler: Compiler,
    order: Order,
    timeout: Duration,
    quick: Lane,
    slow: Lane,
    /// How many quick ones run; the slow ones stand still meanwhile.
    quick_running: watch::Sender<usize>,
}

impl Compilers {
    pub(super) fn new(compiler: Compiler, order: Order, timeout: Duration) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let width = (cores / 4).max(1);
        let (quick, slow) = (Lane::new(width), Lane::new(width));
        Self { compiler, order, timeout, quick, slow, quick_running: watch::Sender::new(0) }
    }

    /// The machine code of a component. Dropping the future ends the child.
    pub(super) async fn compile(&self, bytes: Bytes) -> Result<Artefact, LoadError> {
        let program = match &self.compiler {
            Compiler::ThisProgram if worker::is_one() => {
                return Err(LoadError::Compiler("this program is not oncue, and cannot compile for it".to_owned()));
            }
            // The program that runs, even where another one has taken its place on disk.
            Compiler::ThisProgram => own_program(),
            Compiler::Program(path) => path.clone(),
            Compiler::InProcess => return self.in_process(bytes).await,
        };
        let job = child::Job { program, order: self.order, artefact_max: artefact_max(bytes.len()), bytes };
        if job.bytes.len() <= QUICK_BYTES
            && let Some(done) = self.quickly(&job).await?
        {
            return Ok(done);
        }
        let _turn = self.turn(&self.slow, job.bytes.len()).await?;
        let held_up = self.timeout.saturating_mul(PATIENCE);
        let work = job.run(self.timeout, Some(self.quick_running.subscribe()));
        match tokio::time::timeout(held_up, work).await {
            Ok(done) => done.map_err(|failure| self.refusal(failure)),
            Err(_) => Err(LoadError::CompileBusy),
        }
    }

    /// None if it takes longer than `QUICK`: it goes to the back, so that the next small one does not wait for it.
    async fn quickly(&self, job: &child::Job) -> Result<Option<Artefact>, LoadError> {
        let turn = self.turn(&self.quick, job.bytes.len()).await?;
        let _running = Running::new(&self.quick_running, turn);
        match job.run(QUICK.min(self.timeout), None).await {
            Ok(done) => Ok(Some(done)),
            Err(Failure::Late) => Ok(None),
            Err(failure) => Err(self.refusal(failure)),
        }
    }

    async fn turn(&self, lane: &Lane, size: usize) -> Result<Turn, LoadError> {
        let turn = tokio::time::timeout(self.timeout, lane.turn(size)).await;
        turn.ok().flatten().ok_or(LoadError::CompileBusy)
    }

    fn refusal(&self, failure: Failure) -> LoadError {
        match failure {
            Failure::Refused(text) => component::classify(text),
            Failure::Late => LoadError::CompileTimeout { seconds: self.timeout.as_secs() },
            Failure::Memory => LoadError::CompileMemory { limit: self.order.memory_bytes },
            Failure::TooLarge(limit) => LoadError::TooComplex(format!("its machine code has more than {limit} bytes")),
            Failure::Crashed(text) => LoadError::Compile(text),
            Failure::Lost(text) => LoadError::Compiler(text),
        }
    }

    async fn in_process(&self, bytes: Bytes) -> Result<Artefact, LoadError> {
        let turn = self.turn(&self.slow, bytes.len()).await?;
        let order = self.order;
        // A thread cannot be stopped: one that is too late goes on, and keeps its turn until it ends.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            worker::precompile(&order, &bytes)
        });
        let late = |_| LoadError::CompileTimeout { seconds: self.timeout.as_secs() };
        let done = tokio::time::timeout(self.timeout, work).await.map_err(late)?;
        let done = done.map_err(|error| LoadError::Compile(format!("the compiler failed: {error}")))?;
        done.map(Artefact).map_err(component::classify)
    }
}

/// A quick compilation that runs: the slow ones stop while there is one.
struct Running<'a> {
    count: &'a watch::Sender<usize>,
    _turn: Turn,
}

impl<'a> Running<'a> {
    fn new(count: &'a watch::Sender<usize>, turn: Turn) -> Self {
        count.send_modify(|running| *running += 1);
        Self { count, _turn: turn }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.count.send_modify(|running| *running = running.saturating_sub(1));
    }
}

fn artefact_max(component: usize) -> usize {
    component.saturating_mul(GROWTH).max(ARTEFACT_FLOOR)
}

fn own_program() -> PathBuf {
    let linux = PathBuf::from("/proc/self/exe");
    if linux.exists() { linux } else { std::env::current_exe().unwrap_or(linux) }
}

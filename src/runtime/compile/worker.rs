//! The other side: what `oncue compile-worker` does, in a process that has nothing else to do.
//!
//! Invariant: the process takes its bounds upon itself before it reads a byte of the component, holds no secret, writes
//! nothing but its answer, and ends as soon as its input does.

use std::io::{Read, Write};
use std::sync::mpsc;

use rustix::process::{Resource, Rlimit, nice, setrlimit};
use sha2::{Digest as _, Sha256};

use crate::runtime::engine::{self, Profile};

/// The subcommand.
const COMMAND: &str = "compile-worker";
/// How an answer begins; the number moves when the layout does.
const MAGIC: &[u8; 16] = b"oncue-artefact-1";
/// Magic, kind, length and hash.
pub(super) const HEADER: usize = 16 + 1 + 8 + 32;
const ARTEFACT: u8 = 0;
const REFUSED: u8 = 1;
/// Behind what serves events.
const NICE: i32 = 10;
/// What is said of a refusal.
const WORDS: usize = 1_000;
/// Deep WebAssembly needs a deep stack.
const STACK: usize = 16 << 20;
/// The largest component that a worker takes, whatever its parent's limit.
const INPUT_MAX: u64 = 1 << 30;

/// How an artefact is to be made, and what it may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub(in crate::runtime) profile: Profile,
    /// The ceiling of a guest's memory, which some profiles compile in.
    pub memory_ceiling: u64,
    /// Whether memory accesses are checked in code.
    pub explicit_bounds_checks: bool,
    /// Bytes of memory that may be written.
    pub memory_bytes: u64,
    /// Seconds of processor time.
    pub cpu_seconds: u64,
}

/// Why a worker cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A bound was refused by the system.
    #[error("cannot take on the bound of {0}")]
    Bound(&'static str, #[source] rustix::io::Errno),
    /// The component or the answer did not get through.
    #[error("cannot read the component or write the answer")]
    Pipe(#[from] std::io::Error),
    /// An argument is none that a parent gives.
    #[error("{0:?} is not what a node orders; `oncue compile-worker` is started by oncue itself")]
    Order(String),
}

impl Order {
    /// What the worker's command line says.
    #[must_use]
    pub fn arguments(&self) -> [String; 7] {
        let flag = |name: &str, value: String| format!("--{name}={value}");
        [
            COMMAND.to_owned(),
            // An option that nothing but oncue knows comes first: another program stops here.
            flag("oncue-order", "1".to_owned()),
            flag("profile", self.profile.name().to_owned()),
            flag("memory-ceiling", self.memory_ceiling.to_string()),
            flag("bounds-checks", self.explicit_bounds_checks.to_string()),
            flag("memory", self.memory_bytes.to_string()),
            flag("cpu-seconds", self.cpu_seconds.to_string()),
        ]
    }

    /// The order of a command line.
    ///
    /// # Errors
    /// An unknown profile.
    pub fn new(profile: &str, ceiling: u64, checks: bool, memory: u64, seconds: u64) -> Result<Self, WorkerError> {
        let profile = Profile::named(profile).ok_or_else(|| WorkerError::Order(profile.to_owned()))?;
        Ok(Self {
            profile,
            memory_ceiling: ceiling,
            explicit_bounds_checks: checks,
            memory_bytes: memory,
            cpu_seconds: seconds,
        })
    }
}

/// Whether this process was started as a worker: one never starts another, whatever program it is.
pub(super) fn is_one() -> bool {
    std::env::args_os().nth(1).is_some_and(|first| first == COMMAND)
}

/// Reads a component from `input`, compiles it and writes the answer. Returns early, without one, when `input` ends.
///
/// # Errors
/// No bounds, no component, or nobody who reads the answer.
pub fn work(order: Order, mut input: impl Read + Send + 'static, mut output: impl Write) -> Result<(), WorkerError> {
    confine(&order)?;
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length).min(INPUT_MAX);
    let mut bytes = Vec::new();
    (&mut input).take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    // The first of both: the answer, or the end of the input, which is the end of whoever would read it.
    let (sender, first) = mpsc::sync_channel(2);
    let parent_gone = sender.clone();
    let compiler = std::thread::Builder::new().name("oncue-compiler".to_owned()).stack_size(STACK);
    let compiler = compiler.spawn(move || drop(sender.send(Some(precompile(&order, &bytes)))))?;
    std::thread::Builder::new().name("oncue-parent".to_owned()).spawn(move || {
        drop(std::io::copy(&mut input, &mut std::io::sink()));
        drop(parent_gone.send(None));
    })?;
    // The watcher keeps the channel open; a compiler that panics is seen by its thread.
    let answer = loop {
        match first.recv_timeout(std::time::Duration::from_millis(200)) {
            Ok(answer) => break answer,
            Err(_) if compiler.is_finished() => match first.try_recv() {
                Ok(answer) => break answer,
                Err(_) => break Some(Err("the compiler failed on it".to_owned())),
            },
            Err(_) => {}
        }
    };
    match answer {
        Some(Ok(artefact)) => write(&mut output, ARTEFACT, &artefact)?,
        Some(Err(text)) => write(&mut output, REFUSED, text.as_bytes())?,
        None => {}
    }
    Ok(())
}

/// The machine code of a component; seconds of processor time for a large one.
pub(super) fn precompile(order: &Order, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: wasmtime::Error| format!("{error:#}").chars().take(WORDS).collect::<String>();
    engine::compiler(order).and_then(|engine| engine.precompile_component(bytes)).map_err(text)
}

fn confine(order: &Order) -> Result<(), WorkerError> {
    // Of this process, if one must go: it is the first that a system without memory ends. Not on every system.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let bound = |resource, most| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    nice(NICE).map_err(|error| WorkerError::Bound("priority", error))?;
    // Not the address space, of which the program's own text takes a part.
    bound(Resource::Data, order.memory_bytes).map_err(|error| WorkerError::Bound("memory", error))?;
    bound(Resource::Cpu, order.cpu_seconds).map_err(|error| WorkerError::Bound("processor time", error))?;
    bound(Resource::Core, 0).map_err(|error| WorkerError::Bound("core files", error))?;
    bound(Resource::Fsize, 0).map_err(|error| WorkerError::Bound("files", error))
}

fn write(output: &mut impl Write, kind: u8, content: &[u8]) -> std::io::Result<()> {
    output.write_all(MAGIC)?;
    output.write_all(&[kind])?;
    output.write_all(&(content.len() as u64).to_le_bytes())?;
    output.write_all(&Sha256::digest(content))?;
    output.write_all(content)?;
    output.flush()
}

/// What a worker says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Artefact(Vec<u8>),
    Refused(String),
}

impl Answer {
    /// The answer in `bytes`, if that is what they are, and all of it.
    pub(super) fn read(mut bytes: Vec<u8>) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let (kind, hash) = (header[16], header[25..].to_vec());
        let length = u64::from_le_bytes(header[17..25].try_into().ok()?);
        let whole = header.starts_with(MAGIC) && (bytes.len() - HEADER) as u64 == length;
        if !whole || Sha256::digest(&bytes[HEADER..])[..] != hash[..] {
            return None;
        }
        let content = bytes.split_off(HEADER);
        match kind {
            ARTEFACT => Some(Self::Artefact(content)),
            REFUSED => Some(Self::Refused(String::from_utf8_lossy(&content).into_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ARTEFACT, Answer, REFUSED, write};

    #[test]
    fn only_a_whole_answer_is_one() {
        for (kind, answer) in
            [(ARTEFACT, Answer::Artefact(b"code".to_vec())), (REFUSED, Answer::Refused("code".to_owned()))]
        {
            let mut bytes = Vec::new();
            write(&mut bytes, kind, b"code").expect("written");
            for end in 0..bytes.len() {
                assert_eq!(Answer::read(bytes[..end].to_vec()), None, "{end}");
            }
            // The kind is bound by the values that it may have, everything else by what it says of the rest.
            for flipped in (0..bytes.len()).filter(|n| *n != 16) {
                let mut bad = bytes.clone();
                bad[flipped] ^= 4;
                assert_eq!(Answer::read(bad), None, "{flipped}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(Answer::read(longer), None);
            assert_eq!(Answer::read(bytes), Some(answer));
        }
    }
}

//! What a thread has used of a processor, and what the process has of memory.
//!
//! Invariant: time is that of the processor and of one thread, so that others on the machine do not show in it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time that this thread has run.
pub(super) fn ran() -> Duration {
    let at = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(at.tv_sec.unsigned_abs(), u32::try_from(at.tv_nsec).unwrap_or(0))
}

/// How long `work` ran, and what it gave.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = ran();
    let done = work();
    (ran().saturating_sub(before), done)
}

/// The memory that the process has; none where the system does not tell.
pub(super) fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

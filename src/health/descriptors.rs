//! File descriptors: a few that the health port keeps for itself, and a warning when a process may open too few.
//!
//! Invariant: descriptors that are kept are open files; one is closed only so that a connection can take its number.

use std::fs::File;

/// Descriptors that are kept: what two probes and a scrape use at once, with some that another part of the process may
/// snatch in the moment between closing one and taking a connection.
const KEPT: usize = 8;

/// What a node opens besides what its settings say: the runtime, logs, components that are read, those that are kept.
const BASE: u64 = 128;

/// What a bus opens: a connection or two, those of its triggers, pipes of its threads.
const BUS: u64 = 8;

/// Open files that hold descriptors.
#[derive(Debug, Default)]
pub(super) struct Spares {
    files: Vec<File>,
}

impl Spares {
    /// Opens as many as are missing, as far as descriptors can be had.
    pub(super) fn refill(&mut self) {
        while self.files.len() < KEPT {
            let Ok(file) = File::open("/dev/null") else { return };
            self.files.push(file);
        }
    }

    /// Gives one up. False when there is none.
    pub(super) fn give_up(&mut self) -> bool {
        self.files.pop().is_some()
    }
}

/// Warns when this process may not open as many files as a node with `connections` to its database and `buses` can come
/// to need.
pub fn warn_if_few(connections: u32, buses: usize) {
    let wanted = BASE + u64::from(connections) + BUS * buses as u64 + super::server::CLIENTS as u64;
    let Some(limit) = limit().filter(|limit| *limit < wanted) else { return };
    tracing::warn!(
        limit,
        wanted,
        "this process may open fewer files than its settings can need; raise `ulimit -n` (systemd: LimitNOFILE)"
    );
}

/// The soft limit of this process, where the system tells; none where there is no limit.
fn limit() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// "Max open files            1024                 524288               files"
fn parse(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let text =
            "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 524288      files\n";
        assert_eq!(parse(text), Some(1_024));
        assert_eq!(parse("Max open files            unlimited     unlimited     files\n"), None);
    }

    #[test]
    fn what_is_given_up_can_be_had_again() {
        let mut spares = Spares::default();
        assert!(!spares.give_up());
        spares.refill();
        assert!((0..KEPT).all(|_| spares.give_up()) && !spares.give_up());
    }
}

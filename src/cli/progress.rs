//! How far long work has come: one line that changes on a terminal, else a line every few seconds.
//!
//! Invariant: it is written to stderr, never among the data.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::output::{Output, printable};

/// How often a line is written where it cannot be changed.
const EVERY: Duration = Duration::from_secs(5);

/// A line about work that goes on.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    terminal: bool,
    shown: Option<Instant>,
}

impl Progress {
    /// Nothing is shown yet.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self { output, terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Says where it is now.
    pub fn show(&mut self, text: &str) {
        let text = printable(text);
        if self.terminal {
            // To the start of the line, which is cleared. A closed stderr is no reason to fail.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{text}");
        } else if self.shown.is_none_or(|at| at.elapsed() >= EVERY) {
            self.output.note(&text);
        } else {
            return;
        }
        self.shown = Some(Instant::now());
    }

    /// Clears the line that changed.
    pub fn end(&mut self) {
        if self.terminal && self.shown.take().is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

//! What is said of a panic: where it was, and its words where they are a literal of the program.
//!
//! Invariant: no formatted message of a panic is written anywhere: it may quote what was being worked on, as that of a text
//! cut inside a character does.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;

/// Stands for a message that was put together while the program ran.
const LEFT_OUT: &str = "(the message may quote data and is left out; the place says which one it is)";

/// Writes panics to standard error without what they may quote; with `RUST_BACKTRACE=1` with a backtrace, which names
/// functions and places and no values.
pub fn install_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // A closed stderr is no reason to panic once more.
        let _ = io::stderr().lock().write_all(report(panic).as_bytes());
    }));
}

fn report(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    let frames = match backtrace.status() {
        BacktraceStatus::Captured => format!("{backtrace}\n"),
        _ => String::new(),
    };
    format!("thread '{thread}' panicked at {place}: {}\n{frames}", panic_text(panic.payload()))
}

/// The words of a panic, if they are a literal of the program.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &'static str {
    panic.downcast_ref::<&'static str>().copied().unwrap_or(LEFT_OUT)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn text(act: impl FnOnce()) -> &'static str {
        let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("it panics");
        panic_text(&*panic)
    }

    #[test]
    fn only_a_literal_is_repeated() {
        assert_eq!(text(|| panic!("a literal")), "a literal");
        let card = String::from("4111 é");
        assert_eq!(text(|| panic!("it was {card}")), LEFT_OUT);
        assert_eq!(text(|| _ = card[..6].len()), LEFT_OUT);
    }
}

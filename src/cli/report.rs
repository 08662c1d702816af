//! How an error is shown: the chain of causes, and the command that mends it.
//!
//! Invariant: nothing here decides whether something failed; a closed pipe is the reader's wish, not a failure.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::store::StoreError;

/// Shows `error` on stderr and gives the exit code.
#[must_use]
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    // Nobody is left to be told when stderr is closed.
    let _ = io::stderr().lock().write_all(message(error).as_bytes());
    ExitCode::from(1)
}

/// Shows what clap has to say: help on stdout with 0, a usage error on stderr with 2.
#[must_use]
pub fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn message(error: &anyhow::Error) -> String {
    let mut text = String::from("error: ");
    let mut said = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some errors quote their source themselves.
        if !said.is_empty() && said.contains(&cause) {
            continue;
        }
        let separator = if said.is_empty() { "" } else { "\n  caused by: " };
        let _ = write!(text, "{separator}{}", super::output::printable(&cause));
        said.push_str(&cause);
    }
    if let Some(fix) = error.chain().find_map(fix) {
        let _ = write!(text, "\n  fix: {fix}");
    }
    text.push('\n');
    text
}

fn fix(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    match cause.downcast_ref::<StoreError>()? {
        StoreError::Unreachable(_) => Some(
            "start Postgres, or set DATABASE_URL, or run `oncue dev`, which brings its own; `oncue doctor` looks closer"
                .to_owned(),
        ),
        StoreError::Missing { kind, .. } => match *kind {
            "component" => Some("deploy the function again with `oncue function deploy NAME FILE`".to_owned()),
            "version" => Some("see `oncue function show NAME`".to_owned()),
            kind => Some(format!("see `oncue {} list`", kind.replace(' ', "-"))),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_chain_is_shown_once_with_the_fix() {
        let inner = StoreError::Missing { kind: "rule", name: "x".to_owned() };
        let error = Err::<(), _>(inner).context("failed to show the rule").expect_err("it is an error");
        let expected =
            "error: failed to show the rule\n  caused by: there is no rule \"x\"\n  fix: see `oncue rule list`\n";
        assert_eq!(message(&error), expected);
    }
}

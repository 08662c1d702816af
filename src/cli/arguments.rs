//! Options that several commands share, and how durations, sizes and events are read from the command line.
//!
//! Invariant: an option has one name, one form and one default wherever it appears.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use time::OffsetDateTime;

/// How much of a list is shown.
#[derive(Clone, Debug, Args)]
pub struct Page {
    /// Most rows
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only what is not older than this, such as 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
}

impl Page {
    /// The moment that `since` names, counted from now.
    #[must_use]
    pub fn since(&self) -> Option<OffsetDateTime> {
        let age = time::Duration::try_from(self.since?).ok()?;
        OffsetDateTime::now_utc().checked_sub(age)
    }
}

/// How much is shown of a list that has no time.
#[derive(Clone, Debug, Args)]
pub struct Limit {
    /// Most rows [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl Limit {
    /// The first of `rows`.
    pub fn first<T>(&self, rows: impl Iterator<Item = T>) -> Vec<T> {
        rows.take(self.limit.unwrap_or(usize::MAX)).collect()
    }
}

/// Reads the file at `path`, or stdin for `-`.
///
/// # Errors
/// Those of reading, with the path.
pub fn read_input(path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("failed to read stdin")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Splits `KEY=VALUE`.
///
/// # Errors
/// A text without `=` or with an empty key.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has the form KEY=VALUE".to_owned()),
    }
}

/// Splits `NAME` or `NAME@VERSION`.
///
/// # Errors
/// A version that is no number above 0.
pub fn name_version(text: &str) -> Result<(String, Option<u32>), String> {
    let Some((name, version)) = text.split_once('@') else { return Ok((text.to_owned(), None)) };
    match version.parse() {
        Ok(version) if version > 0 => Ok((name.to_owned(), Some(version))),
        _ => Err(format!("\"{version}\" is no version: it is a number from 1, as in {name}@3")),
    }
}

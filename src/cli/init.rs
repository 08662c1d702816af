//! `oncue init`: a manifest and a first function, with its source and its built component, so that it runs without a
//! toolchain.
//!
//! Invariant: no file is ever overwritten. The function is the project's own example, which the tests run.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::config::MANIFEST;

use super::Context;

/// What may be typed after `oncue init`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory; created if it is not there
    #[arg(default_value = ".")]
    directory: PathBuf,
}

macro_rules! example {
    ($path:literal) => {
        ($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path)))
    };
}

/// The manifest comes last: it is what says that a directory was set up.
const FILES: &[(&str, &[u8])] = &[
    example!("functions/welcome/Cargo.toml"),
    example!("functions/welcome/Cargo.lock"),
    example!("functions/welcome/.cargo/config.toml"),
    example!("functions/welcome/src/lib.rs"),
    example!("functions/welcome/src/arena.rs"),
    example!("functions/welcome/event.json"),
    example!("functions/welcome/welcome.wasm"),
    example!("functions/wit/function.wit"),
    example!("functions/wit/deps/config/store.wit"),
    example!("functions/wit/deps/logging/logging.wit"),
    (".gitignore", b"/.oncue\n/functions/*/target\n"),
    (MANIFEST, MANIFEST_TEXT.as_bytes()),
];

const MANIFEST_TEXT: &str = r#"# What Oncue shall do. `oncue plan` shows what this changes in the tables, `oncue apply` changes it,
# `oncue dev` does both and runs everything on this machine.

[bus.events]
kind = "nats"
url = "${NATS_URL:-nats://127.0.0.1:4222}"

# Every message on `user.…`, from a JetStream stream that is created if it is not there.
[trigger.signups]
bus = "events"
stream = "APP"
subjects = ["user.>"]
create_stream = true
# Each event is kept for a week, so that `oncue explain` and `oncue rule backtest` know it. Without this line none is.
record = "all"

# To change it: `rustup target add wasm32-wasip2` once, then edit functions/welcome/src/lib.rs; `oncue dev` rebuilds it.
[function.welcome]
component = "functions/welcome/welcome.wasm"
limits = { timeout = "5s", memory = "32MiB" }
grants = { publish = ["events/mail.*"] }

[function.welcome.build]
command = "cd functions/welcome && cargo build --release --target wasm32-wasip2 && cp target/wasm32-wasip2/release/welcome.wasm ."
watch = ["functions/welcome/src/**", "functions/wit/**"]

[[rule]]
name = "welcome-new-user"
trigger = "signups"
pattern = '{"type": ["user.signup"], "data": {"email": [{"exists": true}]}}'
run = "welcome"

# A change feed: take the # away, and each committed change of a row of `users` is an event. The table must be there:
# create table users (id bigint primary key, email text, name text);
#
# [bus.app]
# kind = "postgres"
# url = "${DATABASE_URL}"
#
# [trigger.users]
# bus = "app"
# tables = ["public.users"]
# create = true
#
# [[rule]]
# name = "welcome-new-row"
# trigger = "users"
# pattern = '{"type": ["postgres.public.users.insert"]}'
# run = "welcome"
"#;

const NEXT: &str = "next:
  oncue dev        run everything on this machine
  oncue publish user.signup '{\"email\":\"ada@example.com\",\"name\":\"Ada\"}'     in a second terminal
or, on servers of your own (DATABASE_URL, NATS_URL): oncue migrate && oncue apply && oncue serve";

#[derive(Serialize)]
struct Initialised {
    directory: String,
    written: Vec<&'static str>,
    kept: Vec<&'static str>,
}

/// Writes the files.
///
/// # Errors
/// There is a manifest already; a file cannot be written.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    if directory.join(MANIFEST).exists() {
        bail!("{} is there already: run `oncue dev` or `oncue plan`", directory.join(MANIFEST).display());
    }
    let mut done = Initialised { directory: directory.display().to_string(), written: Vec::new(), kept: Vec::new() };
    for (path, content) in FILES {
        let file = directory.join(path);
        let written = write_new(&file, content).with_context(|| format!("failed to write {}", file.display()))?;
        if written { done.written.push(path) } else { done.kept.push(path) }
    }
    context.output.one(&done, |done| {
        let written = done.written.iter().map(|path| format!("wrote {path}\n"));
        let kept = done.kept.iter().map(|path| format!("kept {path}, which was there\n"));
        written.chain(kept).collect()
    })?;
    context.output.note(NEXT);
    Ok(ExitCode::SUCCESS)
}

/// Writes `file` if it is not there.
fn write_new(file: &Path, content: &[u8]) -> io::Result<bool> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(mut opened) => opened.write_all(content).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn the_manifest_that_is_written_is_right() {
        let config = Config::parse(Path::new(MANIFEST), MANIFEST_TEXT, &Environment::default());
        let config = config.unwrap_or_else(|e| panic!("{e}"));
        let named: Vec<&str> = config.manifest.functions.values().map(|f| f.component.as_str()).collect();
        assert!(named.iter().all(|path| FILES.iter().any(|(file, _)| file == path)), "{named:?} are written");
    }

    #[test]
    fn the_change_feed_that_is_offered_is_right_too() {
        let (before, offered) = MANIFEST_TEXT.split_once("# [bus.app]").expect("it is offered");
        let offered = offered.lines().map(|line| line.strip_prefix("# ").unwrap_or(line.trim_start_matches('#')));
        let whole = format!("{before}[bus.app]\n{}", offered.collect::<Vec<_>>().join("\n"));
        let environment = Environment::default().with("DATABASE_URL", "postgres://localhost/x");
        let config = Config::parse(Path::new(MANIFEST), &whole, &environment).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((config.manifest.triggers.len(), config.manifest.rules.len()), (2, 2));
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a/b");
        assert!(write_new(&file, b"mine").expect("it can be written"));
        assert!(!write_new(&file, b"theirs").expect("it is there"));
        assert_eq!(std::fs::read(&file).expect("it can be read"), b"mine");
    }
}

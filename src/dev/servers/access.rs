//! Who may connect to a private Postgres: those who know a password, from the first moment on.
//!
//! Invariant: roles and passwords are set in single-user mode, in which the server listens nowhere, and the rules of
//! access are written before it does; so there is no moment in which everybody may connect. Passwords go to the server's
//! standard input, never to a command line, and a statement that fails is not logged.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::ServerError;
use super::home::Home;
use super::process::tail;
use crate::bus::Secret;

/// Who may connect, and as whom the server's address does.
#[derive(Clone)]
pub struct Access {
    /// The login of the address.
    pub login: String,
    /// Its password.
    pub password: Secret,
    /// What a superuser executes before the server listens, each on one line; executed again when they change.
    pub statements: Vec<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The statements set passwords.
        f.debug_struct("Access").field("login", &self.login).finish_non_exhaustive()
    }
}

/// A password for everybody: neither the system's user nor the loopback address is trusted.
const RULES: &str = "# Written by oncue dev at each start.
local   all             all                             scram-sha-256
host    all             all             samehost        scram-sha-256
local   replication     all                             scram-sha-256
host    replication     all             samehost        scram-sha-256
";

/// Applies `access` to the cluster in `data`, which no server runs on. `settings` are those that it is going to run with:
/// with fewer, it may refuse to start.
pub(super) async fn apply(
    access: &Access,
    program: &Path,
    home: &Home,
    settings: &[(String, String)],
) -> Result<(), ServerError> {
    let data = home.dir().join("data");
    let rules = data.join("pg_hba.conf");
    fs::write(&rules, RULES).map_err(ServerError::directory("write", &rules))?;
    let marker = home.dir().join("access");
    let wanted = digest(access);
    if fs::read_to_string(&marker).is_ok_and(|applied| applied == wanted) {
        return Ok(());
    }
    let mut command = Command::new(program);
    command.arg("--single").arg("-D").arg(&data);
    let quiet = [("exit_on_error", "on"), ("log_min_error_statement", "panic"), ("log_statement", "none")];
    for (key, value) in settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).chain(quiet) {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    command.arg("postgres");
    home.apply(&mut command);
    let log_start = home.log_to(&mut command)?;
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let statements = access.statements.clone();
    let ended = tokio::task::spawn_blocking(move || execute(command, &statements)).await;
    let failed = |reason: String| ServerError::Start { server: "Postgres", reason, tail: tail(&home.log(), log_start) };
    match ended.expect("writing to a process does not panic") {
        Ok(true) => fs::write(&marker, wanted).map_err(ServerError::directory("write", &marker)),
        Ok(false) => Err(failed("its roles could not be made".to_owned())),
        Err(error) => Err(failed(format!("{} does not run: {error}", program.display()))),
    }
}

/// Whether the server has executed all of them.
fn execute(mut command: Command, statements: &[String]) -> std::io::Result<bool> {
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        for statement in statements {
            // A server that has ended reads no more; its log says why.
            if writeln!(input, "{statement}").is_err() {
                break;
            }
        }
    }
    Ok(child.wait()?.success())
}

/// Of words with 128 random bits in them: it tells nothing of those.
fn digest(access: &Access) -> String {
    let digest = Sha256::digest(access.statements.join("\n").as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

//! The directory of one private server: claimed, owned by the right user, with a log.
//!
//! Invariant: while a [`Home`] lives, this process holds the directory's lock; the system frees it when the process
//! ends in whatever way. As root the directory belongs to an ordinary user who can reach it, because Postgres refuses
//! root; nobody else looks into it.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::ServerError;

/// Where a directory goes that the server's user cannot reach; only root can write there, so nobody waits in it.
const FALLBACK_ROOT: &str = "/var/lib/oncue/dev";
/// A log is begun anew above this.
const LOG_MAX: u64 = 10 << 20;

/// An ordinary user of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    uid: u32,
    gid: u32,
}

/// A claimed directory.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    user: Option<User>,
    _lock: File,
}

impl Home {
    /// Claims `wanted` for a server that runs as this process's user.
    pub(super) fn claim(wanted: &Path) -> Result<Self, ServerError> {
        let dir = create(wanted)?;
        let lock = lock(&dir)?;
        close_to_others(&dir)?;
        Ok(Self { dir, user: None, _lock: lock })
    }

    /// The same for a server that refuses root: as root the directory is given to an ordinary user; if that one
    /// cannot reach it (it is under a private home directory), another directory is taken, always the same one, when
    /// that `may_move`.
    pub(super) fn claim_unprivileged(wanted: &Path, may_move: bool) -> Result<Self, ServerError> {
        let wanted = create(wanted)?;
        if !is_root(&wanted)? {
            return Self::claim(&wanted);
        }
        let user = ordinary_user(&wanted)?;
        let (dir, user) = if reachable(&wanted, user) {
            (wanted, user)
        } else if may_move {
            fallback(&wanted)?
        } else {
            return Err(unreachable_dir(&wanted));
        };
        let lock = lock(&dir)?;
        chown(&dir, Some(user.uid), Some(user.gid)).map_err(ServerError::directory("change the owner of", &dir))?;
        close_to_others(&dir)?;
        Ok(Self { dir, user: Some(user), _lock: lock })
    }

    /// The directory, absolute; not always the wanted one.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes `command` run as the server's user, in the directory.
    pub(super) fn apply(&self, command: &mut Command) {
        command.current_dir(&self.dir);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
    }

    /// The log's path.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Sends both outputs of `command` to the log and returns where its part begins.
    pub(super) fn log_to(&self, command: &mut Command) -> Result<u64, ServerError> {
        let path = self.log();
        let open = || -> io::Result<(File, File, u64)> {
            // A server logs statements, and they hold data.
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            if file.metadata()?.len() > LOG_MAX {
                file.set_len(0)?;
            }
            let start = file.metadata()?.len();
            Ok((file.try_clone()?, file, start))
        };
        let (out, err, start) = open().map_err(ServerError::directory("open the log", &path))?;
        command.stdout(Stdio::from(out)).stderr(Stdio::from(err));
        Ok(start)
    }
}

/// Nobody but the owner looks in: there are data, sockets and a log.
fn close_to_others(dir: &Path) -> Result<(), ServerError> {
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(ServerError::directory("close", dir))
}

fn create(dir: &Path) -> Result<PathBuf, ServerError> {
    let create = fs::create_dir_all(dir).and_then(|()| dir.canonicalize());
    create.map_err(ServerError::directory("create the directory", dir))
}

fn lock(dir: &Path) -> Result<File, ServerError> {
    let path = dir.join("lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(ServerError::directory("open the lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::InUse { dir: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(ServerError::directory("lock", &path)(source)),
    }
}

/// Who we are is asked without `unsafe`: it is the owner of a file that we make.
fn is_root(dir: &Path) -> Result<bool, ServerError> {
    let probe = dir.join(format!("owner-{}", std::process::id()));
    let ask = || -> io::Result<bool> {
        let uid = File::create(&probe)?.metadata()?.uid();
        fs::remove_file(&probe)?;
        Ok(uid == 0)
    };
    ask().map_err(ServerError::directory("write to", dir))
}

/// The owner of earlier data, else `postgres`, else `nobody`.
fn ordinary_user(dir: &Path) -> Result<User, ServerError> {
    let owner = fs::metadata(dir).ok().filter(|meta| meta.uid() != 0);
    if let Some(meta) = owner {
        return Ok(User { uid: meta.uid(), gid: meta.gid() });
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = |name| passwd.lines().find_map(|line| parse_user(line, name));
    named("postgres").or_else(|| named("nobody")).ok_or_else(|| {
        let source = io::Error::other("Postgres refuses to run as root, and there is no user postgres or nobody");
        ServerError::directory("find an owner for", dir)(source)
    })
}

/// `name:password:uid:gid:…`
fn parse_user(line: &str, name: &str) -> Option<User> {
    let mut fields = line.strip_prefix(name)?.strip_prefix(':')?.split(':').skip(1);
    Some(User { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

/// Whether `user` can enter `dir`: asked by entering it, so that no rule about modes and ACLs is guessed.
fn reachable(dir: &Path, user: User) -> bool {
    let mut enter = Command::new("true");
    enter.uid(user.uid).gid(user.gid).current_dir(dir).stdin(Stdio::null());
    enter.status().is_ok_and(|status| status.success())
}

fn fallback(wanted: &Path) -> Result<(PathBuf, User), ServerError> {
    let digest = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = create(&Path::new(FALLBACK_ROOT).join(name))?;
    let user = ordinary_user(&dir)?;
    if reachable(&dir, user) {
        tracing::warn!(wanted = %wanted.display(), dir = %dir.display(), "Postgres cannot run as root there: moved");
        return Ok((dir, user));
    }
    Err(unreachable_dir(&dir))
}

fn unreachable_dir(dir: &Path) -> ServerError {
    let source = io::Error::other(
        "Postgres refuses root, and the user that it runs as instead cannot enter it: `chmod o+x` the directories above",
    );
    ServerError::directory("use", dir)(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once_and_again_after_it_was_let_go() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let home = Home::claim(dir.path()).expect("the first claim");
        assert!(matches!(Home::claim(dir.path()), Err(ServerError::InUse { .. })));
        drop(home);
        Home::claim(dir.path()).expect("a claim after the first one ended");
    }

    #[test]
    fn a_user_is_found_by_the_whole_name() {
        let line = "postgres:x:101:104:PostgreSQL administrator:/var/lib/postgresql:/bin/bash";
        let user = parse_user(line, "postgres").expect("the line is of that user");
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(parse_user(line, "post").is_none());
        assert!(parse_user("postgres:x:none", "postgres").is_none());
    }
}

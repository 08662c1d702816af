//! The passwords of the private servers: random, made once, kept in a file that only its owner can read.
//!
//! Invariant: a password is written to that file, to the file `env` and to the servers, and shown nowhere.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::bus::Secret;

const FILE: &str = "passwords";

/// One password for each login of the private servers.
#[derive(Clone, Debug)]
pub struct Passwords {
    /// Of the superuser of Postgres, for people.
    pub admin: Secret,
    /// Of the login that the node has.
    pub node: Secret,
    /// Of the user of NATS.
    pub nats: Secret,
}

impl Passwords {
    /// Those of `folder`; what is missing there is made and written.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let file = folder.join(FILE);
        let known = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let get = |name: &str| {
            let line = known.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name);
            Secret(line.map_or_else(|| format!("{:032x}", rand::random::<u128>()), |(_, word)| word.to_owned()))
        };
        let passwords = Self { admin: get("admin"), node: get("node"), nats: get("nats") };
        let Self { admin, node, nats } = &passwords;
        write_private(&file, &format!("admin={}\nnode={}\nnats={}\n", admin.0, node.0, nats.0))?;
        Ok(passwords)
    }
}

/// Writes a file that only its owner can read, also where it was there with other rights.
///
/// # Errors
/// Those of writing.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_made_once_and_only_their_owner_can_read_them() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let first = Passwords::of(folder.path()).expect("they are made");
        fs::set_permissions(folder.path().join(FILE), Permissions::from_mode(0o644)).expect("it is opened to all");
        let second = Passwords::of(folder.path()).expect("they are read");
        assert_eq!((first.node.0.len(), &first.node.0), (32, &second.node.0));
        assert!(first.node.0 != first.admin.0 && first.admin.0 != first.nats.0, "each has its own");
        let mode = fs::metadata(folder.path().join(FILE)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{first:?}").contains(&first.nats.0));
    }
}

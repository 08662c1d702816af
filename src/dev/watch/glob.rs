//! Globs of the manifest: a literal directory that exists, then components with `*`, `?` and `**`.
//!
//! Invariant: what builds write (`target`, `node_modules`, …) and what editors leave behind never matches below the
//! literal part. No `[…]` and no `{…}`.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

/// Directories that a build writes or a tool keeps.
const IGNORED: &[&str] = &["target", "node_modules", "build", "dist", "__pycache__"];

/// A pattern for absolute paths.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    base: PathBuf,
    rest: Vec<String>,
}

impl Glob {
    /// `pattern` is relative to `root`; without a wildcard it is a file, or a directory with all below it.
    ///
    /// # Errors
    /// The directory before the first wildcard does not exist.
    pub(super) fn new(root: &Path, pattern: &str) -> Result<Self, (PathBuf, io::Error)> {
        let path = root.join(pattern);
        let parts: Vec<Component<'_>> = path.components().collect();
        let is_wild = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?']);
        let is_dir = path.is_dir();
        let last = if is_dir { parts.len() } else { parts.len().saturating_sub(1) };
        let split = parts.iter().position(is_wild).unwrap_or(last);
        let literal: PathBuf = parts[..split].iter().collect();
        let base = literal.canonicalize().map_err(|error| (literal.clone(), error))?;
        let mut rest: Vec<String> =
            parts[split..].iter().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if is_dir && rest.is_empty() {
            rest.push("**".to_owned());
        }
        Ok(Self { base, rest })
    }

    /// The directory that holds all that can match.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Whether something below a directory of the base can match.
    pub(super) fn is_deep(&self) -> bool {
        self.rest.len() > 1 || self.rest.first().is_some_and(|part| part == "**")
    }

    /// Whether the absolute path is meant.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.base) else { return false };
        let parts: Vec<_> = below.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        let Some((name, dirs)) = parts.split_last() else { return false };
        let literal = self.rest.last().is_some_and(|last| last == name);
        !dirs.iter().any(|dir| is_built(dir)) && (literal || !is_leftover(name)) && match_parts(&self.rest, &parts)
    }

    /// The files that are meant now, sorted. What cannot be read is left out.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.base.clone()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && self.is_deep() && !is_built(&name.to_string_lossy()) => {
                        open.push(path);
                    }
                    Ok(kind) if kind.is_file() && self.matches(&path) => found.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }
}

fn is_built(dir: &str) -> bool {
    dir.starts_with('.') || IGNORED.contains(&dir)
}

/// Hidden files, the temporary files of vim and emacs, and the directories of builds themselves.
fn is_leftover(name: &str) -> bool {
    is_built(name) || name.ends_with('~') || name.starts_with('#') || name == "4913"
}

/// `**` stands for any number of components, also none; a pattern has a handful of them.
fn match_parts(pattern: &[String], parts: &[&str]) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            (0..=parts.len()).any(|skipped| match_parts(rest, &parts[skipped..]))
        }
        (Some((first, rest)), Some((part, parts))) => {
            match_name(first.as_bytes(), part.as_bytes()) && match_parts(rest, parts)
        }
        _ => false,
    }
}

/// `*` stands for any bytes, `?` for one: on a mismatch the last `*` takes one byte more.
fn match_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn paths_match_as_the_table_says() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it exists");
        fs::create_dir_all(root.join("f/src/target")).expect("directories");
        let table = [
            ("f/src/**", "f/src/lib.rs", true),
            ("f/src/**", "f/src/a/b/lib.rs", true),
            ("f/src/**", "f/Cargo.toml", false),
            ("f/src/**/*.rs", "f/src/lib.rs", true),
            ("f/src/**/*.rs", "f/src/a/lib.rs", true),
            ("f/src/**/*.rs", "f/src/a/lib.py", false),
            ("f/src/*.rs", "f/src/a/lib.rs", false),
            ("f/src/?ib*.r*", "f/src/lib2.rs", true),
            ("f/src/*a*b", "f/src/xaxxabx", false),
            ("f/src/*a*b", "f/src/xaxxab", true),
            ("f/src", "f/src/a/lib.rs", true),
            ("f/Cargo.toml", "f/Cargo.toml", true),
            ("f/Cargo.toml", "f/Cargo.lock", false),
            ("./f/../f/src/**", "f/src/lib.rs", true),
            ("f/**", "f/target/debug/out", false),
            ("f/**", "f/node_modules/x/index.js", false),
            ("f/**", "f/.git/index", false),
            ("f/**", "f/src/.lib.rs.swp", false),
            ("f/**", "f/src/lib.rs~", false),
            ("f/src/target/**", "f/src/target/out", true),
            ("f/build/f.wasm", "f/build/f.wasm", false),
            ("f/**/Cargo.toml", "f/target/x/Cargo.toml", false),
            ("f/**/Cargo.toml", "f/x/Cargo.toml", true),
            ("f/.env", "f/.env", true),
        ];
        for (pattern, path, expected) in table {
            let matched = Glob::new(&root, pattern).map(|glob| glob.matches(&root.join(path))).unwrap_or(false);
            assert_eq!(matched, expected, "{pattern} and {path}");
        }
    }
}

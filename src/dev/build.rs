//! Builds functions: when their sources changed since the component was made, with the command of the manifest.
//!
//! Invariant: a component that came with the project is taken as it is until its sources change here, so that nobody
//! needs a toolchain to begin; what decides is the contents of the files, not their times, which a checkout makes up.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::function::hex;

use super::watch;

/// How much of a failed build's output is kept.
const TAIL_LINES: usize = 40;

/// A function that can be built.
#[derive(Clone, Debug)]
pub struct Buildable {
    /// The function.
    pub name: String,
    /// Run by `sh -c` in `root`.
    pub command: String,
    /// Globs of the sources, relative to `root`.
    pub sources: Vec<String>,
    /// What is built.
    pub component: PathBuf,
    /// The manifest's directory.
    pub root: PathBuf,
}

/// Whether there is something to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The component is what the sources were.
    Fresh,
    /// The sources changed since.
    Stale,
    /// There is no component.
    Missing,
}

/// Why a component was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The shell could not be started.
    #[error("failed to run `{command}`")]
    Start {
        /// The command.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// The command failed.
    #[error("`{command}` failed ({status}):\n{tail}")]
    Failed {
        /// The command.
        command: String,
        /// Its exit code or signal.
        status: String,
        /// The end of its output.
        tail: String,
    },
    /// The command went well, but there is no component.
    #[error("`{command}` went well, but {} is not there: correct `component` or the command", component.display())]
    NoComponent {
        /// The command.
        command: String,
        /// What is missing.
        component: PathBuf,
    },
}

impl Buildable {
    /// Compares with what `remember` wrote into `folder`.
    #[must_use]
    pub fn freshness(&self, folder: &Path) -> Freshness {
        let Some(component) = digest_of(&self.component) else { return Freshness::Missing };
        let stamp = std::fs::read_to_string(self.stamp(folder)).unwrap_or_default();
        match stamp.split_once(' ') {
            // The component is another one than the last that was built here: it came with its sources.
            Some((_, known)) if known != component => Freshness::Fresh,
            Some((sources, _)) if sources != self.sources_digest() => Freshness::Stale,
            _ => Freshness::Fresh,
        }
    }

    /// Writes down that the component is what the sources are now.
    ///
    /// # Errors
    /// Those of writing.
    pub fn remember(&self, folder: &Path) -> io::Result<()> {
        let component = digest_of(&self.component).unwrap_or_default();
        std::fs::create_dir_all(folder.join("built"))?;
        std::fs::write(self.stamp(folder), format!("{} {component}", self.sources_digest()))
    }

    /// Runs the command; a build that is dropped is killed.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(&self) -> Result<Duration, BuildError> {
        let begin = Instant::now();
        let command = || self.command.clone();
        let output = Command::new("sh")
            .args(["-c", &self.command])
            .current_dir(&self.root)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| BuildError::Start { command: command(), source })?;
        if !output.status.success() {
            let (status, tail) = (output.status.to_string(), tail(&output));
            return Err(BuildError::Failed { command: command(), status, tail });
        }
        if !self.component.is_file() {
            return Err(BuildError::NoComponent { command: command(), component: self.component.clone() });
        }
        Ok(begin.elapsed())
    }

    fn stamp(&self, folder: &Path) -> PathBuf {
        folder.join("built").join(&self.name)
    }

    fn sources_digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.command.as_bytes());
        for path in watch::sources(&self.root, &self.sources) {
            let bytes = std::fs::read(&path).unwrap_or_default();
            hash.update(path.to_string_lossy().as_bytes());
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(&bytes);
        }
        hex(&hash.finalize())
    }
}

fn digest_of(path: &Path) -> Option<String> {
    Some(hex(&Sha256::digest(std::fs::read(path).ok()?)))
}

fn tail(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).join("");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(root: &Path, command: &str) -> Buildable {
        Buildable {
            name: "greet".to_owned(),
            command: command.to_owned(),
            sources: vec!["src/**".to_owned()],
            component: root.join("greet.wasm"),
            root: root.to_path_buf(),
        }
    }

    #[tokio::test]
    async fn a_component_is_built_when_it_is_missing_or_its_sources_changed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (root, folder) = (dir.path(), dir.path().join(".oncue"));
        std::fs::create_dir_all(root.join("src")).expect("a directory");
        std::fs::write(root.join("src/a.c"), "1").expect("a source");
        let greet = function(root, "cat src/a.c > greet.wasm");
        assert_eq!(greet.freshness(&folder), Freshness::Missing);
        greet.build().await.expect("it builds");
        assert_eq!(greet.freshness(&folder), Freshness::Fresh, "it was there before");
        greet.remember(&folder).expect("a stamp");
        std::fs::write(root.join("src/a.c"), "2").expect("a source");
        assert_eq!(greet.freshness(&folder), Freshness::Stale);
        std::fs::write(root.join("greet.wasm"), "from elsewhere").expect("a component");
        assert_eq!(greet.freshness(&folder), Freshness::Fresh, "somebody else built it");
    }

    #[tokio::test]
    async fn a_failed_build_shows_the_end_of_what_it_said() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = function(dir.path(), "seq 100; echo no such header >&2; exit 3").build().await;
        let text = error.expect_err("it fails").to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("100\nno such header") && !text.contains("\n50\n"));
        let error = function(dir.path(), "true").build().await.expect_err("nothing was built");
        assert!(matches!(error, BuildError::NoComponent { .. }));
    }
}

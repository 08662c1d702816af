//! The watcher of `oncue dev`: which function's sources, which component, or that the manifest changed.
//!
//! Invariant: changes are kept as a set until they are read, so a burst is one change each and memory is bounded by the
//! number of functions; a component is told apart from sources, so that a build does not start the next one.
//! It watches the directories that exist at the start: after [`Change::Manifest`] make a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use notify::{
    Config, Event, EventKind, PollWatcher, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{MetadataKind, ModifyKind},
};
use tokio::{sync::Notify, time::Instant};

mod glob;

use glob::Glob;

/// An editor writes a file in several steps, a checkout writes many files.
const QUIET: Duration = Duration::from_millis(100);
/// Under steady writing, tell this often anyway.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Where the system cannot tell (network and some container file systems). Polling sees whole seconds: of two writes of
/// a file within one it may miss the second.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// What to do again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Apply the manifest.
    Manifest,
    /// Build and deploy this function: its sources changed.
    Function(String),
    /// Deploy this function: its component changed (also after a build).
    Component(String),
}

/// What of a function to watch; paths are relative to the root.
#[derive(Clone, Debug)]
pub struct WatchedFunction {
    /// Its name.
    pub name: String,
    /// The component file.
    pub component: PathBuf,
    /// Files, directories (with all below) or globs with `*`, `?` and `**`.
    pub sources: Vec<String>,
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchConfig {
    /// The project's directory.
    pub root: PathBuf,
    /// The manifest, relative to the root.
    pub manifest: PathBuf,
    /// The functions.
    pub functions: Vec<WatchedFunction>,
}

/// Why nothing is watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A path of the manifest is not there.
    #[error("failed to watch {pattern} for {what}: {} is not there; correct it in the manifest", path.display())]
    Missing {
        /// The function, or "the manifest".
        what: String,
        /// As given.
        pattern: String,
        /// What is missing.
        path: PathBuf,
        /// As the system says it.
        source: io::Error,
    },
    /// Neither the system's way nor polling works.
    #[error("failed to watch files")]
    Watch(#[from] notify::Error),
}

/// Watches until it is dropped.
pub struct Watcher {
    _backend: Box<dyn notify::Watcher + Send>,
    shared: Arc<Shared>,
    ready: BTreeSet<Change>,
}

struct Shared {
    targets: Vec<Target>,
    changed: Mutex<BTreeSet<Change>>,
    wake: Notify,
}

/// Which paths mean which change.
struct Target {
    glob: Glob,
    change: Change,
}

#[derive(Clone, Copy)]
enum Backend {
    System,
    Poll(Duration),
}

impl Watcher {
    /// Begins to watch: by the system's notifications, or by polling where there are none.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn start(config: &WatchConfig) -> Result<Self, WatchError> {
        match Self::start_with(config, Backend::System) {
            Err(WatchError::Watch(error)) => {
                tracing::warn!(error = %error, "no notifications of changed files: polling");
                Self::start_with(config, Backend::Poll(POLL_EVERY))
            }
            other => other,
        }
    }

    fn start_with(config: &WatchConfig, backend: Backend) -> Result<Self, WatchError> {
        let shared = Shared { targets: targets(config)?, changed: Mutex::default(), wake: Notify::new() };
        let shared = Arc::new(shared);
        let told = Arc::clone(&shared);
        let tell = move |event: notify::Result<Event>| told.tell(event);
        let mut backend: Box<dyn notify::Watcher + Send> = match backend {
            Backend::System => Box::new(RecommendedWatcher::new(tell, Config::default())?),
            Backend::Poll(every) => Box::new(PollWatcher::new(tell, Config::default().with_poll_interval(every))?),
        };
        for (dir, mode) in directories(&shared.targets) {
            backend.watch(&dir, mode)?;
        }
        Ok(Self { _backend: backend, shared, ready: BTreeSet::new() })
    }

    /// The next change, after the files were quiet for a moment. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.ready.pop_first() {
                return change;
            }
            self.shared.quiet().await;
            self.ready = mem::take(&mut *self.shared.changed());
        }
    }
}

impl Shared {
    fn changed(&self) -> MutexGuard<'_, BTreeSet<Change>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the backend's thread.
    fn tell(&self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return tracing::warn!(error = %error, "failed to watch a file"),
        };
        let changes: Vec<Change> = if event.need_rescan() {
            self.targets.iter().map(|target| target.change.clone()).collect()
        } else if is_write(event.kind) {
            event.paths.iter().filter_map(|path| self.change_of(path)).collect()
        } else {
            Vec::new()
        };
        if !changes.is_empty() {
            self.changed().extend(changes);
            self.wake.notify_one();
        }
    }

    /// The first target wins: the manifest and components come before sources.
    fn change_of(&self, path: &Path) -> Option<Change> {
        self.targets.iter().find(|target| target.glob.matches(path)).map(|target| target.change.clone())
    }

    /// Waits until something changed and then nothing more for a moment.
    async fn quiet(&self) {
        while self.changed().is_empty() {
            self.wake.notified().await;
        }
        let latest = Instant::now() + QUIET_MAX;
        while Instant::now() < latest && tokio::time::timeout(QUIET, self.wake.notified()).await.is_ok() {}
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// The files that `patterns` mean now, each once; a pattern whose directory is not there means none.
#[must_use]
pub fn sources(root: &Path, patterns: &[String]) -> BTreeSet<PathBuf> {
    patterns.iter().filter_map(|pattern| Glob::new(root, pattern).ok()).flat_map(|glob| glob.files()).collect()
}

/// Reading is no change; polling knows only that the time of the last write differs.
fn is_write(kind: EventKind) -> bool {
    !kind.is_access() && kind != EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime))
}

fn targets(config: &WatchConfig) -> Result<Vec<Target>, WatchError> {
    let glob = |what: &str, pattern: &str| {
        Glob::new(&config.root, pattern).map_err(|(path, source)| WatchError::Missing {
            what: what.to_owned(),
            pattern: pattern.to_owned(),
            path,
            source,
        })
    };
    let manifest = glob("the manifest", &config.manifest.to_string_lossy())?;
    let mut targets = vec![Target { glob: manifest, change: Change::Manifest }];
    for function in &config.functions {
        // Before its first build a function may have no component, and no directory for it.
        if let Ok(glob) = Glob::new(&config.root, &function.component.to_string_lossy()) {
            targets.push(Target { glob, change: Change::Component(function.name.clone()) });
        }
    }
    for function in &config.functions {
        for pattern in &function.sources {
            let glob = glob(&function.name, pattern)?;
            targets.push(Target { glob, change: Change::Function(function.name.clone()) });
        }
    }
    Ok(targets)
}

/// The directories of all globs, each once, without those below a recursive one. Files are watched through their
/// directory, because editors replace files.
fn directories(targets: &[Target]) -> Vec<(PathBuf, RecursiveMode)> {
    let mut recursive: BTreeMap<&Path, bool> = BTreeMap::new();
    for target in targets {
        *recursive.entry(target.glob.base()).or_default() |= target.glob.is_deep();
    }
    let covered = |dir: &Path| dir.ancestors().skip(1).any(|above| recursive.get(above) == Some(&true));
    let wanted = recursive.iter().filter(|(dir, _)| !covered(dir));
    let mode = |deep| if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
    wanted.map(|(dir, deep)| (dir.to_path_buf(), mode(*deep))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn project() -> (tempfile::TempDir, WatchConfig) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().to_path_buf();
        for name in ["greet", "count"] {
            fs::create_dir_all(root.join("functions").join(name).join("src/deep")).expect("directories");
        }
        fs::write(root.join("oncue.toml"), "").expect("a manifest");
        let function = |name: &str| WatchedFunction {
            name: name.to_owned(),
            component: format!("functions/{name}/{name}.wasm").into(),
            sources: vec![format!("functions/{name}/**")],
        };
        let functions = vec![function("greet"), function("count")];
        (dir, WatchConfig { root, manifest: "oncue.toml".into(), functions })
    }

    async fn next(watcher: &mut Watcher) -> Change {
        tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("a change")
    }

    async fn expect_changes(backend: Backend) {
        let (dir, config) = project();
        let mut watcher = Watcher::start_with(&config, backend).expect("a watcher");
        let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).expect("a file");
        write("functions/greet/src/deep/lib.rs", "1");
        write("functions/greet/src/main.rs", "1");
        assert_eq!(next(&mut watcher).await, Change::Function("greet".to_owned()));
        write("unwatched", "1");
        write("functions/count/.count.rs.swp", "1");
        write("functions/count/count.wasm", "1");
        assert_eq!(next(&mut watcher).await, Change::Component("count".to_owned()));
        let new = dir.path().join("new.toml");
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        fs::File::create(&new).and_then(|file| file.set_modified(later)).expect("a file of another second");
        fs::rename(&new, dir.path().join("oncue.toml")).expect("a rename");
        assert_eq!(next(&mut watcher).await, Change::Manifest);
        fs::remove_file(dir.path().join("functions/greet/src/main.rs")).expect("it was there");
        assert_eq!(next(&mut watcher).await, Change::Function("greet".to_owned()));
        assert!(watcher.ready.is_empty());
    }

    #[tokio::test]
    async fn changes_are_told_by_what_they_mean() {
        expect_changes(Backend::System).await;
    }

    #[tokio::test]
    async fn polling_tells_the_same() {
        expect_changes(Backend::Poll(Duration::from_millis(20))).await;
    }

    #[tokio::test]
    async fn a_dropped_wait_loses_nothing() {
        let (dir, config) = project();
        let mut watcher = Watcher::start(&config).expect("a watcher");
        fs::write(dir.path().join("functions/count/src/lib.rs"), "1").expect("a file");
        while watcher.shared.changed().is_empty() {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::time::timeout(Duration::ZERO, watcher.next()).await;
        assert!(waiting.is_err(), "it is not quiet yet");
        assert_eq!(next(&mut watcher).await, Change::Function("count".to_owned()));
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let (_dir, mut config) = project();
        config.functions[1].sources.push("functions/cuont/**".to_owned());
        let error = Watcher::start(&config).expect_err("a slip of the pen").to_string();
        assert!(error.contains("functions/cuont/** for count"), "{error}");
    }

    #[test]
    fn a_function_without_a_component_yet_is_watched() {
        let (_dir, mut config) = project();
        config.functions[0].component = "functions/greet/dist/greet.wasm".into();
        Watcher::start(&config).expect("a watcher");
    }
}

//! The functions that a node can run: loaded once for each version, with a bound on how many run at once.
//!
//! Invariant: a version is compiled at most once at a time, off the event path where it is known ahead. A component
//! that cannot be loaded is remembered with its error; a database that is away is waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};

use crate::function::FunctionSpec;
use crate::runtime::{LoadedFunction, Runtime};
use crate::store::Store;
use crate::store::control::ControlPlane;

/// How often a component is loaded that cannot be for reasons which are not its own.
const LOAD_TRIES: u32 = 5;
/// Before the second try; longer before each later one.
const LOAD_PAUSE: Duration = Duration::from_secs(1);

/// One version of a function.
#[derive(Debug)]
pub struct Version {
    name: String,
    /// SHA-256 of the component.
    pub digest: Vec<u8>,
    /// Limits, grants, configuration.
    pub spec: FunctionSpec,
    /// Runs at once on this node.
    pub permits: Arc<Semaphore>,
    loaded: OnceCell<Result<Arc<LoadedFunction>, String>>,
}

/// The versions that the tables hold.
#[derive(Debug)]
pub struct Functions {
    runtime: Runtime,
    store: Store,
    /// By name and version.
    versions: ArcSwap<HashMap<String, BTreeMap<u32, Arc<Version>>>>,
}

impl Functions {
    /// No functions yet.
    #[must_use]
    pub fn new(runtime: Runtime, store: Store) -> Self {
        Self { runtime, store, versions: ArcSwap::default() }
    }

    /// The sandbox.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Takes over what the tables say. Versions that are loaded stay loaded.
    pub fn refresh(&self, plane: &ControlPlane) {
        let mut versions: HashMap<String, BTreeMap<u32, Arc<Version>>> = HashMap::new();
        for row in &plane.functions {
            let known = self.version(&row.function, row.version);
            let same = known.filter(|v| v.digest == row.digest && v.spec == row.spec);
            let version =
                same.unwrap_or_else(|| Arc::new(Version::new(&row.function, row.digest.clone(), row.spec.clone())));
            versions.entry(row.function.clone()).or_default().insert(row.version, version);
        }
        self.versions.store(Arc::new(versions));
    }

    /// The version, if the tables have it.
    #[must_use]
    pub fn version(&self, name: &str, version: u32) -> Option<Arc<Version>> {
        self.versions.load().get(name)?.get(&version).cloned()
    }

    /// Loads `version`, or waits for whoever does.
    ///
    /// # Errors
    /// Why the component cannot be loaded; it will not be tried again.
    pub async fn load(&self, version: &Version) -> Result<Arc<LoadedFunction>, String> {
        if let Some(loaded) = version.loaded.get() {
            return loaded.clone();
        }
        // In a box: every delivery that waits or runs would have room for it.
        Box::pin(version.loaded.get_or_init(|| self.load_now(version))).await.clone()
    }

    async fn load_now(&self, version: &Version) -> Result<Arc<LoadedFunction>, String> {
        let mut pause = Duration::from_millis(100);
        let bytes = loop {
            match self.store.component(&version.digest).await {
                Ok(bytes) => break bytes,
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Err(error.to_string()),
            }
        };
        if crate::runtime::digest(&bytes)[..] != version.digest {
            return Err("the component's bytes are not those of its digest: the table is damaged".to_owned());
        }
        self.load_bytes(version, bytes.into()).await
    }

    /// Tries again what is not the component's fault, such as a compiler that the system ended.
    async fn load_bytes(&self, version: &Version, bytes: Bytes) -> Result<Arc<LoadedFunction>, String> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.runtime.load(&version.name, bytes.clone(), &version.spec).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) if error.is_transient() && tries < LOAD_TRIES => {
                    tracing::warn!(function = version.name, tries, error = %error, "cannot load now; trying again");
                    tokio::time::sleep(LOAD_PAUSE.saturating_mul(tries)).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl Version {
    fn new(name: &str, digest: Vec<u8>, spec: FunctionSpec) -> Self {
        let permits = Arc::new(Semaphore::new(spec.limits.concurrency.max(1) as usize));
        Self { name: name.to_owned(), digest, spec, permits, loaded: OnceCell::new() }
    }

    /// Why it cannot be loaded, as far as that is known.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.loaded.get().and_then(|loaded| loaded.as_ref().err().cloned())
    }
}

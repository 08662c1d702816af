//! The runtime: WebAssembly components, each event in a fresh instance with its limits.
//!
//! Invariant: `invoke` runs one instance once, ends by its deadline, and returns a report whatever the guest does; what a
//! guest is not granted is not linked. Which events go to which function, retries, and where outputs and logs go are not
//! decided here: this module knows no store and no rules. `wasmtime` is used here only.

mod cache;
mod call;
mod compile;
mod component;
mod engine;
mod host;
mod limits;
mod logs;
mod outputs;
mod sql;
mod structure;

pub mod bare;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

pub use self::compile::{Compiler, Order, WorkerError, work};
pub use self::component::{ComponentInfo, LoadError};

use self::cache::Cache;
use self::compile::{Artefact, Compilers};
use self::host::{HostState, wit};
use crate::delivery::{Outcome, Report};
use crate::event::Event;
use crate::function::sql::Reader;
use crate::function::{FunctionSpec, hex};

/// Processor time that a compiler may take beyond its time: its own clock is only there for when ours has stopped.
const CPU_GRACE: u64 = 10;

/// Settings of the runtime.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where components are compiled.
    pub compiler: Compiler,
    /// Bytes of memory of one compilation in a process of its own.
    pub compile_memory_bytes: u64,
    /// In a folder of this one compiled components are kept; none keeps nothing.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the cache may take; the components used longest ago go first.
    pub cache_bytes_max: u64,
    /// Instances at once. More calls wait.
    pub slots: u32,
    /// How often a guest that computes is looked at. It is also how late a timeout can be.
    pub epoch_tick: Duration,
    /// Bytes of a component.
    pub max_component_bytes: usize,
    /// Longest time of one compilation, and of each wait for its turn.
    pub compile_timeout: Duration,
    /// Most memory of one instance, whatever its own limit says.
    pub memory_ceiling: u64,
    /// Let the kernel say which pages a call touched (Linux 6.7). Never used while the host has swap.
    pub pagemap_scan: bool,
    /// Check memory accesses in code instead of by guard pages: for nodes with many cores whose functions grow their
    /// memory in every call. Guests that work on memory get a quarter slower.
    pub explicit_bounds_checks: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            compiler: Compiler::default(),
            compile_memory_bytes: 2 << 30,
            cache_dir: None,
            cache_bytes_max: 2 << 30,
            slots: 256,
            epoch_tick: Duration::from_millis(5),
            max_component_bytes: 64 << 20,
            compile_timeout: Duration::from_secs(120),
            memory_ceiling: 256 << 20,
            pagemap_scan: true,
            explicit_bounds_checks: false,
        }
    }
}

/// Why the runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engine refused its settings or found no memory.
    #[error("cannot start the WebAssembly engine")]
    Engine(#[source] wasmtime::Error),
    /// The cache directory cannot be used.
    #[error(
        "cannot keep compiled components in {dir}; [node] cache_dir must name a folder in which this user may write"
    )]
    CacheDir {
        /// The directory.
        dir: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The thread that moves the epoch cannot be started.
    #[error("cannot start the epoch thread")]
    Ticker(#[source] std::io::Error),
}

/// What a call is for. The guest can read all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    /// The same on every attempt and node.
    pub delivery_id: String,
    /// Counted from 1.
    pub attempt: u32,
    /// The rule that matched.
    pub rule: String,
    /// The trigger that the event came from.
    pub trigger: String,
    /// The function's name.
    pub function: String,
    /// The function's version.
    pub version: u32,
}

/// A component that is compiled, linked and ready to be instantiated.
pub struct LoadedFunction {
    name: String,
    info: ComponentInfo,
    spec: Arc<FunctionSpec>,
    cached: bool,
    reader: Option<Arc<dyn Reader>>,
    pre: wit::FunctionPre<HostState>,
}

impl LoadedFunction {
    /// The name that it was loaded under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the component is.
    #[must_use]
    pub fn info(&self) -> &ComponentInfo {
        &self.info
    }

    /// Its limits, grants and configuration.
    #[must_use]
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Whether the compiled form came from the cache on disk.
    #[must_use]
    pub fn was_cached(&self) -> bool {
        self.cached
    }
}

impl std::fmt::Debug for LoadedFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedFunction").field("name", &self.name).field("info", &self.info).finish_non_exhaustive()
    }
}

/// The runtime; cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    config: RuntimeConfig,
    reader: Option<Arc<dyn Reader>>,
    engine: Engine,
    linker: Linker<HostState>,
    cache: Option<Cache>,
    slots: u32,
    /// Taken before the pool, whose own exhaustion is an error and no wait.
    free: Semaphore,
    compilers: Compilers,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.0.config).field("slots", &self.0.slots).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Reserves the pool, opens the cache and starts the epoch thread. Functions that read by SQL are told that there is
    /// no database.
    ///
    /// # Errors
    /// When the host gives no memory, no thread, or no private cache directory.
    pub fn new(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        Self::with_reader(config, None)
    }

    /// A runtime whose functions read by SQL through `reader`.
    ///
    /// # Errors
    /// Those of `new`.
    pub fn with_reader(config: RuntimeConfig, reader: Option<Arc<dyn Reader>>) -> Result<Self, RuntimeError> {
        let (engine, profile) = engine::build(&config)?;
        let slots = profile.slots(&config);
        let cache_dir = config.cache_dir.as_deref();
        let cache = cache_dir.map(|dir| Cache::open(dir, config.cache_bytes_max, &engine)).transpose()?;
        let mut linker = Linker::new(&engine);
        host::link(&mut linker).map_err(RuntimeError::Engine)?;
        engine::start_ticker(&engine, config.epoch_tick)?;
        let free = Semaphore::new(slots as usize);
        let order = Order {
            profile,
            memory_ceiling: config.memory_ceiling,
            explicit_bounds_checks: config.explicit_bounds_checks,
            memory_bytes: config.compile_memory_bytes,
            cpu_seconds: config.compile_timeout.as_secs().saturating_add(CPU_GRACE),
        };
        let compilers = Compilers::new(config.compiler.clone(), order, config.compile_timeout);
        Ok(Self(Arc::new(Inner { config, reader, engine, linker, cache, slots, free, compilers })))
    }

    /// Compiles the component, or takes its compiled form from the cache, and links it. Off the reactor.
    ///
    /// # Errors
    /// Every reason why the component cannot be called, with the way out.
    pub async fn load(&self, name: &str, bytes: Bytes, spec: &FunctionSpec) -> Result<Arc<LoadedFunction>, LoadError> {
        component::check_bytes(&bytes, self.0.config.max_component_bytes)?;
        let size = bytes.len();
        let (component, digest, cached) = self.compiled(bytes).await?;
        let pre = component::link(&self.0.linker, &component, &spec.limits)?;
        let (imports, exports) = component::interfaces(&component);
        let info = ComponentInfo { digest: hex(&digest), size, imports, exports };
        let (name, spec, reader) = (name.to_owned(), Arc::new(spec.clone()), self.0.reader.clone());
        Ok(Arc::new(LoadedFunction { name, info, spec, cached, reader, pre }))
    }

    /// What `load` would give, for `deploy`: the compiled form stays in the cache, so that it is not done twice.
    ///
    /// # Errors
    /// The same as `load`.
    pub async fn inspect(&self, bytes: Bytes, spec: &FunctionSpec) -> Result<ComponentInfo, LoadError> {
        Ok(self.load("", bytes, spec).await?.info.clone())
    }

    /// Runs `function` once for `event`, in an instance that is used for nothing else. Waits for a free slot first; that
    /// wait does not count against the function's time. Dropping the future ends the call.
    pub async fn invoke(&self, function: &LoadedFunction, event: &Event, context: CallContext) -> Report {
        match self.0.free.acquire().await {
            Ok(_slot) => call::run(function, event, context, self.0.config.memory_ceiling).await,
            Err(_) => Report {
                outcome: Outcome::Broken("the runtime is closed".to_owned()),
                started_at: OffsetDateTime::now_utc(),
                micros: 0,
                fuel: 0,
                peak_memory: 0,
                logs: Vec::new(),
                logs_dropped: 0,
            },
        }
    }

    /// Instances that are in use.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.0.slots - u32::try_from(self.0.free.available_permits()).unwrap_or(self.0.slots).min(self.0.slots)
    }

    /// Instances at once; fewer than configured where the host limits the address space.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.0.slots
    }

    /// The compiled form, the digest, and whether it came from the cache. What is in the cache waits for no compilation.
    async fn compiled(&self, bytes: Bytes) -> Result<(Component, [u8; 32], bool), LoadError> {
        let (inner, content) = (Arc::clone(&self.0), bytes.clone());
        let (digest, found) = off_the_reactor(move || Ok(inner.look_up(&content))).await?;
        if let Some(component) = found {
            return Ok((component, digest, true));
        }
        let content = bytes.clone();
        off_the_reactor(move || structure::check(&content)).await?;
        let artefact = self.0.compilers.compile(bytes).await?;
        let inner = Arc::clone(&self.0);
        let component = off_the_reactor(move || inner.admit(&digest, &artefact)).await?;
        Ok((component, digest, false))
    }
}

/// Reads and checks, which takes up to a second for the largest components.
async fn off_the_reactor<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LoadError::Compile(format!("cannot read the component: {error}")))?
}

impl Inner {
    fn look_up(&self, bytes: &[u8]) -> ([u8; 32], Option<Component>) {
        let digest = digest(bytes);
        (digest, self.cache.as_ref().and_then(|cache| cache.get(&self.engine, &digest)))
    }

    fn admit(&self, digest: &[u8; 32], artefact: &Artefact) -> Result<Component, LoadError> {
        let admitted = cache::admit(&self.engine, artefact);
        let component = admitted.map_err(|error| component::classify(format!("{error:#}")))?;
        if let Some(cache) = &self.cache {
            cache.put(digest, artefact);
        }
        Ok(component)
    }
}

/// The SHA-256 of a component: what a function version is identified by.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

//! What a guest can reach: the interfaces of `functions/wit`, and WASI without files, environment, arguments or network.
//!
//! Invariant: what is not linked here does not exist for a guest; `wasi:sockets` and `wasi:http` are not linked. Host
//! functions only touch the state of their own call; what waits is `wasi:io` and the reads of `sql`, and the timer around the
//! call ends both.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::{HasData, HasSelf, Linker, ResourceTable};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, io, random};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView as _};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use self::bindings::wasi::config::store as config;
use self::bindings::wasi::logging::logging;
use super::CallContext;
use super::limits::Limiter;
use super::logs::{Logs, Stream};
use super::outputs::Outputs;
use crate::function::FunctionSpec;
use crate::function::sql::Reader;

/// Resources (pollables, streams) that a guest may hold at once.
const RESOURCES_MAX: usize = 1_000;
/// Random bytes that one call of `wasi:random` may ask for.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
mod bindings {
    // Borrowed parameters: the payload goes from the `Event` into the guest's memory without a copy in between.
    wasmtime::component::bindgen!({
        path: "functions/wit",
        world: "function",
        imports: { "oncue:function/sql.query": async },
        exports: { default: async },
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The generated types under the names that the rest of the runtime uses.
pub(super) mod wit {
    pub use super::bindings::FunctionPre;
    pub use super::bindings::oncue::function::types::{Error, EventParam, EventResult as Event};
}

/// The interface `sql`, which is implemented beside this file.
pub(super) use self::bindings::oncue::function::sql;

/// The state of one call.
pub(super) struct HostState {
    pub(super) limiter: Limiter,
    pub(super) outputs: Outputs,
    pub(super) logs: Logs,
    pub(super) deadline: Instant,
    pub(super) spec: Arc<FunctionSpec>,
    pub(super) reader: Option<Arc<dyn Reader>>,
    pub(super) context: CallContext,
    /// Made on the first use: seeding its random generators costs more than most guests' whole work.
    wasi: Option<WasiCtx>,
    resources: ResourceTable,
}

impl HostState {
    /// The state of a call that is described by `context`, reads through `reader` and must end by `deadline`.
    pub(super) fn new(
        spec: &Arc<FunctionSpec>,
        reader: Option<Arc<dyn Reader>>,
        context: CallContext,
        memory: u64,
        deadline: Instant,
    ) -> Self {
        Self {
            limiter: Limiter::new(memory),
            outputs: Outputs::new(Arc::clone(spec), &context.function),
            logs: Logs::new(spec.limits.log_bytes),
            deadline,
            spec: Arc::clone(spec),
            reader,
            context,
            wasi: None,
            resources: ResourceTable::new(),
        }
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (logs, resources) = (&self.logs, &mut self.resources);
        let ctx = self.wasi.get_or_insert_with(|| {
            resources.set_max_capacity(RESOURCES_MAX);
            WasiCtxBuilder::new()
                .stdout(logs.stream(Stream::Stdout))
                .stderr(logs.stream(Stream::Stderr))
                .max_random_size(RANDOM_BYTES_MAX)
                .build()
        });
        WasiCtxView { ctx, table: resources }
    }
}

impl bindings::oncue::function::types::Host for HostState {}

impl bindings::oncue::function::context::Host for HostState {
    fn get(&mut self) -> bindings::oncue::function::context::Info {
        let CallContext { delivery_id, attempt, rule, trigger, function, version } = self.context.clone();
        bindings::oncue::function::context::Info { delivery_id, attempt, rule, trigger, function, version }
    }
}

impl bindings::oncue::function::emitter::Host for HostState {
    fn emit(&mut self, event: wit::Event) -> Result<(), String> {
        self.outputs.push(event).map_err(|refused| refused.to_string())
    }
}

impl config::Host for HostState {
    fn get(&mut self, key: String) -> Result<Option<String>, config::Error> {
        Ok(self.spec.config.get(&key).cloned())
    }

    fn get_all(&mut self) -> Result<Vec<(String, String)>, config::Error> {
        Ok(self.spec.config.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl logging::Host for HostState {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => "trace",
            logging::Level::Debug => "debug",
            logging::Level::Info => "info",
            logging::Level::Warn => "warn",
            logging::Level::Error => "error",
            logging::Level::Critical => "critical",
        };
        self.logs.line(level, &context, &message);
    }
}

/// Adds everything that a function may import.
pub(super) fn link(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    bindings::Function::add_to_linker::<_, HasSelf<_>>(linker, |state| state)?;
    link_io(linker)?;
    link_cli(linker)?;
    clocks::wall_clock::add_to_linker::<_, WasiClocks>(linker, HostState::clocks)?;
    clocks::monotonic_clock::add_to_linker::<_, WasiClocks>(linker, HostState::clocks)?;
    random::random::add_to_linker::<_, WasiRandom>(linker, HostState::random)?;
    random::insecure::add_to_linker::<_, WasiRandom>(linker, HostState::random)?;
    random::insecure_seed::add_to_linker::<_, WasiRandom>(linker, HostState::random)?;
    // Most toolchains import the file interfaces; nothing is opened beforehand, so no path leads anywhere.
    filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, HostState::filesystem)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, HostState::filesystem)
}

fn link_cli(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    cli::exit::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::environment::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stdin::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stdout::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::stderr::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_input::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_output::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stdin::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stdout::add_to_linker::<_, WasiCli>(linker, HostState::cli)?;
    cli::terminal_stderr::add_to_linker::<_, WasiCli>(linker, HostState::cli)
}

/// The table alone is what `wasi:io` works on.
struct Resources;

impl HasData for Resources {
    type Data<'a> = &'a mut ResourceTable;
}

fn link_io(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    io::error::add_to_linker::<_, Resources>(linker, |state| &mut state.resources)?;
    io::poll::add_to_linker::<_, Resources>(linker, |state| &mut state.resources)?;
    io::streams::add_to_linker::<_, Resources>(linker, |state| &mut state.resources)
}

/// Whether a guest may import the interface `name`, for example `wasi:clocks/wall-clock@0.2.3`.
pub(super) fn is_linked(name: &str) -> bool {
    const OURS: [&str; 6] = [
        "oncue:function/types@0.1.0",
        "oncue:function/context@0.1.0",
        "oncue:function/emitter@0.1.0",
        "oncue:function/sql@0.1.0",
        "wasi:logging/logging@0.1.0-draft",
        "wasi:config/store@0.2.0-rc.1",
    ];
    const WASI: [&str; 5] = ["wasi:cli/", "wasi:clocks/", "wasi:random/", "wasi:io/", "wasi:filesystem/"];
    let stable = name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."));
    OURS.contains(&name) || (stable && WASI.iter().any(|package| name.starts_with(package)))
}

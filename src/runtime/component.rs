//! From bytes to something that can be called: what a component is checked for before it runs.
//!
//! Invariant: only a component that imports nothing but what is linked, exports the handler and fits one slot of the pool
//! is accepted; every refusal names the thing and the way out. Nothing of the component has run when this is done.

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};

use super::host::{self, HostState, wit};
use super::limits::{MEMORIES, TABLES};
use crate::function::Limits;

/// Bytes of a page of WebAssembly memory.
const WASM_PAGE: u64 = 64 << 10;
/// The interface that a function exports.
pub(super) const HANDLER: &str = "oncue:function/handler@0.1.0";

/// Characters of a name from a component that an error shows.
const NAME_SHOWN: usize = 200;

/// Why a component was refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not WebAssembly at all.
    #[error("not a WebAssembly file; build a component, or check that the path names the .wasm file")]
    NotWasm,
    /// The file ends too early.
    #[error("the WebAssembly file is truncated ({0}); copy or build it again")]
    Truncated(String),
    /// The file is damaged or no valid WebAssembly.
    #[error("the WebAssembly file is not valid ({0}); build it again")]
    Corrupt(String),
    /// A core module, not a component.
    #[error("this is a core module, not a component; wrap it with `wasm-tools component new`")]
    CoreModule,
    /// Machine code that some engine compiled beforehand.
    #[error("this is precompiled machine code (.cwasm), which is never loaded; deploy the .wasm component")]
    Precompiled,
    /// The file is above the limit.
    #[error("the component has {bytes} bytes; the limit is {limit}: strip it (`wasm-tools strip`) or build it smaller")]
    TooLarge {
        /// Bytes of the component.
        bytes: usize,
        /// Most bytes that are accepted.
        limit: usize,
    },
    /// An import that is not linked.
    #[error("imports {name}, which is not granted; {fix}")]
    UnknownImport {
        /// The interface.
        name: String,
        /// What to do.
        fix: &'static str,
    },
    /// An import is linked, but not in the form that the component asks for.
    #[error("an import does not fit what Oncue offers ({0}); build against the WIT package in functions/wit")]
    Import(String),
    /// The handler is missing or has other types.
    #[error("does not export {HANDLER} ({0}); build against the world `function` in functions/wit")]
    NoHandler(String),
    /// More memories, tables, instances or code than one slot has room for.
    #[error("the component is too complex ({0}); split it or build it smaller")]
    TooComplex(String),
    /// It needs more memory to begin with than its limit.
    #[error(
        "needs {needed} bytes of memory to start; its limit is {limit}: raise limits.memory_bytes or shrink its stack"
    )]
    Memory {
        /// Bytes that its memories begin with.
        needed: u64,
        /// `memory_bytes` of its limits.
        limit: u64,
    },
    /// Compilation took too long.
    #[error("compiling took longer than {seconds} s; build the component smaller or raise runtime.compile_timeout")]
    CompileTimeout {
        /// The limit in seconds.
        seconds: u64,
    },
    /// Compilation took too much memory.
    #[error("compiling needs more than {limit} bytes of memory; build the component smaller or split its functions")]
    CompileMemory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The compiler refused it.
    #[error("cannot compile the component: {0}")]
    Compile(String),
    /// Too many components wait to be compiled, or quicker ones went first for too long.
    #[error("too many components wait to be compiled; try again when they are done")]
    CompileBusy,
    /// There was no compiler, through no fault of the component.
    #[error("cannot compile now: {0}")]
    Compiler(String),
}

impl LoadError {
    /// Whether another try may end otherwise: it is not the component's fault.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::CompileBusy | Self::Compiler(_))
    }
}

/// What a component is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentInfo {
    /// SHA-256 of the component, hexadecimal.
    pub digest: String,
    /// Bytes of the component.
    pub size: usize,
    /// Interfaces that it imports.
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    pub exports: Vec<String>,
}

/// Refuses what cannot be a component, before anything is parsed.
pub(super) fn check_bytes(bytes: &[u8], limit: usize) -> Result<(), LoadError> {
    const MAGIC: &[u8] = b"\0asm";
    // A component has layer 1 where a core module has 0 (component-model, Binary.md).
    const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];
    if bytes.len() > limit {
        return Err(LoadError::TooLarge { bytes: bytes.len(), limit });
    }
    if Engine::detect_precompiled(bytes).is_some() {
        return Err(LoadError::Precompiled);
    }
    if !bytes.starts_with(MAGIC) {
        return Err(LoadError::NotWasm);
    }
    match bytes.get(4..8) {
        None => Err(LoadError::Truncated("it ends within its header".to_owned())),
        Some(layer) if layer == COMPONENT => Ok(()),
        Some([_, _, 0, 0]) => Err(LoadError::CoreModule),
        Some(_) => Err(LoadError::Corrupt("its header names an unknown version".to_owned())),
    }
}

/// What the engine's words mean: its errors carry no kinds. A miss costs the user a better hint, nothing else.
pub(super) fn classify(text: String) -> LoadError {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["unexpected end"]) {
        LoadError::Truncated(text)
    } else if says(&["exceeds", "limit", "too many", "too large"]) {
        LoadError::TooComplex(text)
    } else if says(&["(at offset 0x"]) {
        LoadError::Corrupt(text)
    } else {
        LoadError::Compile(text)
    }
}

/// Checks the component against what is linked and its limits, and resolves its imports.
pub(super) fn link(
    linker: &Linker<HostState>,
    component: &Component,
    limits: &Limits,
) -> Result<wit::FunctionPre<HostState>, LoadError> {
    let (imports, _) = interfaces(component);
    if let Some(name) = imports.iter().find(|name| !host::is_linked(name)) {
        return Err(unknown_import(name));
    }
    check_size(component, limits)?;
    let pre = linker.instantiate_pre(component).map_err(|error| LoadError::Import(format!("{error:#}")))?;
    let pre = wit::FunctionPre::new(pre).map_err(|error| LoadError::NoHandler(format!("{error:#}")))?;
    check_handler(component)?;
    Ok(pre)
}

/// The names of what a component imports and exports.
pub(super) fn interfaces(component: &Component) -> (Vec<String>, Vec<String>) {
    let ty = component.component_type();
    let engine = component.engine();
    let imports = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    (imports, exports)
}

/// The refusal of an import, with the way out.
pub(super) fn unknown_import(name: &str) -> LoadError {
    let shown = name.chars().take(NAME_SHOWN).flat_map(char::escape_debug).collect();
    LoadError::UnknownImport { name: shown, fix: fix_for(name) }
}

fn fix_for(import: &str) -> &'static str {
    match import.split('/').next().unwrap_or_default() {
        "wasi:http" => "outbound HTTP is not offered: build without it, or emit an event to what makes the call",
        "wasi:sockets" => {
            "functions have no network: build without it, or close it with `functions/cut-network IN OUT`"
        }
        "wasi:keyvalue" | "wasi:blobstore" | "wasi:messaging" => "it is not offered: build without it",
        package if package.starts_with("wasi:") => "use WASI 0.2 interfaces, and oncue:function@0.1.0 for the rest",
        _ => "a function may import oncue:function@0.1.0, wasi:logging, wasi:config and WASI 0.2 without network",
    }
}

fn check_size(component: &Component, limits: &Limits) -> Result<(), LoadError> {
    // None: the component imports a core module, which nothing here links.
    let Some(needs) = component.resources_required() else {
        return Err(LoadError::TooComplex("it imports a core module".to_owned()));
    };
    if needs.num_memories > MEMORIES || needs.num_tables > TABLES {
        let (memories, tables) = (needs.num_memories, needs.num_tables);
        let text = format!("{memories} memories and {tables} tables; at most {MEMORIES} and {TABLES}");
        return Err(LoadError::TooComplex(text));
    }
    let needed = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE);
    match needed > limits.memory_bytes {
        true => Err(LoadError::Memory { needed, limit: limits.memory_bytes }),
        false => Ok(()),
    }
}

/// Checks the handler's types now: the generated code does it at the first call.
fn check_handler(component: &Component) -> Result<(), LoadError> {
    type Returned = Result<Vec<wit::Event>, wit::Error>;
    let ty = component.component_type();
    let item = ty.get_export(component.engine(), HANDLER).map(|export| export.ty);
    let Some(ComponentItem::ComponentInstance(instance)) = item else {
        return Err(LoadError::NoHandler("it is no interface".to_owned()));
    };
    match instance.get_export(component.engine(), "handle").map(|export| export.ty) {
        Some(ComponentItem::ComponentFunc(handle)) => handle
            .typecheck::<(wit::EventParam<'_>,), (Returned,)>(&ty.instance_type())
            .map_err(|error| LoadError::NoHandler(format!("{error:#}"))),
        _ => Err(LoadError::NoHandler("it has no function `handle`".to_owned())),
    }
}

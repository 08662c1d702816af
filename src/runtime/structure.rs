//! What can be told of a component before it is compiled: its parts, how many there are, and what it imports.
//!
//! Invariant: one pass over the bytes, in time and memory that grow with their number alone; nothing nested is followed
//! by recursion, and no code is looked at. Types are not checked here: the compiler does that, in its own process.

use wasmparser::{BinaryReaderError, ComponentImportSectionReader, FunctionBody, Instance, Parser, Payload};

use super::component::{self, LoadError};
use super::host;
use super::limits::CORE_INSTANCES;

/// Components within components. The tools make at most three levels.
const NESTING: usize = 16;
/// Functions of all modules: CPython with its libraries has about 25,000.
const FUNCTIONS: u64 = 200_000;
/// Types of all modules and components.
const TYPES: u64 = 100_000;
/// Imports of all modules and components: the largest examples have about 300.
const IMPORTS: u64 = 10_000;
/// Exports of all modules and components.
const EXPORTS: u64 = 100_000;
/// Globals, tables, memories, segments.
const PARTS: u64 = 200_000;
/// What a component says of how its parts fit: instances, aliases, adapters.
const WIRES: u64 = 100_000;
/// Locals of a function. Compilers of languages stay below 5,000.
const LOCALS: u64 = 20_000;
/// Bytes of a function: the largest interpreter loops have some hundred KiB.
const BODY_BYTES: usize = 2 << 20;

/// How many of everything.
#[derive(Debug, Default)]
struct Counts {
    depth: usize,
    functions: u64,
    types: u64,
    imports: u64,
    exports: u64,
    parts: u64,
    wires: u64,
    core_instances: u64,
}

/// Refuses what is too much and what imports something that is not offered. Takes milliseconds.
pub(super) fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let mut counts = Counts::default();
    let mut handler = false;
    let corrupt = |error: BinaryReaderError| component::classify(error.to_string());
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(corrupt)?;
        counts.nest(&payload)?;
        match payload {
            Payload::ComponentImportSection(reader) if counts.depth == 0 => {
                counts.imports += u64::from(reader.count());
                most(counts.imports, IMPORTS, "imports")?;
                granted(reader)?;
            }
            Payload::ComponentExportSection(reader) if counts.depth == 0 => {
                counts.exports += u64::from(reader.count());
                most(counts.exports, EXPORTS, "exports")?;
                for export in reader {
                    handler |= export.map_err(corrupt)?.name.name == component::HANDLER;
                }
            }
            Payload::CodeSectionEntry(body) => function(&body)?,
            Payload::InstanceSection(reader) => {
                for instance in reader {
                    let made = matches!(instance.map_err(corrupt)?, Instance::Instantiate { .. });
                    counts.core_instances += u64::from(made);
                    counts.wires += 1;
                }
            }
            payload => counts.add(&payload),
        }
        counts.check()?;
    }
    match handler {
        true => Ok(()),
        false => Err(LoadError::NoHandler("it is not among its exports".to_owned())),
    }
}

impl Counts {
    fn nest(&mut self, payload: &Payload<'_>) -> Result<(), LoadError> {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => self.depth += 1,
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        most(self.depth as u64, NESTING as u64, "levels of components within components")
    }

    fn add(&mut self, payload: &Payload<'_>) {
        let (counter, count) = match payload {
            Payload::FunctionSection(reader) => (&mut self.functions, reader.count()),
            Payload::TypeSection(reader) => (&mut self.types, reader.count()),
            Payload::CoreTypeSection(reader) => (&mut self.types, reader.count()),
            Payload::ComponentTypeSection(reader) => (&mut self.types, reader.count()),
            Payload::ImportSection(reader) => (&mut self.imports, reader.count()),
            Payload::ComponentImportSection(reader) => (&mut self.imports, reader.count()),
            Payload::ExportSection(reader) => (&mut self.exports, reader.count()),
            Payload::ComponentExportSection(reader) => (&mut self.exports, reader.count()),
            Payload::GlobalSection(reader) => (&mut self.parts, reader.count()),
            Payload::TableSection(reader) => (&mut self.parts, reader.count()),
            Payload::MemorySection(reader) => (&mut self.parts, reader.count()),
            Payload::TagSection(reader) => (&mut self.parts, reader.count()),
            Payload::ElementSection(reader) => (&mut self.parts, reader.count()),
            Payload::DataSection(reader) => (&mut self.parts, reader.count()),
            Payload::ComponentInstanceSection(reader) => (&mut self.wires, reader.count()),
            Payload::ComponentAliasSection(reader) => (&mut self.wires, reader.count()),
            Payload::ComponentCanonicalSection(reader) => (&mut self.wires, reader.count()),
            // Every other section counts as one, so that no number of them is free.
            _ => (&mut self.wires, 1),
        };
        *counter += u64::from(count);
    }

    fn check(&self) -> Result<(), LoadError> {
        most(self.functions, FUNCTIONS, "functions")?;
        most(self.types, TYPES, "types")?;
        most(self.imports, IMPORTS, "imports")?;
        most(self.exports, EXPORTS, "exports")?;
        most(self.parts, PARTS, "globals, tables, memories and segments")?;
        most(self.wires, WIRES, "instances, aliases, adapters and sections")?;
        most(self.core_instances, u64::from(CORE_INSTANCES), "instances of modules")
    }
}

fn most(count: u64, limit: u64, what: &str) -> Result<(), LoadError> {
    match count > limit {
        true => Err(LoadError::TooComplex(format!("it has {count} {what}; at most {limit}"))),
        false => Ok(()),
    }
}

fn granted(imports: ComponentImportSectionReader<'_>) -> Result<(), LoadError> {
    for import in imports {
        let import = import.map_err(|error| component::classify(error.to_string()))?;
        if !host::is_linked(import.name.name) {
            return Err(component::unknown_import(import.name.name));
        }
    }
    Ok(())
}

fn function(body: &FunctionBody<'_>) -> Result<(), LoadError> {
    let range = body.range();
    let bytes = range.end.saturating_sub(range.start);
    most(bytes as u64, BODY_BYTES as u64, "bytes in one function")?;
    let mut locals = 0;
    let corrupt = |error: BinaryReaderError| component::classify(error.to_string());
    for declared in body.get_locals_reader().map_err(corrupt)? {
        locals += u64::from(declared.map_err(corrupt)?.0);
        most(locals, LOCALS, "locals in one function")?;
    }
    Ok(())
}

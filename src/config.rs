//! The configuration: one file, `oncue.toml`, and the environment, read and checked before anything connects.
//!
//! Invariant: whatever `Config::load` gives is valid as far as it can be known without the database: every pattern,
//! template and path compiles, every name has a form that the tables take. Nothing else reads the environment. What
//! the manifest does to the tables is in `cli::apply`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::bus::BusConfig;

mod buses;
mod environment;
mod error;
mod node;
mod reader;
mod values;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors, Place};
pub use node::{LogFormat, NodeSettings};

use reader::{Node, Section, Value};

/// The manifest that is read where none is named.
pub const MANIFEST: &str = "oncue.toml";

const SECTIONS: &[&str] = &["node", "bus", "trigger", "function", "rule"];

/// Everything that one file and the environment say.
#[derive(Clone, Debug)]
pub struct Config {
    /// The manifest; none if there is no file.
    pub path: Option<PathBuf>,
    /// The node.
    pub node: NodeSettings,
    /// Connections by name.
    pub buses: BTreeMap<String, BusConfig>,
}

impl Config {
    /// Reads `path`; without one `oncue.toml` if it is there, else what the environment says.
    ///
    /// # Errors
    /// A named file that cannot be read; every mistake of the file.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        let path = match path {
            Some(path) => path,
            None if Path::new(MANIFEST).exists() => Path::new(MANIFEST),
            None => return Ok(Self::of_environment(environment)),
        };
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            place: None,
            key: String::new(),
            message: format!("failed to read {}: {error}", path.display()),
            fix: "name another one with --config, or write one with `oncue init`".to_owned(),
        })?;
        Self::parse(path, &text, environment)
    }

    /// What holds without a manifest: the bus `events` at `NATS_URL`.
    #[must_use]
    pub fn of_environment(environment: &Environment) -> Self {
        let nats = environment.get("NATS_URL").map(|url| ("events".to_owned(), BusConfig::nats(url)));
        Self { path: None, node: NodeSettings::new(environment), buses: nats.into_iter().collect() }
    }

    /// Reads the manifest `text`, which is the file `path`.
    ///
    /// # Errors
    /// Every mistake of the text.
    pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut root = Node::parse(&path.display().to_string(), text)?;
        if let Value::Table(entries) = &mut root.value {
            let connections = entries.iter_mut().filter(|e| e.key == "node" || e.key == "bus");
            connections.into_iter().try_for_each(|e| e.node.substitute(&e.key, environment))?;
        }
        let document = Section::open(&root, "", SECTIONS)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut config = Self { path: Some(path.to_owned()), ..Self::of_environment(environment) };
        let mut errors = ConfigErrors::default();
        if let Some(field) = document.get("node")
            && let Some(node) = errors.keep(NodeSettings::read(field.node, environment, base))
        {
            config.node = node;
        }
        for (name, field) in errors.keep(document.tables("bus")).unwrap_or_default() {
            if let Some(bus) = errors.keep(buses::read(name, field.node, &field.path)) {
                config.buses.insert(name.to_owned(), bus);
            }
        }
        errors.or(config)
    }
}

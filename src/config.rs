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
mod export;
mod forms;
mod functions;
mod manifest;
mod mask;
mod node;
mod plan;
mod reader;
mod rules;
mod triggers;
mod values;

#[cfg(test)]
mod tests;

pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors, Place};
pub use export::{Exported, export};
pub use forms::{Form, duration_text, function_form, rule_form, size_text, target_text, trigger_form};
pub use functions::{Build, FunctionEntry, add_options};
pub use manifest::{Known, Manifest};
pub use node::NodeSettings;
pub use plan::{Action, Change, FieldChange, Kind, Plan};
pub use rules::RuleEntry;
pub use triggers::TriggerEntry;

use reader::{Node, Section};

/// The manifest that is read where none is named.
pub const MANIFEST: &str = "oncue.toml";

/// Where a running `oncue dev` writes the addresses of its servers, for the commands of a second terminal:
/// `DATABASE_URL=…` and `NATS_URL=…`, one a line, below the manifest's directory.
pub const DEV_ENVIRONMENT: &str = ".oncue/env";

const SECTIONS: &[&str] = &["node", "bus", "trigger", "function", "rule"];
/// Sections whose values errors may show: they become rows that everybody reads who reads the tables.
const PUBLIC: &[&str] = &["trigger", "function", "rule"];

/// Everything that one file and the environment say.
#[derive(Clone)]
pub struct Config {
    /// The manifest's file; none if there is none.
    pub path: Option<PathBuf>,
    /// The manifest's text.
    pub source: String,
    /// The node.
    pub node: NodeSettings,
    /// Connections by name.
    pub buses: BTreeMap<String, BusConfig>,
    /// What the tables shall hold.
    pub manifest: Manifest,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, node, buses, manifest, .. } = self;
        // Without the text, which may hold passwords.
        let mut shown = f.debug_struct("Config");
        shown.field("path", path).field("node", node).field("buses", buses);
        shown.field("manifest", manifest).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads `path`; without one `oncue.toml` if it is there, else what the environment says. What a running
    /// `oncue dev` wrote beside the file counts as set where the environment does not set it.
    ///
    /// # Errors
    /// A named file that cannot be read; every mistake of the file.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigErrors> {
        let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
        let environment = &environment.clone().with_defaults_of(&base.join(DEV_ENVIRONMENT));
        let path = match path {
            Some(path) => path,
            None if Path::new(MANIFEST).exists() => Path::new(MANIFEST),
            None => return Ok(Self::of_environment(environment)),
        };
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            place: None,
            key: String::new(),
            message: format!("failed to read {}: {error}", path.display()),
            fix: "name another file with --config, or write one with `oncue init`".to_owned(),
        })?;
        Self::parse(path, &text, environment)
    }

    /// What holds without a manifest: the bus `events` at `NATS_URL`, the bus `kafka` at `KAFKA_BROKERS`.
    #[must_use]
    pub fn of_environment(environment: &Environment) -> Self {
        let nats = environment.get("NATS_URL").map(|url| ("events".to_owned(), BusConfig::nats(url)));
        let kafka = environment.get("KAFKA_BROKERS").map(|brokers| ("kafka".to_owned(), BusConfig::kafka(brokers)));
        Self {
            path: None,
            source: String::new(),
            node: NodeSettings::new(environment),
            buses: nats.into_iter().chain(kafka).collect(),
            manifest: Manifest::default(),
        }
    }

    /// Reads the manifest `text`, which is the file `path`.
    ///
    /// # Errors
    /// Every mistake of the text.
    pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let mut root = Node::parse(&path.display().to_string(), text)?;
        root.make_private_but(PUBLIC);
        root.substitute_below(&["node", "bus"], environment, &mut errors);
        // What has no value would only give more errors.
        let mut errors = errors.or(ConfigErrors::default())?;
        let document = Section::open(&root, "", SECTIONS)?;
        let base = path.parent().unwrap_or(Path::new(""));
        let mut config =
            Self { path: Some(path.to_owned()), source: text.to_owned(), ..Self::of_environment(environment) };
        config.read(&document, environment, &mut errors);
        config.manifest = Manifest::read(&document, base, &mut errors);
        config.manifest.check_buses(&config.buses, &mut errors);
        config.manifest.check_kinds(&config.buses, &mut errors);
        config.manifest.check_topics(&config.buses, &mut errors);
        errors.or(config)
    }

    fn read(&mut self, document: &Section<'_>, environment: &Environment, errors: &mut ConfigErrors) {
        let base = self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        if let Some(field) = document.get("node")
            && let Some(node) = errors.keep(NodeSettings::read(field.node, environment, base))
        {
            self.node = node;
        }
        let buses = errors.keep(document.tables("bus")).unwrap_or_default();
        if !buses.is_empty() {
            // The manifest names its buses itself.
            self.buses.clear();
        }
        for (name, field) in buses {
            if let Some(bus) = errors.keep(buses::read(name, field.node, &field.path)) {
                self.buses.insert(name.to_owned(), bus);
            }
        }
    }
}

/// Reads the rules of a file, which is JSON if it begins with a brace and else TOML: one rule, or every `[[rule]]` of a
/// manifest, whose other sections are passed over.
///
/// # Errors
/// The first mistake, with its place in a TOML file.
pub fn read_rules(path: &Path, text: &str) -> Result<Vec<RuleEntry>, ConfigError> {
    let file = path.display().to_string();
    // No TOML begins so; a file without a name has no ending either.
    let is_json = text.trim_start().starts_with('{');
    let node = if is_json { Node::parse_json(&file, text)? } else { Node::parse(&file, text)? };
    match node.get("rule") {
        Some(list) => {
            let list = reader::Field { node: list, path: "rule".to_owned() }.list()?;
            list.into_iter().map(|field| rules::read(field.node, &field.path)).collect()
        }
        None => rules::read(&node, "").map(|rule| vec![rule]),
    }
}

/// Reads one rule from the options of the command line, as JSON.
///
/// # Errors
/// The mistake, with the option as its key.
pub fn rule_of_options(options: &serde_json::Value) -> Result<RuleEntry, ConfigError> {
    rules::read(&Node::parse_json("", &options.to_string())?, "")
}

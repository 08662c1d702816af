//! Writes the tables as a manifest.
//!
//! Invariant: reading what was written gives the same triggers, function specifications and rules. Connections are not
//! in the tables: the sections of the manifest at hand are kept, but for their secrets, in whose places variables stand, and
//! a bus that is only named gets one whose address comes from the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use crate::function::hex;
use crate::rules::{Rule, Target};
use crate::store::control::{ControlPlane, FunctionVersion};
use crate::triggers::spec::TriggerSpec;

use super::Config;
use super::forms::{Form, function_form, rule_form, trigger_form};
use super::mask::{Masked, mask};
use super::reader::Node;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The manifest.
    pub text: String,
    /// The component of each function: its path in the manifest and its SHA-256.
    pub components: BTreeMap<String, Vec<u8>>,
    /// Rows that the manifest cannot hold, with the reason.
    pub left_out: Vec<String>,
    /// Secrets of the manifest at hand that were not written: the key and the variable that stands there.
    pub replaced: Vec<(String, String)>,
}

/// Writes `tables`; `config` is the manifest at hand.
#[must_use]
pub fn export(tables: &ControlPlane, config: &Config) -> Exported {
    let Masked { text: source, replaced } = mask(&config.source);
    let text = connections(tables, &source);
    let mut exported = Exported { text, components: BTreeMap::new(), left_out: Vec::new(), replaced };
    for row in &tables.triggers {
        match TriggerSpec::parse(&row.kind, &row.spec) {
            Ok(spec) => {
                let form = trigger_form(&row.bus, &spec, &row.recording());
                section(&mut exported.text, &format!("[trigger.{}]", row.name), &form);
            }
            Err(error) => exported.left_out.push(format!("trigger \"{}\": {error}", row.name)),
        }
    }
    for version in tables.functions.iter().filter(|v| v.current) {
        function(&mut exported, version, config);
    }
    for (name, version, error) in &tables.unreadable {
        exported.left_out.push(format!("function \"{name}@{version}\": {error}"));
    }
    for row in &tables.rules {
        rule(&mut exported.text, &row.rule);
    }
    exported
}

fn connections(tables: &ControlPlane, source: &str) -> String {
    let mut text = connection_sections(source);
    let kept = Node::parse("", &text).ok();
    let kept = kept.as_ref().and_then(|root| root.get("bus"));
    for bus in named_buses(tables).into_iter().filter(|bus| kept.is_none_or(|b| b.get(bus).is_none())) {
        let has = |kind: &str| tables.triggers.iter().any(|t| t.bus == bus && t.kind == kind);
        let (kind, usual, variable) = match bus {
            _ if has("postgres") => ("postgres", "app", "DATABASE_URL"),
            _ if has("kafka") => ("kafka", "kafka", "KAFKA_BROKERS"),
            _ => ("nats", "events", "NATS_URL"),
        };
        let suffix = if bus == usual { String::new() } else { format!("_{}", bus.to_uppercase().replace('-', "_")) };
        let _ = write!(text, "[bus.{bus}]\nkind = \"{kind}\"\nurl = \"${{{variable}{suffix}}}\"\n\n");
    }
    text
}

/// The lines of `[node]` and `[bus.…]`, comments included.
fn connection_sections(source: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in source.lines() {
        if let Some(header) = line.trim_start().strip_prefix('[') {
            let table = header.split(']').next().unwrap_or_default().trim();
            inside = ["node", "bus"].iter().any(|s| table == *s || table.starts_with(&format!("{s}.")));
        }
        if inside {
            text.push_str(line);
            text.push('\n');
        }
    }
    if text.is_empty() { text } else { format!("{}\n\n", text.trim_end()) }
}

fn named_buses(tables: &ControlPlane) -> BTreeSet<&str> {
    let triggers = tables.triggers.iter().map(|t| t.bus.as_str());
    let grants = tables.functions.iter().filter(|v| v.current).flat_map(|v| &v.spec.grants.publish);
    let granted = grants.filter_map(|g| Some(g.split_once('/')?.0));
    let targets = tables.rules.iter().filter_map(|r| match &r.rule.target {
        Target::Publish { bus, .. } => Some(bus.as_str()),
        Target::Run { .. } => None,
    });
    let relayed = tables.triggers.iter().filter_map(|t| Some(t.spec.get("relay")?.as_str()?.split_once('/')?.0));
    triggers.chain(granted).chain(targets).chain(relayed).collect()
}

fn function(exported: &mut Exported, version: &FunctionVersion, config: &Config) {
    let name = &version.function;
    let written = config.manifest.functions.get(name);
    let path = written.map_or_else(|| format!("functions/{name}/{name}.wasm"), |entry| entry.component.clone());
    let mut form = Form::new();
    form.insert("component".to_owned(), path.clone().into());
    if let Some(build) = written.and_then(|entry| entry.build.as_ref()) {
        form.insert("build".to_owned(), serde_json::json!({ "command": build.command, "watch": build.watch }));
    }
    form.extend(function_form(&version.spec));
    let _ = writeln!(exported.text, "# version {}, sha256 {}", version.version, hex(&version.digest));
    section(&mut exported.text, &format!("[function.{name}]"), &form);
    exported.components.insert(path, version.digest.clone());
}

fn rule(text: &mut String, rule: &Rule) {
    let mut form = Form::new();
    form.insert("name".to_owned(), rule.name.clone().into());
    form.extend(rule_form(rule));
    if let Some(pattern) = &rule.pattern {
        // As it was written, not as it is compared.
        form.insert("pattern".to_owned(), pattern.clone().into());
    }
    section(text, "[[rule]]", &form);
}

fn section(text: &mut String, header: &str, form: &Form) {
    let _ = writeln!(text, "{header}");
    for (key, value) in form {
        let _ = writeln!(text, "{key} = {}", toml_text(value));
    }
    text.push('\n');
}

/// `value` as TOML on one line where it can be.
fn toml_text(value: &Value) -> String {
    match value {
        Value::String(s) => toml::Value::from(s.as_str()).to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let pairs: Vec<String> =
                members.iter().map(|(k, v)| format!("{} = {}", toml_key(k), toml_text(v))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        // Numbers and booleans look the same in both.
        other => other.to_string(),
    }
}

fn toml_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) {
        return key.to_owned();
    }
    // JSON escapes what TOML escapes, but for DEL.
    Value::from(key).to_string().replace('\u{7f}', "\\u007f")
}

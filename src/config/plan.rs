//! What has to change in the tables so that they say what the manifest says.
//!
//! Invariant: pure; a plan made again after it was carried out has no change. Nothing is deleted that the manifest
//! does not name unless pruning is asked for, and nothing that one of its rules needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::function::hex;
use crate::rules::Target;
use crate::store::control::{ControlPlane, FunctionVersion, TriggerRow};
use crate::triggers::spec::TriggerSpec;

use super::forms::{Form, function_form, rule_form, trigger_form};
use super::functions::FunctionEntry;
use super::manifest::{Known, Manifest};

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A function.
    Function,
    /// A trigger.
    Trigger,
    /// A rule.
    Rule,
}

/// What happens to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It comes into being; a function with its first version.
    Create,
    /// It is changed; a function gets a new version.
    Change,
    /// An older version of a function, which is just what the manifest says, becomes the current one.
    Promote,
    /// It goes.
    Delete,
    /// It is in the tables and not in the manifest, and stays because nobody said `--prune`.
    Keep,
}

/// A field that differs; a side without a value has the default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    /// The key, as in `limits.memory`.
    pub field: String,
    /// What the tables say.
    pub old: Option<Value>,
    /// What the manifest says.
    pub new: Option<Value>,
}

/// One row that changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub name: String,
    /// What happens.
    pub action: Action,
    /// A function's version that will be current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// What differs.
    pub fields: Vec<FieldChange>,
}

/// Every row that changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The version of the tables that it was made for.
    pub version: i64,
    /// Functions, then triggers, then rules.
    pub changes: Vec<Change>,
    /// Rows that are as they should be.
    pub unchanged: usize,
}

impl Plan {
    /// Compares; `digests` are the SHA-256 of the manifest's components by function.
    #[must_use]
    pub fn new(manifest: &Manifest, digests: &BTreeMap<String, Vec<u8>>, tables: &ControlPlane, prune: bool) -> Self {
        let mut plan = Self { version: tables.version, ..Self::default() };
        for entry in manifest.functions.values() {
            let versions: Vec<_> = tables.functions.iter().filter(|v| v.function == entry.name).collect();
            let digest = digests.get(&entry.name).map_or(&[][..], Vec::as_slice);
            plan.add(function_change(entry, digest, &versions));
        }
        for entry in manifest.triggers.values() {
            let old = tables.triggers.iter().find(|t| t.name == entry.name).map(row_form);
            let new = trigger_form(&entry.bus, &entry.spec, &entry.recording);
            plan.add(row_change(Kind::Trigger, &entry.name, old, &new));
        }
        for entry in &manifest.rules {
            let old = tables.rules.iter().find(|r| r.rule.name == entry.rule.name).map(|r| rule_form(&r.rule));
            plan.add(row_change(Kind::Rule, &entry.rule.name, old, &rule_form(&entry.rule)));
        }
        plan.add_unnamed(manifest, tables, if prune { Action::Delete } else { Action::Keep });
        plan
    }

    /// Whether carrying it out changes the tables.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|c| c.action == Action::Keep)
    }

    /// How many rows get `action`.
    #[must_use]
    pub fn count(&self, action: Action) -> usize {
        self.changes.iter().filter(|c| c.action == action).count()
    }

    /// The names of the rows of `kind` that get one of `actions`.
    pub fn names<'a>(&'a self, kind: Kind, actions: &'a [Action]) -> impl Iterator<Item = &'a str> {
        self.changes.iter().filter(move |c| c.kind == kind && actions.contains(&c.action)).map(|c| c.name.as_str())
    }

    fn add(&mut self, change: Option<Change>) {
        match change {
            Some(change) => self.changes.push(change),
            None => self.unchanged += 1,
        }
    }

    fn add_unnamed(&mut self, manifest: &Manifest, tables: &ControlPlane, action: Action) {
        let needed = Needed::of(manifest);
        let mut add = |kind, name: &str| {
            self.changes.push(Change { kind, name: name.to_owned(), action, version: None, fields: Vec::new() });
        };
        let functions: BTreeSet<&str> = tables.functions.iter().map(|v| v.function.as_str()).collect();
        for name in functions.into_iter().filter(|name| !needed.functions.contains(name)) {
            add(Kind::Function, name);
        }
        for row in tables.triggers.iter().filter(|t| !needed.triggers.contains(t.name.as_str())) {
            add(Kind::Trigger, &row.name);
        }
        for row in tables.rules.iter().filter(|r| !needed.rules.contains(r.rule.name.as_str())) {
            add(Kind::Rule, &row.rule.name);
        }
    }
}

/// What the manifest names, whether it defines it or not.
struct Needed<'a> {
    functions: BTreeSet<&'a str>,
    triggers: BTreeSet<&'a str>,
    rules: BTreeSet<&'a str>,
}

impl<'a> Needed<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let run = manifest.rules.iter().filter_map(|r| match &r.rule.target {
            Target::Run { function, .. } => Some(function.as_str()),
            Target::Publish { .. } => None,
        });
        let triggers = manifest.rules.iter().filter_map(|r| r.rule.trigger.as_deref());
        Self {
            functions: manifest.functions.keys().map(String::as_str).chain(run).collect(),
            triggers: manifest.triggers.keys().map(String::as_str).chain(triggers).collect(),
            rules: manifest.rules.iter().map(|r| r.rule.name.as_str()).collect(),
        }
    }
}

impl<'a> Known<'a> {
    /// The names that are in the tables.
    #[must_use]
    pub fn of(tables: &'a ControlPlane) -> Self {
        let mut known = Self { triggers: tables.triggers.iter().map(|t| t.name.as_str()).collect(), ..Self::default() };
        let unreadable = tables.unreadable.iter().map(|(name, version, _)| (name.as_str(), *version));
        for (name, version) in tables.functions.iter().map(|v| (v.function.as_str(), v.version)).chain(unreadable) {
            known.functions.entry(name).or_default().insert(version);
        }
        known
    }
}

fn function_change(entry: &FunctionEntry, digest: &[u8], versions: &[&FunctionVersion]) -> Option<Change> {
    let same = |v: &&&FunctionVersion| v.digest == digest && v.spec == entry.spec;
    let current = versions.iter().find(|v| v.current);
    if current.is_some_and(|v| same(&v)) {
        return None;
    }
    let full = |spec, digest: &[u8]| {
        let mut form = function_form(spec);
        form.insert("component".to_owned(), format!("sha256:{}", hex(digest)).into());
        form
    };
    let old = current.map(|v| full(&v.spec, &v.digest)).unwrap_or_default();
    let newest = versions.iter().map(|v| v.version).max();
    let (action, version) = match (newest, versions.iter().rev().find(same)) {
        (None, _) => (Action::Create, 1),
        (Some(_), Some(older)) => (Action::Promote, older.version),
        (Some(newest), None) => (Action::Change, newest + 1),
    };
    let fields = difference(&old, &full(&entry.spec, digest));
    Some(Change { kind: Kind::Function, name: entry.name.clone(), action, version: Some(version), fields })
}

fn row_change(kind: Kind, name: &str, old: Option<Form>, new: &Form) -> Option<Change> {
    let action = if old.is_some() { Action::Change } else { Action::Create };
    let fields = difference(&old.unwrap_or_default(), new);
    let change = Change { kind, name: name.to_owned(), action, version: None, fields };
    (action == Action::Create || !change.fields.is_empty()).then_some(change)
}

/// The form of a trigger's row; the bare columns if this program cannot read them.
fn row_form(row: &TriggerRow) -> Form {
    match TriggerSpec::parse(&row.kind, &row.spec) {
        Ok(spec) => trigger_form(&row.bus, &spec, &row.recording()),
        Err(_) => Form::from_iter([
            ("bus".to_owned(), row.bus.clone().into()),
            ("kind".to_owned(), row.kind.clone().into()),
            ("spec".to_owned(), row.spec.clone()),
        ]),
    }
}

fn difference(old: &Form, new: &Form) -> Vec<FieldChange> {
    let (old, new) = (leaves(old), leaves(new));
    let fields: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = fields.into_iter().filter(|f| old.get(*f) != new.get(*f));
    differs.map(|f| FieldChange { field: f.clone(), old: old.get(f).cloned(), new: new.get(f).cloned() }).collect()
}

/// The values by their path, tables opened.
fn leaves(form: &Form) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    for (key, value) in form {
        match value {
            Value::Object(inner) => {
                leaves.extend(inner.iter().map(|(inner, value)| (format!("{key}.{inner}"), value.clone())));
            }
            value => _ = leaves.insert(key.clone(), value.clone()),
        }
    }
    leaves
}

//! The rows that the manifest stands for, and whether they fit together.
//!
//! Invariant: names are unique and every bus that is named is there. A trigger or function that is missing here may be
//! in the tables: that is checked when both are known.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::bus::{BusConfig, BusKind, kafka};
use crate::rules::Target;
use crate::triggers::spec::TriggerSpec;

use super::error::{ConfigError, ConfigErrors, Place};
use super::functions::{self, FunctionEntry};
use super::reader::{Section, nearest};
use super::rules::{self, RuleEntry};
use super::triggers::{self, TriggerEntry};

/// What a manifest wants the tables to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By name.
    pub triggers: BTreeMap<String, TriggerEntry>,
    /// By name.
    pub functions: BTreeMap<String, FunctionEntry>,
    /// In the order of the file.
    pub rules: Vec<RuleEntry>,
}

/// Names that are in the tables already.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// Triggers.
    pub triggers: BTreeSet<&'a str>,
    /// Functions with their versions.
    pub functions: BTreeMap<&'a str, BTreeSet<u32>>,
}

impl Manifest {
    /// Reads the triggers, functions and rules of `document`.
    pub(super) fn read(document: &Section<'_>, base: &Path, errors: &mut ConfigErrors) -> Self {
        let mut manifest = Self::default();
        for (name, field) in errors.keep(document.tables("trigger")).unwrap_or_default() {
            if let Some(trigger) = errors.keep(triggers::read(name, field.node, &field.path)) {
                manifest.triggers.insert(name.to_owned(), trigger);
            }
        }
        for (name, field) in errors.keep(document.tables("function")).unwrap_or_default() {
            if let Some(function) = errors.keep(functions::read(name, field.node, &field.path, base)) {
                manifest.functions.insert(name.to_owned(), function);
            }
        }
        let rules = document.get("rule").map_or(Ok(Vec::new()), |field| field.list());
        for field in errors.keep(rules).unwrap_or_default() {
            if let Some(rule) = errors.keep(rules::read(field.node, &field.path)) {
                manifest.add_rule(rule, errors);
            }
        }
        manifest
    }

    fn add_rule(&mut self, entry: RuleEntry, errors: &mut ConfigErrors) {
        let first = self.rules.iter().find(|r| r.rule.name == entry.rule.name);
        if let Some(first) = first {
            let at = first.place.as_ref().map_or(String::new(), |p| format!(" at {p}"));
            let message = format!("there is another rule \"{}\"{at}", entry.rule.name);
            errors.0.push(about(
                &entry.place,
                "rule.name".to_owned(),
                message,
                "give each rule its own name".to_owned(),
            ));
        } else {
            self.rules.push(entry);
        }
    }

    /// Every bus that is named and not in `buses`.
    pub(super) fn check_buses(&self, buses: &BTreeMap<String, BusConfig>, errors: &mut ConfigErrors) {
        let mut check = |bus: &str, place: &Option<Place>, key: String| {
            if !buses.contains_key(bus) {
                let known: Vec<&str> = buses.keys().map(String::as_str).collect();
                let fix = missing_fix("bus", bus, &known, &format!("add a section [bus.{bus}]"));
                errors.0.push(about(place, key, format!("there is no bus \"{bus}\""), fix));
            }
        };
        for trigger in self.triggers.values() {
            check(&trigger.bus, &trigger.place, format!("trigger.{}.bus", trigger.name));
            if let TriggerSpec::Postgres(spec) = &trigger.spec
                && let Some((relay, _)) = spec.relay()
            {
                check(relay, &trigger.place, format!("trigger.{}.relay", trigger.name));
            }
        }
        for function in self.functions.values() {
            for (bus, _) in function.spec.grants.publish.iter().filter_map(|g| g.split_once('/')) {
                check(bus, &function.place, format!("function.{}.grants.publish", function.name));
            }
        }
        for rule in &self.rules {
            if let Target::Publish { bus, .. } = &rule.rule.target {
                check(bus, &rule.place, format!("rule \"{}\".publish", rule.rule.name));
            }
        }
    }

    /// Every trigger on a bus of another kind.
    pub(super) fn check_kinds(&self, buses: &BTreeMap<String, BusConfig>, errors: &mut ConfigErrors) {
        for trigger in self.triggers.values() {
            let (field, wanted) = match &trigger.spec {
                TriggerSpec::JetStream(_) => ("stream", BusKind::Nats),
                TriggerSpec::Nats(_) => ("subject", BusKind::Nats),
                TriggerSpec::Kafka(_) => ("topics", BusKind::Kafka),
                TriggerSpec::Postgres(spec) if !spec.tables.is_empty() => ("tables", BusKind::Postgres),
                TriggerSpec::Postgres(spec) if spec.publication.is_some() => ("publication", BusKind::Postgres),
                TriggerSpec::Postgres(_) => ("messages", BusKind::Postgres),
            };
            let kind = |bus: &str| buses.get(bus).map(|config| config.kind);
            let mut wrong = |field: &str, bus: &str, wanted: BusKind| {
                let (key, wanted) = (format!("trigger.{}.{field}", trigger.name), wanted.name());
                let message = format!("`{field}` needs a bus of the kind \"{wanted}\", and \"{bus}\" is none");
                errors.0.push(about(&trigger.place, key, message, format!("name a {wanted} bus")));
            };
            if kind(&trigger.bus).is_some_and(|kind| kind != wanted) {
                wrong(field, &trigger.bus, wanted);
            }
            if let TriggerSpec::Postgres(spec) = &trigger.spec
                && let Some((relay, _)) = spec.relay()
                && kind(relay).is_some_and(|kind| kind != BusKind::Nats)
            {
                wrong("relay", relay, BusKind::Nats);
            }
        }
    }

    /// Every rule and grant that names what cannot be a topic of its Kafka bus.
    pub(super) fn check_topics(&self, buses: &BTreeMap<String, BusConfig>, errors: &mut ConfigErrors) {
        let mut check = |target: Option<(&str, &str)>, place: &Option<Place>, key: String| {
            let Some((bus, topic)) = target else { return };
            let is_kafka = buses.get(bus).is_some_and(|config| config.kind == BusKind::Kafka);
            // A wildcard stands for what may be in a name.
            if is_kafka && !kafka::is_topic(&topic.replace(['*', '>'], "x")) {
                let message = format!("{topic:?} cannot be a topic of the Kafka bus \"{bus}\"");
                let fix = "a name of a topic is 1 to 249 of a-z, A-Z, 0-9, ., _ and -".to_owned();
                errors.0.push(about(place, key, message, fix));
            }
        };
        for function in self.functions.values() {
            for grant in &function.spec.grants.publish {
                check(grant.split_once('/'), &function.place, format!("function.{}.grants.publish", function.name));
            }
        }
        for rule in &self.rules {
            if let Target::Publish { bus, subject } = &rule.rule.target {
                check(Some((bus, subject)), &rule.place, format!("rule \"{}\".publish", rule.rule.name));
            }
        }
    }

    /// Whether each trigger and function that a rule names is in the manifest or in the tables.
    ///
    /// # Errors
    /// Every name that is in neither.
    pub fn check_references(&self, known: &Known<'_>) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        for entry in &self.rules {
            self.check_trigger(entry, known, &mut errors);
            self.check_function(entry, known, &mut errors);
        }
        errors.or(())
    }

    fn check_trigger(&self, entry: &RuleEntry, known: &Known<'_>, errors: &mut ConfigErrors) {
        let Some(trigger) = entry.rule.trigger.as_deref() else { return };
        if self.triggers.contains_key(trigger) || known.triggers.contains(trigger) {
            return;
        }
        let names: Vec<&str> = self.triggers.keys().map(String::as_str).chain(known.triggers.iter().copied()).collect();
        let fix = missing_fix("trigger", trigger, &names, &format!("add a section [trigger.{trigger}]"));
        let key = format!("rule \"{}\".trigger", entry.rule.name);
        errors.0.push(about(&entry.place, key, format!("there is no trigger \"{trigger}\""), fix));
    }

    fn check_function(&self, entry: &RuleEntry, known: &Known<'_>, errors: &mut ConfigErrors) {
        let Target::Run { function, version } = &entry.rule.target else { return };
        let deployed = known.functions.get(function.as_str());
        let (what, fix) = match (deployed, version) {
            (Some(versions), Some(version)) if !versions.contains(version) => {
                let list: Vec<String> = versions.iter().map(u32::to_string).collect();
                (format!("version {version} of \"{function}\""), format!("its versions are {}", list.join(", ")))
            }
            // A first version is deployed before the rules are written.
            (None, Some(version)) if *version > 1 || !self.functions.contains_key(function) => {
                (format!("version {version} of \"{function}\""), "deploy it first, or remove the version".to_owned())
            }
            (None, None) if !self.functions.contains_key(function) => {
                let names = self.functions.keys().map(String::as_str).chain(known.functions.keys().copied());
                let fix = missing_fix(
                    "function",
                    function,
                    &names.collect::<Vec<_>>(),
                    &format!("add a section [function.{function}], or `oncue function deploy {function} FILE`"),
                );
                (format!("function \"{function}\""), fix)
            }
            _ => return,
        };
        let key = format!("rule \"{}\".run", entry.rule.name);
        errors.0.push(about(&entry.place, key, format!("there is no {what}"), fix));
    }
}

fn about(place: &Option<Place>, key: String, message: String, fix: String) -> ConfigError {
    ConfigError { place: place.clone(), key, message, fix }
}

fn missing_fix(kind: &str, name: &str, known: &[&str], add: &str) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean the {kind} \"{near}\"? else {add}"),
        None => add.to_owned(),
    }
}

//! Rules: a pattern, what it runs and how, and the immutable compiled set that an event is matched against.
//!
//! Invariant: a `RuleSet` never changes; an event is planned against exactly one. A rule that does not compile is left
//! out with its error and the others go on. Nothing here knows how a function runs or where a row is stored.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::Event;
use crate::pattern::{Json, Pattern};
use crate::retry::RetryPolicy;
use crate::transform::{Path, Transformer};

mod document;
mod index;
#[cfg(test)]
mod tests;

pub use document::document;

use index::Index;

/// Longest key that is kept whole: an index of the parked deliveries holds it, which takes 2,704 bytes at most.
const KEY_BYTES: usize = 512;

/// What a rule does with an event that it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Runs a function; without a version, the one that is current when the event is matched.
    Run {
        /// The function.
        function: String,
        /// A pinned version.
        version: Option<u32>,
    },
    /// Publishes the event to a subject of a bus, without code.
    Publish {
        /// The bus.
        bus: String,
        /// The subject.
        subject: String,
    },
}

/// What later events of an ordering key do while an earlier one is parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They wait behind it.
    #[default]
    ParkKey,
    /// They pass it.
    Skip,
}

/// Most starts in a second, for all events or for each value of `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Starts in a second on one node.
    pub per_second: u32,
    /// Path of the value that has a rate of its own.
    pub key: Option<String>,
}

/// A rule as its row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// The only trigger whose events it sees; all without it.
    pub trigger: Option<String>,
    /// JSON text; none for a rule that matches every event.
    pub pattern: Option<String>,
    /// What it does.
    pub target: Target,
    /// Template that makes the payload.
    pub input: Option<String>,
    /// Path of the value whose events run one after another.
    pub ordering_key: Option<String>,
    /// For ordered rules.
    pub on_failure: OnFailure,
    /// When failures are tried again.
    pub retry: RetryPolicy,
    /// Bound on starts.
    pub rate: Option<Rate>,
    /// Whether it matches at all.
    pub enabled: bool,
}

/// Why a rule could not be compiled: the field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct RuleError {
    /// The field of the rule.
    pub field: &'static str,
    /// What is wrong, with the place inside the field and a fix where there is one.
    pub message: String,
}

/// A rule that is ready to match.
#[derive(Debug)]
pub struct CompiledRule {
    /// The row.
    pub rule: Rule,
    /// The function version that a delivery of this snapshot runs; none for a rule that publishes.
    pub version: Option<u32>,
    pattern: Pattern,
    transformer: Option<Transformer>,
    ordering: Option<Path>,
    rate_key: Option<Path>,
}

impl CompiledRule {
    /// Compiles `rule`; `current` gives the current version of a function.
    ///
    /// # Errors
    /// The first field that does not parse, or a function that is not there.
    pub fn compile(rule: Rule, current: impl Fn(&str) -> Option<u32>) -> Result<Self, RuleError> {
        let pattern = match &rule.pattern {
            Some(text) => Pattern::parse(text).map_err(|e| field("pattern", &e))?,
            None => Pattern::match_all(),
        };
        let transformer = rule.input.as_deref().map(Transformer::parse).transpose().map_err(|e| field("input", &e))?;
        let ordering = parse_path("ordering_key", rule.ordering_key.as_deref())?;
        let rate_key = parse_path("rate.key", rule.rate.as_ref().and_then(|r| r.key.as_deref()))?;
        let version = match &rule.target {
            Target::Run { function, version } => Some(version.or_else(|| current(function)).ok_or_else(|| {
                field(
                    "run",
                    &format!(
                        "there is no function \"{function}\": deploy it with `oncue function deploy {function} FILE`"
                    ),
                )
            })?),
            Target::Publish { .. } => None,
        };
        Ok(Self { rule, version, pattern, transformer, ordering, rate_key })
    }

    /// Whether an event of `trigger` matches.
    #[must_use]
    pub fn matches(&self, trigger: &str, document: &Json) -> bool {
        self.is_of(trigger) && self.pattern.matches(document)
    }

    fn is_of(&self, trigger: &str) -> bool {
        self.rule.trigger.as_deref().is_none_or(|t| t == trigger)
    }

    fn plan(self: &Arc<Self>, event: &Arc<Event>, document: &LazyCell<Json, impl FnOnce() -> Json>) -> Planned {
        let event = match &self.transformer {
            Some(transformer) => Arc::new(Event {
                data: transformer.apply(document).into(),
                datacontenttype: Some("application/json".to_owned()),
                ..Event::clone(event)
            }),
            None => Arc::clone(event),
        };
        Planned {
            rule: Arc::clone(self),
            event,
            ordering_key: self.ordering.as_ref().and_then(|p| key_text(p, document)),
            rate_key: self.rate_key.as_ref().and_then(|p| key_text(p, document)),
        }
    }
}

fn field(field: &'static str, error: &impl ToString) -> RuleError {
    RuleError { field, message: error.to_string() }
}

fn parse_path(name: &'static str, text: Option<&str>) -> Result<Option<Path>, RuleError> {
    text.map(Path::parse).transpose().map_err(|e| field(name, &e))
}

fn key_text(path: &Path, document: &Json) -> Option<String> {
    let value = path.select(document)?;
    if let Some(text) = value.as_str() {
        return Some(bounded(text));
    }
    let mut out = Vec::new();
    value.write(&mut out);
    let text = String::from_utf8_lossy(&out);
    (text != "null").then(|| bounded(&text))
}

/// `key`, or for a long one its beginning and its hash: one text for one value all the same.
fn bounded(key: &str) -> String {
    if key.len() <= KEY_BYTES {
        return key.to_owned();
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&Sha256::digest(key.as_bytes())[..16]);
    format!("{}…{}", &key[..key.floor_char_boundary(KEY_BYTES / 2)], Uuid::from_bytes(hash).simple())
}

/// A delivery to be: a rule that matched, with the event as the rule's target gets it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The rule.
    pub rule: Arc<CompiledRule>,
    /// The event, transformed if the rule says so.
    pub event: Arc<Event>,
    /// The value that orders it; none for an unordered delivery.
    pub ordering_key: Option<String>,
    /// The value that its rate is counted by.
    pub rate_key: Option<String>,
}

/// The compiled rules of one version of the tables.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// The version of the tables that it was made from.
    pub version: i64,
    rules: Vec<Arc<CompiledRule>>,
    index: Index,
}

impl RuleSet {
    /// Compiles the enabled ones of `rules`. Gives the set and every rule that was left out, with its error.
    #[must_use]
    pub fn compile(version: i64, rules: Vec<Rule>, current: &HashMap<String, u32>) -> (Self, Vec<(String, RuleError)>) {
        let mut compiled = Vec::with_capacity(rules.len());
        let mut refused = Vec::new();
        for rule in rules {
            let (name, enabled) = (rule.name.clone(), rule.enabled);
            match CompiledRule::compile(rule, |f| current.get(f).copied()) {
                Ok(rule) if enabled => compiled.push(Arc::new(rule)),
                Ok(_) => {}
                Err(error) => refused.push((name, error)),
            }
        }
        let index = Index::new(&compiled);
        (Self { version, rules: compiled, index }, refused)
    }

    /// The deliveries of `event`: one for each rule that matches, in their order.
    #[must_use]
    pub fn plan(&self, trigger: &str, event: &Arc<Event>) -> Vec<Planned> {
        let document = LazyCell::new(|| document(event));
        let candidates = self.index.candidates(&self.rules, &event.ty, &document);
        let rules = candidates.into_iter().map(|place| &self.rules[place]).filter(|rule| rule.is_of(trigger));
        let matched = rules.filter(|rule| index::is_told_by_type(rule) || rule.pattern.matches(&document));
        matched.map(|rule| rule.plan(event, &document)).collect()
    }

    /// Whether any rule can match an event of `ty` of `trigger`.
    #[must_use]
    pub fn listens(&self, trigger: &str, ty: &str) -> bool {
        self.index.of_type(&self.rules, ty).any(|place| self.rules[place].is_of(trigger))
    }

    /// The rules of the set.
    #[must_use]
    pub fn rules(&self) -> &[Arc<CompiledRule>] {
        &self.rules
    }

    /// The rule `name`, if it is in the set.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Arc<CompiledRule>> {
        self.rules.iter().find(|r| r.rule.name == name)
    }
}

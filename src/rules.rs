//! Rules: a pattern, what it runs and how, and the immutable compiled set that an event is matched against.
//!
//! Invariant: a `RuleSet` never changes; an event is planned against exactly one. A rule that does not compile is left
//! out with its error and the others go on. Nothing here knows how a function runs or where a row is stored.

use std::cell::{LazyCell, RefCell};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::event::{Event, subject};
use crate::pattern::{Fill, Index, Json, Pattern, Scratch};
use crate::retry::RetryPolicy;
use crate::transform::{Path, Transformer};

mod changes;
mod document;
mod listeners;
mod shards;
mod shelf;
#[cfg(test)]
mod tests;

pub use changes::Changes;
pub use document::{document, tell};

use listeners::Listeners;
use shelf::Shelf;

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
    pattern: Arc<Pattern>,
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
        Self::compile_with(rule, None, current)
    }

    /// The same, with the pattern if it was parsed before.
    fn compile_with(
        rule: Rule,
        pattern: Option<Arc<Pattern>>,
        current: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, RuleError> {
        let pattern = match (pattern, &rule.pattern) {
            (Some(pattern), _) => pattern,
            (None, Some(text)) => Arc::new(Pattern::parse(text).map_err(|e| field("pattern", &e))?),
            (None, None) => Arc::new(Pattern::match_all()),
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
            Target::Publish { subject, .. } => {
                let shown = subject::shown(subject);
                subject::check(subject).map_err(|problem| field("publish", &format!("\"{shown}\" {problem}")))?;
                None
            }
        };
        Ok(Self { rule, version, pattern, transformer, ordering, rate_key })
    }

    /// Whether an event of `trigger` matches.
    #[must_use]
    pub fn matches(&self, trigger: &str, document: &Json) -> bool {
        self.is_of(trigger) && self.pattern.matches(document)
    }

    /// How many comparisons its pattern may take.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.pattern.cost().max(1)
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

thread_local! {
    /// Room to match in, used again for each event.
    static ROOM: RefCell<(Scratch, Vec<u32>)> = RefCell::default();
}

/// The compiled rules of one version of the tables.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// The version of the tables that it was made from.
    pub version: i64,
    rules: Shelf,
    listeners: Listeners,
    /// The rules' patterns by their numbers on the shelf.
    index: Index,
    /// What did not compile, or had no room: it may by the next change.
    left_out: Arc<Vec<Rule>>,
}

impl RuleSet {
    /// The deliveries of `event`: one for each rule that matches, in the order of their names.
    #[must_use]
    pub fn plan(&self, trigger: &str, event: &Arc<Event>) -> Vec<Planned> {
        if !self.listens(trigger, &event.ty) {
            return Vec::new();
        }
        let rules = self.matching(trigger, |fill| tell(event, fill));
        let document = LazyCell::new(|| document(event));
        rules.into_iter().map(|rule| rule.plan(event, &document)).collect()
    }

    /// Whether any rule can match an event of `ty` of `trigger`.
    #[must_use]
    pub fn listens(&self, trigger: &str, ty: &str) -> bool {
        self.listeners.listen(trigger, ty)
    }

    /// Whether any rule matches an event of `trigger`, whose fields `tell` tells.
    #[must_use]
    pub fn wants<'e>(&self, trigger: &str, tell: impl FnOnce(&mut Fill<'_, 'e>)) -> bool {
        !self.matching(trigger, tell).is_empty()
    }

    fn matching<'e>(&self, trigger: &str, tell: impl FnOnce(&mut Fill<'_, 'e>)) -> Vec<&Arc<CompiledRule>> {
        ROOM.with_borrow_mut(|(scratch, found)| {
            self.index.find(tell, scratch, found);
            let rules = found.iter().filter_map(|number| self.rules.get(*number));
            let mut rules: Vec<&Arc<CompiledRule>> = rules.filter(|rule| rule.is_of(trigger)).collect();
            rules.sort_unstable_by(|left, right| left.rule.name.cmp(&right.rule.name));
            rules
        })
    }

    /// The rules of the set, in no certain order.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.rules.iter()
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rules that were left out, in no certain order.
    pub fn left_out(&self) -> impl Iterator<Item = &Rule> {
        self.left_out.iter()
    }

    /// The rule `name`, if it is in the set.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Arc<CompiledRule>> {
        self.rules.get(self.rules.number(name)?)
    }
}

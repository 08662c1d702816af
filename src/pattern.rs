//! The pattern language: EventBridge's event patterns over an event as JSON.
//!
//! Invariant: a [`Pattern`] that was parsed can be matched against any JSON without panicking, in memory in proportion
//! to the event, and at a cost that was bounded when it was parsed. This is the plain evaluator, one pattern against
//! one event; it is what any faster way of matching is checked against. It knows no rules and no functions.

mod compile;
mod decimal;
mod error;
mod evaluate;
mod explain;
mod index;
mod json;
mod operator;
mod paths;
mod value;
mod wildcard;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use self::compile::{ALTERNATIVES_MAX, COST_MAX, PATTERN_BYTES_MAX, VALUES_MAX};
pub use self::decimal::Decimal;
pub use self::error::PatternError;
pub use self::explain::{Explanation, Kind, Line, explain};
pub use self::index::{Change, Crowded, EVENT_COST_MAX, Fill, Index, Live, NotJson, Place, Scratch};
pub use self::json::{Json, JsonError, MAX_DEPTH, write_escaped};

use std::collections::BTreeSet;

use self::evaluate::Fields;
use self::paths::Paths;
use self::value::Scalar;
use self::wildcard::Wildcard;

/// A parsed and validated pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    paths: Paths,
    /// The pattern matches if one of these does.
    alternatives: Vec<Fields>,
}

impl Pattern {
    /// Parses and validates a pattern. The empty pattern is refused: [`Pattern::match_all`] says it on purpose.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            let message = format!("the pattern has {} bytes; at most {PATTERN_BYTES_MAX}", text.len());
            return Err(PatternError::new(message));
        }
        let json = Json::parse(text.as_bytes());
        let json = json.map_err(|error| PatternError::new(format!("the pattern is not JSON: {error}")))?;
        let Json::Object(members) = json else {
            return Err(PatternError::new(format!("a pattern is an object, not {}", json.kind())));
        };
        if members.is_empty() {
            let error = PatternError::new("{} matches everything");
            return Err(error.suggest("set match_all = true instead"));
        }
        let (paths, alternatives) = compile::compile(&members)?;
        let pattern = Pattern { paths, alternatives };
        match pattern.cost() {
            cost if cost > COST_MAX => Err(compile::too_costly(cost)),
            _ => Ok(pattern),
        }
    }

    /// The pattern that every event matches.
    pub fn match_all() -> Pattern {
        Pattern { paths: Paths::new(), alternatives: vec![Fields::new()] }
    }

    /// Whether the event matches.
    pub fn matches(&self, event: &Json) -> bool {
        let event = self.paths.project(event);
        self.alternatives.iter().any(|fields| evaluate::matches(fields, &event))
    }

    /// Whether an event whose field `name`, at the top, is the string `text` and nothing else can match at all.
    pub fn allows_text(&self, name: &str, text: &str) -> bool {
        let Some(id) = self.paths.top(name) else { return true };
        let allows = |fields: &Fields| fields.get(&id).is_none_or(|field| field.allows(Scalar::Text(text)));
        self.alternatives.iter().any(allows)
    }

    /// The texts of which the field `name`, at the top, must be one for a string in it to match at all; none if the
    /// pattern does not list them.
    pub fn texts(&self, name: &str) -> Option<BTreeSet<&str>> {
        let id = self.paths.top(name)?;
        let tests = |fields| Some(&Fields::get(fields, &id)?.tests);
        let tests: Option<Vec<_>> = self.alternatives.iter().map(tests).collect();
        tests?.into_iter().flatten().map(value::Test::as_text).collect()
    }

    /// Whether some alternative says nothing of the field `name`, at the top.
    pub fn allows_any_text(&self, name: &str) -> bool {
        self.paths.top(name).is_none_or(|id| self.alternatives.iter().any(|fields| !fields.contains_key(&id)))
    }

    /// How many comparisons an event of plain fields may need: each value of each field, once for each alternative; a
    /// wildcard counts one more for each star. At most [`COST_MAX`].
    pub fn cost(&self) -> u64 {
        let fields = self.alternatives.iter().flat_map(Fields::values);
        fields.map(|field| field.cost()).sum()
    }
}

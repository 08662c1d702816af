//! A pattern's structure: objects, lists and `$or`, turned into alternatives.
//!
//! Invariant: what is expanded was counted first, so that no pattern costs more memory than [`COST_MAX`] fields. A
//! field named twice within one alternative counts as it was written last, which is what EventBridge does. Values are
//! the business of `operator`.

use std::sync::Arc;

use super::error::{PatternError, quote, suggest};
use super::evaluate::{Field, Fields};
use super::json::Json;
use super::operator::{self, OPERATORS, Value};
use super::paths::{FieldId, Paths, ROOT};

/// The bytes of a pattern's text.
pub const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The alternatives after `$or` is expanded; EventBridge's own limit.
pub const ALTERNATIVES_MAX: u64 = 1_000;

/// The values (strings, numbers, true, false, null) anywhere in a pattern.
pub const VALUES_MAX: u64 = 10_000;

/// The comparisons that one event may need, as [`Pattern::cost`](super::Pattern::cost) counts them; around a
/// millisecond.
pub const COST_MAX: u64 = 100_000;

type Members = [(String, Json)];

/// Compiles the object that is a pattern.
pub fn compile(members: &Members) -> Result<(Paths, Vec<Fields>), PatternError> {
    let values: u64 = members.iter().map(|(_, value)| count_values(value)).sum();
    if values > VALUES_MAX {
        return Err(PatternError::new(format!("the pattern has {values} values; at most {VALUES_MAX}")));
    }
    let mut paths = Paths::new();
    let alternatives = object(&mut paths, ROOT, members, vec![Fields::new()])?;
    Ok((paths, alternatives))
}

/// Adds the fields of an object, which is at `at`, to each of the `alternatives`.
fn object(
    paths: &mut Paths,
    at: FieldId,
    members: &Members,
    mut alternatives: Vec<Fields>,
) -> Result<Vec<Fields>, PatternError> {
    for (key, value) in members {
        alternatives = member(paths, at, (key, value), alternatives).map_err(|error| error.under(key))?;
        check_size(alternatives.iter().map(Fields::len).sum(), 1).map_err(|error| error.under(key))?;
    }
    Ok(alternatives)
}

fn member(
    paths: &mut Paths,
    at: FieldId,
    (key, value): (&str, &Json),
    mut alternatives: Vec<Fields>,
) -> Result<Vec<Fields>, PatternError> {
    match value {
        _ if key == "$or" => or(paths, at, value, &alternatives),
        Json::Array(items) => {
            let field = Arc::new(field(key, items)?);
            let id = paths.add(at, key);
            for alternative in &mut alternatives {
                alternative.insert(id, Arc::clone(&field));
            }
            Ok(alternatives)
        }
        Json::Object(members) if members.is_empty() => {
            Err(PatternError::new("an empty object asks for nothing")
                .suggest("write [{\"exists\": true}] for any value"))
        }
        Json::Object(members) => {
            let id = paths.add(at, key);
            object(paths, id, members, alternatives)
        }
        scalar => Err(bare(key, scalar)),
    }
}

/// A list of values, any of which will do.
fn field(key: &str, items: &[Json]) -> Result<Field, PatternError> {
    if items.is_empty() {
        let error = PatternError::new("an empty list matches nothing");
        return Err(error.suggest("write [{\"exists\": false}] for a field that must be absent"));
    }
    if let Some(error) = misplaced_operator(key, items) {
        return Err(error);
    }
    let mut field = Field::default();
    for (index, item) in items.iter().enumerate() {
        match operator::parse(item).map_err(|error| error.under_index(index))? {
            Value::Test(test) => field.tests.push(test),
            Value::Absent => field.absent = true,
        }
    }
    Ok(field)
}

/// A list under an operator's name, where only a slip can have put it: `{"a": {"numeric": [">", 0]}}`.
fn misplaced_operator(key: &str, items: &[Json]) -> Option<PatternError> {
    let comparison =
        || matches!(items.first(), Some(Json::String(sign)) if ["=", "<", "<=", ">", ">="].contains(&sign.as_str()));
    let misplaced = match key {
        "anything-but" | "equals-ignore-case" => true,
        "numeric" => comparison(),
        _ => false,
    };
    let wrapped = || format!("an operator stands in a list: [{{\"{key}\": …}}]");
    let spelled = key.starts_with('$') && matches!(items, [Json::Object(_), ..]);
    if spelled {
        let error = PatternError::new(format!("unknown operator {}", quote(key)));
        return Some(error.suggest_some(suggest(&key.to_ascii_lowercase(), &["$or"])));
    }
    misplaced.then(|| PatternError::new(format!("the operator \"{key}\" is used as a field")).suggest(wrapped()))
}

/// A value that is neither a list nor an object.
fn bare(key: &str, scalar: &Json) -> PatternError {
    let mut text = Vec::new();
    scalar.write(&mut text);
    let text = String::from_utf8_lossy(&text);
    let error = PatternError::new(format!("expected a list or an object, got {}", scalar.kind()));
    if OPERATORS.contains(&key) {
        error.suggest(format!("an operator stands in a list: [{{\"{key}\": …}}]"))
    } else if text.len() > 60 {
        error.suggest("wrap the value in a list: […]")
    } else {
        error.suggest(format!("wrap the value in a list: [{text}]"))
    }
}

/// `$or`: each of the `alternatives` with each of the patterns.
fn or(paths: &mut Paths, at: FieldId, value: &Json, alternatives: &[Fields]) -> Result<Vec<Fields>, PatternError> {
    let patterns = or_patterns(value)?;
    let each: u64 = patterns.iter().map(|members| count_alternatives(members)).fold(0, u64::saturating_add);
    let total = each.saturating_mul(alternatives.len() as u64);
    if total > ALTERNATIVES_MAX {
        let message = format!("the pattern has {total} alternatives once $or is expanded; at most {ALTERNATIVES_MAX}");
        return Err(PatternError::new(message).suggest("write several rules"));
    }
    check_size(alternatives.iter().map(Fields::len).sum(), patterns.len())?;
    let mut expanded = Vec::new();
    for (index, members) in patterns.into_iter().enumerate() {
        let pattern = object(paths, at, members, alternatives.to_vec());
        expanded.extend(pattern.map_err(|error| error.under_index(index))?);
    }
    Ok(expanded)
}

fn or_patterns(value: &Json) -> Result<Vec<&Members>, PatternError> {
    let Json::Array(items) = value else {
        return Err(PatternError::new(format!("expected a list of patterns, got {}", value.kind())));
    };
    if items.len() < 2 {
        let error = PatternError::new(format!("$or needs at least two patterns, got {}", items.len()));
        return Err(error.suggest("without $or, the fields can stand where it stands"));
    }
    let patterns = items.iter().enumerate().map(|(index, item)| match item {
        Json::Object(members) if members.is_empty() => {
            Err(PatternError::new("an empty pattern makes the whole $or match").under_index(index))
        }
        Json::Object(members) => Ok(members.as_slice()),
        other => Err(PatternError::new(format!("expected a pattern, got {}", other.kind())).under_index(index)),
    });
    patterns.collect()
}

/// How many alternatives an object makes.
fn count_alternatives(members: &Members) -> u64 {
    let alternatives = members.iter().map(|(key, value)| match value {
        Json::Array(items) if key == "$or" => {
            let each =
                items.iter().map(|item| if let Json::Object(members) = item { count_alternatives(members) } else { 1 });
            each.fold(0, u64::saturating_add)
        }
        Json::Object(members) => count_alternatives(members),
        _ => 1,
    });
    alternatives.fold(1, u64::saturating_mul)
}

fn count_values(value: &Json) -> u64 {
    match value {
        Json::Array(items) => items.iter().map(count_values).sum(),
        Json::Object(members) => members.iter().map(|(_, value)| count_values(value)).sum(),
        _ => 1,
    }
}

/// Refuses `fields` in all, `times` over, if that alone costs too much: each field is at least one comparison.
fn check_size(fields: usize, times: usize) -> Result<(), PatternError> {
    let cost = (fields as u64).saturating_mul(times as u64);
    if cost > COST_MAX { Err(too_costly(cost)) } else { Ok(()) }
}

/// The refusal of a pattern that costs this much.
pub fn too_costly(cost: u64) -> PatternError {
    let message = format!("an event may need {cost} comparisons; at most {COST_MAX}");
    PatternError::new(message).suggest("write several rules, or shorter lists")
}

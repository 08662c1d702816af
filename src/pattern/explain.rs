//! Why an event matches a pattern or does not: each field of the pattern by itself, and then all of them together.
//!
//! Invariant: [`Explanation::matches`] is the evaluator's verdict; the lines only say where it comes from. What is shown
//! of an event is bounded, whatever the event holds.

use serde::Serialize;

use super::evaluate::{self, Field, Fields};
use super::operator::{self, Value};
use super::paths::{Element, FieldId, Paths, ROOT};
use super::value::Scalar;
use super::{Json, Pattern, PatternError};

/// How many of a field's values are shown.
const GOT_MAX: usize = 3;
/// How much of a value is shown.
const TEXT_MAX: usize = 120;

/// What a line of a pattern is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A field with the list of values that it may have.
    Field,
    /// An object: passes if all below it does.
    Object,
    /// `$or`: passes if one of the patterns below it does.
    Or,
    /// One pattern of an `$or`.
    Branch,
}

/// One line of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// JSON pointer of the line in the pattern.
    pub pointer: String,
    /// What it is.
    pub kind: Kind,
    /// Its key, or the number of the branch.
    pub key: String,
    /// How deep it stands.
    pub depth: usize,
    /// Whether it passes, by itself.
    pub passed: bool,
    /// Of a field: what it may be, as the pattern says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Of a field: what the event has there, as JSON; none where it has nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub got: Vec<String>,
    /// How many values more there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub got_more: usize,
}

/// Why an event matches or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The verdict.
    pub matches: bool,
    /// The fields that pass; of an `$or`, those of its best pattern.
    pub passed: usize,
    /// The fields that must.
    pub fields: usize,
    /// The first field that fails: the place in `lines`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failed: Option<usize>,
    /// Whether each field passes by itself and no element of an array has all of those that lie in it.
    pub apart: bool,
    /// The pattern, line by line.
    pub lines: Vec<Line>,
}

impl Explanation {
    /// That of a rule that matches every event.
    #[must_use]
    pub fn of_match_all() -> Self {
        Self { matches: true, passed: 0, fields: 0, first_failed: None, apart: false, lines: Vec::new() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Explains what the pattern of `text` says of `event`.
///
/// # Errors
/// A text that is no pattern.
pub fn explain(text: &str, event: &Json) -> Result<Explanation, PatternError> {
    let pattern = Pattern::parse(text)?;
    // It was read a moment ago.
    let Ok(Json::Object(members)) = Json::parse(text.as_bytes()) else {
        return Err(PatternError::new("a pattern is an object"));
    };
    let mut walk = Walk { event, lines: Vec::new() };
    let tally = walk.object(&members, &At::default())?;
    let matches = pattern.matches(event);
    let failed = |line: &Line| line.kind == Kind::Field && !line.passed;
    Ok(Explanation {
        matches,
        passed: tally.passed,
        fields: tally.fields,
        first_failed: if matches { None } else { walk.lines.iter().position(failed) },
        apart: !matches && tally.all(),
        lines: walk.lines,
    })
}

/// How many fields pass.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: usize,
    fields: usize,
}

impl Tally {
    fn all(self) -> bool {
        self.passed == self.fields
    }

    fn failed(self) -> usize {
        self.fields - self.passed
    }
}

/// Where in the pattern the walk is.
#[derive(Clone, Default)]
struct At {
    pointer: String,
    /// The keys that lead there, joined with dots; none at the top.
    path: Option<String>,
    depth: usize,
}

impl At {
    fn below(&self, key: &str) -> At {
        let path = self.path.as_ref().map_or_else(|| key.to_owned(), |path| format!("{path}.{key}"));
        At { path: Some(path), ..self.inside(key) }
    }

    /// One level deeper in the pattern, at the same place of the event.
    fn inside(&self, key: &str) -> At {
        let step = key.replace('~', "~0").replace('/', "~1");
        At { pointer: format!("{}/{step}", self.pointer), path: self.path.clone(), depth: self.depth + 1 }
    }
}

struct Walk<'e> {
    event: &'e Json,
    lines: Vec<Line>,
}

impl Walk<'_> {
    fn object(&mut self, members: &[(String, Json)], at: &At) -> Result<Tally, PatternError> {
        let mut tally = Tally::default();
        for (key, value) in members {
            let more = match value {
                Json::Array(patterns) if key == "$or" => self.or(patterns, at)?,
                Json::Array(items) => self.field(items, key, at)?,
                Json::Object(members) => {
                    self.nested(Kind::Object, key, at, |walk| walk.object(members, &at.below(key)))?
                }
                // A pattern that was parsed has none.
                _ => Tally::default(),
            };
            tally.passed += more.passed;
            tally.fields += more.fields;
        }
        Ok(tally)
    }

    /// Puts a line before those that `below` makes, and marks it by what they say.
    fn nested(
        &mut self,
        kind: Kind,
        key: &str,
        at: &At,
        below: impl FnOnce(&mut Self) -> Result<Tally, PatternError>,
    ) -> Result<Tally, PatternError> {
        let place = self.lines.len();
        self.lines.push(Line {
            pointer: at.inside(key).pointer,
            kind,
            key: key.to_owned(),
            depth: at.depth,
            passed: false,
            expected: None,
            got: Vec::new(),
            got_more: 0,
        });
        let tally = below(self)?;
        self.lines[place].passed = tally.all();
        Ok(tally)
    }

    fn or(&mut self, patterns: &[Json], at: &At) -> Result<Tally, PatternError> {
        self.nested(Kind::Or, "$or", at, |walk| {
            let at = at.inside("$or");
            let mut best: Option<Tally> = None;
            for (number, pattern) in patterns.iter().enumerate() {
                let Json::Object(members) = pattern else { continue };
                let key = number.to_string();
                let tally = walk.nested(Kind::Branch, &key, &at, |walk| walk.object(members, &at.inside(&key)))?;
                let better = best.is_none_or(|best| tally.failed() < best.failed());
                best = if better { Some(tally) } else { best };
            }
            Ok(best.unwrap_or_default())
        })
    }

    fn field(&mut self, items: &[Json], key: &str, at: &At) -> Result<Tally, PatternError> {
        let mut field = Field::default();
        for item in items {
            match operator::parse(item)? {
                Value::Test(test) => field.tests.push(test),
                Value::Absent => field.absent = true,
            }
        }
        let place = at.below(key);
        let mut paths = Paths::new();
        let id = paths.add(ROOT, place.path.as_deref().unwrap_or_default());
        let element = paths.project(self.event);
        let mut values = Vec::new();
        collect(&element, id, &mut values);
        let passed = evaluate::matches(&Fields::from([(id, field.into())]), &element);
        self.lines.push(Line {
            pointer: place.pointer,
            kind: Kind::Field,
            key: key.to_owned(),
            depth: at.depth,
            passed,
            expected: Some(list(items)),
            got: values.iter().take(GOT_MAX).map(|value| shown(*value)).collect(),
            got_more: values.len().saturating_sub(GOT_MAX),
        });
        Ok(Tally { passed: usize::from(passed), fields: 1 })
    }
}

/// The values of `field` in `element`, wherever in its arrays.
fn collect<'e>(element: &Element<'e>, field: FieldId, values: &mut Vec<Scalar<'e>>) {
    values.extend(element.values.get(&field).into_iter().flatten());
    for array in element.arrays.values() {
        array.elements.iter().for_each(|below| collect(below, field, values));
    }
}

fn list(items: &[Json]) -> String {
    let texts: Vec<String> = items.iter().map(text).collect();
    cut(&format!("[{}]", texts.join(", ")))
}

fn shown(value: Scalar<'_>) -> String {
    let json = match value {
        Scalar::Null => Json::Null,
        Scalar::Bool(value) => Json::Bool(value),
        Scalar::Number(number) => Json::Number(number.to_owned()),
        Scalar::Text(text) => Json::string(text),
    };
    cut(&text(&json))
}

fn text(value: &Json) -> String {
    let mut text = Vec::new();
    value.write(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(pattern: &str, event: &str) -> Explanation {
        let event = Json::parse(event.as_bytes()).expect("an event");
        explain(pattern, &event).expect("a pattern")
    }

    /// Each line as `+ key expected <- got`, indented.
    fn drawn(explanation: &Explanation) -> Vec<String> {
        let line = |line: &Line| {
            let mark = if line.passed { '+' } else { '-' };
            let expected =
                line.expected.as_ref().map_or_else(String::new, |e| format!(" {e} <- {}", line.got.join(" ")));
            format!("{mark}{} {}{expected}", "  ".repeat(line.depth), line.key)
        };
        explanation.lines.iter().map(line).collect()
    }

    #[test]
    fn each_field_is_marked_with_what_was_expected_and_what_was_there() {
        let pattern = r#"{"type":["a"],"data":{"after":{"plan":["pro",{"prefix":"t"}],"old":[{"exists":false}]}}}"#;
        let found = explained(pattern, r#"{"type":"a","data":{"after":{"plan":"free"}}}"#);
        assert_eq!(
            drawn(&found),
            [
                r#"+ type ["a"] <- "a""#,
                "- data",
                "-   after",
                r#"-     plan ["pro", {"prefix":"t"}] <- "free""#,
                r#"+     old [{"exists":false}] <- "#,
            ]
        );
        assert_eq!((found.matches, found.passed, found.fields, found.first_failed), (false, 2, 3, Some(3)));
        assert_eq!(found.lines[3].pointer, "/data/after/plan");
    }

    #[test]
    fn an_or_counts_as_its_best_pattern() {
        let found = explained(r#"{"$or":[{"a":[1],"b":[2]},{"a":[1],"b":[3]},{"c":[1],"d":[2]}]}"#, r#"{"a":1,"b":3}"#);
        let marks: String = found.lines.iter().map(|line| if line.passed { '+' } else { '-' }).collect();
        assert_eq!(marks, "+-+-+++---");
        assert_eq!((found.matches, found.passed, found.fields, found.first_failed), (true, 2, 2, None));
        assert_eq!(found.lines[5].pointer, "/$or/1/a");
    }

    #[test]
    fn fields_that_pass_in_different_elements_are_apart() {
        let pattern = r#"{"items":{"sku":["x"],"qty":[2]}}"#;
        let found = explained(pattern, r#"{"items":[{"sku":"x","qty":1},{"sku":"y","qty":2}]}"#);
        assert!(found.apart && !found.matches && found.lines.iter().all(|line| line.passed));
        assert!(explained(pattern, r#"{"items":[{"sku":"x","qty":2}]}"#).matches);
    }

    #[test]
    fn what_is_shown_of_an_event_is_bounded() {
        let long = format!("\"{}\"", "ü".repeat(500));
        let values = vec![long; 10].join(",");
        let found = explained(r#"{"a":[1]}"#, &format!(r#"{{"a":[{values}]}}"#));
        assert_eq!((found.lines[0].got.len(), found.lines[0].got_more), (3, 7));
        assert!(found.lines[0].got.iter().all(|got| got.chars().count() <= 121));
    }

    #[test]
    fn keys_with_dots_and_empty_keys_are_the_paths_that_they_name() {
        let found = explained(r#"{"a.b":[1],"":[2],"c":{"":[3]}}"#, r#"{"a":{"b":1},"":2,"c":{"":3}}"#);
        assert!(found.matches && found.lines.iter().all(|line| line.passed), "{found:?}");
    }
}

//! An explanation as text: the pattern, each line marked with whether it passes.
//!
//! Invariant: what came from the event is not yet made printable; whoever prints does that.

use crate::pattern::{Explanation, Kind, Line};

/// What each line of the pattern says, under a line with the verdict.
#[must_use]
pub fn text(rule: &str, explanation: &Explanation) -> String {
    let Explanation { matches, passed, fields, apart, lines, first_failed } = explanation;
    let verdict = if *matches { "matches" } else { "does not match" };
    let mut text = vec![format!("{rule} {verdict}: {passed} of {fields} fields pass")];
    let width = lines.iter().map(|line| head(line).chars().count()).max().unwrap_or(0);
    for (place, line) in lines.iter().enumerate() {
        let mark = if line.passed { '✓' } else { '✗' };
        let first = if *first_failed == Some(place) { "   ← the first that fails" } else { "" };
        let shown = match line.kind {
            Kind::Field => format!("{mark} {:<width$}   got {}{first}", head(line), got(line)),
            Kind::Object | Kind::Or | Kind::Branch => format!("{mark} {}", head(line)),
        };
        text.push(shown);
    }
    if *apart {
        text.push("Each field passes, but no one element of an array has all of those that lie in it.".to_owned());
    }
    text.join("\n")
}

/// The first field that fails, in a line.
#[must_use]
pub fn first_failure(explanation: &Explanation) -> String {
    match explanation.first_failed.and_then(|place| explanation.lines.get(place)) {
        Some(line) => {
            let expected = line.expected.as_deref().unwrap_or_default();
            format!("{}: expected {expected}, got {}", line.pointer, got(line))
        }
        None if explanation.apart => "no one element of an array has all that must lie in it".to_owned(),
        None => String::new(),
    }
}

fn head(line: &Line) -> String {
    let indent = "  ".repeat(line.depth);
    match (&line.kind, &line.expected) {
        (Kind::Field, Some(expected)) => format!("{indent}{}: {expected}", line.key),
        (Kind::Or, _) => format!("{indent}$or: one of"),
        (Kind::Branch, _) => format!("{indent}{}.", line.key),
        _ => format!("{indent}{}", line.key),
    }
}

fn got(line: &Line) -> String {
    let more = if line.got_more > 0 { format!(" and {} more", line.got_more) } else { String::new() };
    match line.got.as_slice() {
        [] => "nothing".to_owned(),
        values => format!("{}{more}", values.join(", ")),
    }
}

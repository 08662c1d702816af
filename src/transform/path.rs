//! Paths into an event: `$.data.after.id`, `$.items[0].sku`, `$['odd key']`; `$` is the whole event.
//!
//! Invariant: a path selects one value or none. No wildcards, slices or filters, so that what a template inserts is
//! never a list of unknown length.

use thiserror::Error;

use crate::pattern::{Json, MAX_DEPTH};

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Why a text is not a path.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("path {path:?}: {message}")]
pub struct PathError {
    /// The text.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Path {
    /// Parses a path: `$`, then any number of `.name`, `[0]` and `['name']`.
    pub fn parse(text: &str) -> Result<Path, PathError> {
        parse_steps(text).map(|steps| Path { steps }).map_err(|message| PathError { path: text.to_owned(), message })
    }

    /// The value at the path, the last one where keys are duplicated.
    pub fn select<'a>(&self, event: &'a Json) -> Option<&'a Json> {
        self.steps.iter().try_fold(event, |value, step| match (step, value) {
            (Step::Key(key), value) => value.get(key),
            (Step::Index(index), Json::Array(elements)) => elements.get(*index),
            (Step::Index(_), _) => None,
        })
    }
}

fn parse_steps(text: &str) -> Result<Vec<Step>, String> {
    let Some(mut rest) = text.strip_prefix('$') else {
        return Err("a path starts with $".to_owned());
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = if let Some(rest) = rest.strip_prefix('.') {
            parse_name(rest)?
        } else if let Some(rest) = rest.strip_prefix('[') {
            parse_bracket(rest)?
        } else {
            return Err(format!("expected `.name`, `[0]` or `['name']` at {rest:?}"));
        };
        steps.push(step);
        if steps.len() > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} steps"));
        }
        rest = after;
    }
    Ok(steps)
}

fn parse_name(rest: &str) -> Result<(Step, &str), String> {
    let plain = |character: char| character.is_alphanumeric() || "_-/:@$".contains(character);
    let end = rest.find(|character| !plain(character)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    match (name, after.chars().next()) {
        (_, Some('*')) | ("", Some('.')) => Err("one value only: `*` and `..` are not supported".to_owned()),
        (_, Some(odd)) if !".[".contains(odd) => Err(format!("write a key with {odd:?} in it as ['…']")),
        ("", _) => Err("a name is missing after `.`".to_owned()),
        (name, _) => Ok((Step::Key(name.to_owned()), after)),
    }
}

fn parse_bracket(rest: &str) -> Result<(Step, &str), String> {
    let (step, after) = match rest.chars().next() {
        Some(quote @ ('\'' | '"')) => parse_quoted(&rest[1..], quote)?,
        Some(digit) if digit.is_ascii_digit() => {
            let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            let index = rest[..end].parse().map_err(|_| format!("index {:?} is too large", &rest[..end]))?;
            (Step::Index(index), &rest[end..])
        }
        _ => return Err("expected an index or a key in quotes after `[`".to_owned()),
    };
    match after.strip_prefix(']') {
        Some(after) => Ok((step, after)),
        None => Err("a `]` is missing".to_owned()),
    }
}

/// A key up to its closing quote; a backslash stands before a quote or a backslash in it.
fn parse_quoted(rest: &str, quote: char) -> Result<(Step, &str), String> {
    let mut key = String::new();
    let mut characters = rest.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped)) => key.push(escaped),
                None => break,
            },
            end if end == quote => return Ok((Step::Key(key), &rest[at + 1..])),
            other => key.push(other),
        }
    }
    Err(format!("a closing {quote} is missing"))
}

/// The length of the path that `text` starts with, if a `>` outside quotes ends it.
pub fn length(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut bracket = false;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (None, '>') => return Some(at),
            (None, '\'' | '"') if bracket => quote = Some(character),
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
        bracket = character == '[';
    }
    None
}

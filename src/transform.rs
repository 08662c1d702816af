//! Input transformers: what a function gets instead of the event, from a JSON template with `<$.path>` placeholders.
//!
//! Invariant: what [`Transformer::apply`] returns is valid JSON, whatever the event: a template is checked with its
//! placeholders taken as values, and what is inserted is either a whole value or escaped text. It knows no rules and
//! reads nothing but the event.

mod path;

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::pattern::{Json, JsonError, write_escaped};

pub use self::path::{Path, PathError};

/// The bytes of a template.
pub const TEMPLATE_BYTES_MAX: usize = 64 * 1024;

/// The placeholders in a template: each may insert the whole event, so this bounds how much an event can grow.
pub const PLACEHOLDERS_MAX: usize = 100;

/// A parsed and validated template.
#[derive(Clone, Debug)]
pub struct Transformer {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// JSON text, copied.
    Literal(Vec<u8>),
    /// A placeholder outside strings: the value, `null` if there is none.
    Value(Path),
    /// A placeholder in a string: the value as text, nothing if there is none.
    Text(Path),
}

/// Why a text is not a template.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransformError {
    /// Longer than [`TEMPLATE_BYTES_MAX`].
    #[error("the template has {0} bytes; at most {TEMPLATE_BYTES_MAX}")]
    TooLong(usize),
    /// More placeholders than [`PLACEHOLDERS_MAX`].
    #[error("the template has {0} placeholders; at most {PLACEHOLDERS_MAX}")]
    TooManyPlaceholders(usize),
    /// Not JSON once each placeholder is taken as a value.
    #[error("the template is not JSON with its placeholders filled in: {0}")]
    Json(JsonError),
    /// A mistake in or around a placeholder.
    #[error("{0}")]
    Placeholder(JsonError),
    /// A placeholder's path is wrong.
    #[error("{error} at line {}, column {} (byte {})", at.line, at.column, at.offset)]
    Path {
        /// What is wrong with the path.
        error: PathError,
        /// Where its placeholder, or the string around it, starts.
        at: JsonError,
    },
}

/// A stretch of a template, by where it starts and ends.
enum Piece {
    /// Anything outside strings and placeholders.
    Plain(usize, usize),
    /// A string with its quotes.
    Quoted(usize, usize),
    /// A placeholder with its brackets, outside strings.
    Placeholder(usize, usize),
}

impl Transformer {
    /// Parses and validates a template.
    pub fn parse(template: &str) -> Result<Transformer, TransformError> {
        if template.len() > TEMPLATE_BYTES_MAX {
            return Err(TransformError::TooLong(template.len()));
        }
        let pieces = cut(template)?;
        check(template, &pieces)?;
        let mut parts = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            match *piece {
                Piece::Plain(start, end) => parts.push(Part::Literal(template[start..end].into())),
                Piece::Placeholder(start, end) => {
                    parts.push(Part::Value(parse_path(template, start, &template[start + 1..end - 1])?));
                }
                Piece::Quoted(start, end) => {
                    let string = parse_string(template, start, end)?;
                    let is_key = matches!(pieces.get(index + 1), Some(&Piece::Plain(start, end))
                        if template[start..end].trim_start().starts_with(':'));
                    if is_key && string.iter().any(|part| !matches!(part, Part::Literal(_))) {
                        return Err(misplaced(template, start, "a placeholder cannot be in an object's key"));
                    }
                    parts.extend(string);
                }
            }
        }
        match parts.iter().filter(|part| !matches!(part, Part::Literal(_))).count() {
            count if count > PLACEHOLDERS_MAX => Err(TransformError::TooManyPlaceholders(count)),
            _ => Ok(Transformer { parts }),
        }
    }

    /// The template filled in from this event, as JSON.
    pub fn apply(&self, event: &Json) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Value(path) => path.select(event).unwrap_or(&Json::Null).write(&mut out),
                Part::Text(path) => match path.select(event) {
                    Some(Json::String(text)) => write_escaped(text, &mut out),
                    Some(value) => write_as_text(value, &mut out),
                    None => {}
                },
            }
        }
        out
    }
}

fn write_as_text(value: &Json, out: &mut Vec<u8>) {
    let mut text = Vec::new();
    value.write(&mut text);
    let text = String::from_utf8(text).expect("JSON is written from strings and ASCII");
    write_escaped(&text, out);
}

/// Cuts a template into strings, placeholders outside them, and the rest.
fn cut(template: &str) -> Result<Vec<Piece>, TransformError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < template.len() {
        let rest = &template[at..];
        let length = match rest.as_bytes()[0] {
            b'"' => string_length(rest),
            b'<' => placeholder_length(rest).map_err(|message| misplaced(template, at, message))?,
            _ => rest.find(['"', '<']).unwrap_or(rest.len()),
        };
        pieces.push(match rest.as_bytes()[0] {
            b'"' => Piece::Quoted(at, at + length),
            b'<' => Piece::Placeholder(at, at + length),
            _ => Piece::Plain(at, at + length),
        });
        at += length;
    }
    Ok(pieces)
}

/// The length of the string that `text` starts with, to the end of `text` if it has no closing quote.
fn string_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the placeholder that `text` starts with, brackets included.
fn placeholder_length(text: &str) -> Result<usize, &'static str> {
    if text.starts_with("<aws.") {
        return Err("the aws. variables are not supported; <$> is the whole event");
    }
    if !text.starts_with("<$") {
        return Err("a placeholder is a path: write <$.name> for the event's `name`");
    }
    path::length(&text[1..]).map(|length| length + 2).ok_or("a placeholder is not closed with `>`")
}

/// Checks that the template is JSON if each placeholder outside strings is taken as a value.
fn check(template: &str, pieces: &[Piece]) -> Result<(), TransformError> {
    let mut filled = Vec::with_capacity(template.len());
    for piece in pieces {
        match *piece {
            Piece::Plain(start, end) | Piece::Quoted(start, end) => filled.extend(&template.as_bytes()[start..end]),
            Piece::Placeholder(start, end) => {
                // `[]` is a value that runs together with nothing beside it and is no key; the spaces keep offsets
                // true.
                filled.extend(b"[]");
                filled.resize(filled.len() + (end - start - 2), b' ');
            }
        }
    }
    let parsed = Json::parse(&filled);
    parsed
        .map(drop)
        .map_err(|error| TransformError::Json(JsonError::at(template.as_bytes(), error.offset, &error.message)))
}

/// A string's parts: its text, escaped anew, and its placeholders.
fn parse_string(template: &str, start: usize, end: usize) -> Result<Vec<Part>, TransformError> {
    let json = Json::parse(&template.as_bytes()[start..end]).map_err(TransformError::Json)?;
    let text = json.as_str().unwrap_or_default();
    if !text.contains('<') {
        return Ok(vec![Part::Literal(template.as_bytes()[start..end].to_owned())]);
    }
    let mut parts = Vec::new();
    let mut literal = vec![b'"'];
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        if !(from.starts_with("<$") || from.starts_with("<aws.")) {
            write_escaped(&rest[..=at], &mut literal);
            rest = &from[1..];
        } else if let Some(before) = before.strip_suffix('\\') {
            write_escaped(before, &mut literal);
            literal.push(b'<');
            rest = &from[1..];
        } else {
            let length = placeholder_length(from).map_err(|message| misplaced(template, start, message))?;
            write_escaped(before, &mut literal);
            parts.push(Part::Literal(std::mem::take(&mut literal)));
            parts.push(Part::Text(parse_path(template, start, &from[1..length - 1])?));
            rest = &from[length..];
        }
    }
    write_escaped(rest, &mut literal);
    literal.push(b'"');
    parts.push(Part::Literal(literal));
    Ok(parts)
}

fn parse_path(template: &str, start: usize, path: &str) -> Result<Path, TransformError> {
    Path::parse(path).map_err(|error| {
        let at = JsonError::at(template.as_bytes(), start, "bad path");
        TransformError::Path { error, at }
    })
}

fn misplaced(template: &str, start: usize, message: &str) -> TransformError {
    TransformError::Placeholder(JsonError::at(template.as_bytes(), start, message))
}

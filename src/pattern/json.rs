//! JSON as the pattern language sees it: duplicate keys kept, members in order, numbers as they were written.
//!
//! Invariant: a parsed value nests at most [`MAX_DEPTH`] deep, and each [`Json::object`] around it adds one level, so
//! that walking, writing and dropping a value recurse no deeper than that. It does no arithmetic (see
//! [`Decimal`](super::Decimal)) and knows no event.

use json_event_parser::{JsonEvent, LowLevelJsonParser};
use thiserror::Error;

use super::value::Scalar;

/// The deepest nesting that is parsed: serde_json's default, so that what is matched on can also be read by a function.
pub const MAX_DEPTH: usize = 128;

/// One JSON value.
#[derive(Clone, Debug)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as the text that it was written as.
    Number(String),
    /// A string, unescaped.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object: every member in the order written, duplicates included.
    Object(Vec<(String, Json)>),
}

/// Why bytes are not JSON, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message} at line {line}, column {column} (byte {offset})")]
pub struct JsonError {
    /// What is wrong.
    pub message: String,
    /// The byte at which it is wrong, from 0.
    pub offset: usize,
    /// The line of that byte, from 1.
    pub line: usize,
    /// The column of that byte in characters, from 1.
    pub column: usize,
}

/// An array or object whose end has not been seen.
enum Open {
    Array(Vec<Json>),
    Object(Vec<(String, Json)>, String),
}

impl Json {
    /// Parses strict RFC 8259 JSON in UTF-8: one value, no byte order mark, no lone surrogate, at most [`MAX_DEPTH`]
    /// deep.
    pub fn parse(bytes: &[u8]) -> Result<Json, JsonError> {
        if bytes.starts_with(b"\xEF\xBB\xBF") {
            return Err(JsonError::at(bytes, 0, "unexpected byte order mark"));
        }
        let mut parser = LowLevelJsonParser::new();
        let mut offset = 0;
        let mut open: Vec<Open> = Vec::new();
        let mut root = None;
        loop {
            let step = parser.parse_next(&bytes[offset..], true);
            offset += step.consumed_bytes;
            let Some(event) = step.event else { continue };
            let event = event.map_err(|error| JsonError::syntax(bytes, &error))?;
            let value = match event {
                JsonEvent::Eof => break,
                JsonEvent::StartArray | JsonEvent::StartObject if open.len() == MAX_DEPTH => {
                    let message = format!("nested deeper than {MAX_DEPTH} levels");
                    return Err(JsonError::at(bytes, offset - 1, &message));
                }
                JsonEvent::StartArray => {
                    open.push(Open::Array(Vec::new()));
                    continue;
                }
                JsonEvent::StartObject => {
                    open.push(Open::Object(Vec::new(), String::new()));
                    continue;
                }
                JsonEvent::ObjectKey(name) => {
                    if let Some(Open::Object(_, key)) = open.last_mut() {
                        *key = name.into_owned();
                    }
                    continue;
                }
                JsonEvent::EndArray | JsonEvent::EndObject => Json::closed(open.pop()),
                JsonEvent::String(text) => Json::String(text.into_owned()),
                JsonEvent::Number(text) => Json::Number(text.into_owned()),
                JsonEvent::Boolean(value) => Json::Bool(value),
                JsonEvent::Null => Json::Null,
            };
            match open.last_mut() {
                Some(Open::Array(elements)) => elements.push(value),
                Some(Open::Object(members, key)) => members.push((std::mem::take(key), value)),
                None => root = Some(value),
            }
        }
        root.ok_or_else(|| JsonError::at(bytes, offset, "expected a value"))
    }

    fn closed(open: Option<Open>) -> Json {
        match open {
            Some(Open::Array(elements)) => Json::Array(elements),
            Some(Open::Object(members, _)) => Json::Object(members),
            None => Json::Null,
        }
    }

    /// An object of these members, in this order.
    pub fn object(members: Vec<(String, Json)>) -> Json {
        Json::Object(members)
    }

    /// A string.
    pub fn string(text: impl Into<String>) -> Json {
        Json::String(text.into())
    }

    /// `true` or `false`.
    pub fn bool(value: bool) -> Json {
        Json::Bool(value)
    }

    /// An integer.
    pub fn integer(value: i64) -> Json {
        Json::Number(value.to_string())
    }

    /// `null`.
    pub fn null() -> Json {
        Json::Null
    }

    /// The member of this name, the last one where there are several; `None` for anything but an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string; `None` for anything else.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a scalar; none for an object or an array.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match self {
            Json::Null => Some(Scalar::Null),
            Json::Bool(value) => Some(Scalar::Bool(*value)),
            Json::Number(text) => Some(Scalar::Number(text)),
            Json::String(text) => Some(Scalar::Text(text)),
            Json::Array(_) | Json::Object(_) => None,
        }
    }

    /// What kind of value this is, in an error's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// Appends the value as compact JSON, numbers and duplicate keys as they were written.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
            Json::Number(text) => out.extend_from_slice(text.as_bytes()),
            Json::String(text) => write_string(text, out),
            Json::Array(elements) => write_list(out, b"[]", elements, Json::write),
            Json::Object(members) => write_list(out, b"{}", members, |(name, value), out| {
                write_string(name, out);
                out.push(b':');
                value.write(out);
            }),
        }
    }
}

impl JsonError {
    /// `message` about the byte at `offset` of `bytes`.
    pub fn at(bytes: &[u8], offset: usize, message: &str) -> JsonError {
        let offset = offset.min(bytes.len());
        let before = &bytes[..offset];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        JsonError {
            message: message.to_owned(),
            offset,
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
        }
    }

    fn syntax(bytes: &[u8], error: &json_event_parser::JsonSyntaxError) -> JsonError {
        let offset = usize::try_from(error.location().start.offset).unwrap_or(bytes.len());
        let mut message = error.message().chars();
        let first = message.next().map(|first| first.to_ascii_lowercase());
        let message: String = first.into_iter().chain(message).collect();
        JsonError::at(bytes, offset, &printable(&message))
    }
}

/// `text` with characters that could move a terminal's cursor or forge a log line shown as escapes.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// Appends `text` as a JSON string, quotes included.
fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string.
pub fn write_escaped(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..=0x1F => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

fn write_list<T>(out: &mut Vec<u8>, brackets: &[u8; 2], items: &[T], write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(brackets[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

//! The subject of an event: the key of its row.
//!
//! Invariant: events of one row have one subject as long as its key stays; an update that moved the key has the new
//! one. A subject always passes the event's own checks: no control characters, and never too long.

use sha2::{Digest, Sha256};

use super::names::without_controls;
use super::{Change, Table, Value};
use crate::function::hex;
use crate::pgtype::{json, write};

/// Longest subject; an attribute may have 8 KiB. Values of keys can be longer than that: an index compresses them.
const BYTES_MAX: usize = 4096;
/// How much of a key stays when the rest becomes a digest.
const CHARS_KEPT: usize = 256;

impl Table {
    /// One column: its text, as Postgres writes it; several: a JSON array of their values; `None` without a key, or
    /// where one of its values was not told.
    pub(super) fn subject(&self, change: &Change<'_>) -> Option<String> {
        match self.key[..] {
            [] => None,
            [column] => match self.key_value(change, column)? {
                // An attribute is either absent or not empty.
                Value::Text([]) => Some("\"\"".to_owned()),
                Value::Text(text) => Some(fit(&String::from_utf8_lossy(text))),
                Value::Binary(bytes) => Some(fit(&hex(bytes))),
                Value::Null | Value::Unchanged => None,
            },
            _ => self.subject_of_many(change),
        }
    }

    fn subject_of_many(&self, change: &Change<'_>) -> Option<String> {
        let mut out = Vec::with_capacity(64);
        for (at, column) in self.key.iter().enumerate() {
            out.push(if at == 0 { b'[' } else { b',' });
            match (self.key_value(change, *column)?, &self.columns[*column].ty) {
                // What the type cannot read is written as a string; the event's data flags it.
                (Value::Text(text), Some(ty)) => _ = write(&mut out, ty, text),
                (Value::Text(text), None) => json::string(&mut out, &String::from_utf8_lossy(text)),
                (Value::Binary(bytes), _) => json::string(&mut out, &hex(bytes)),
                (Value::Null | Value::Unchanged, _) => return None,
            }
        }
        out.push(b']');
        Some(fit(&String::from_utf8_lossy(&out)))
    }

    /// The value that a column has after the change, or had before it where that is all that is told.
    fn key_value<'a>(&self, change: &Change<'a>, column: usize) -> Option<Value<'a>> {
        let new = change.after().and_then(|new| new.values().nth(column)).filter(|value| *value != Value::Unchanged);
        let old = || change.before().and_then(|old| self.known(old).nth(column).flatten());
        new.or_else(old)
    }
}

fn fit(key: &str) -> String {
    let shown = without_controls(key);
    if shown.len() <= BYTES_MAX {
        return shown.into_owned();
    }
    let kept: String = shown.chars().take(CHARS_KEPT).collect();
    format!("{kept}…sha256:{}", hex(&Sha256::digest(key)))
}

//! What is wrong with a pattern, where, and what was probably meant.
//!
//! Invariant: an error is made where the mistake is seen and learns its place on the way up, so that a pattern without
//! mistakes pays nothing for pointers. Shown, it is one line that cannot move a terminal's cursor.

use std::fmt;

use thiserror::Error;

use super::json::printable;

/// How much of a pattern's text an error quotes.
const QUOTE_MAX: usize = 60;

/// Why a text is not a pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct PatternError {
    /// RFC 6901 JSON pointer of the mistake; empty for the pattern as a whole.
    pub pointer: String,
    /// What is wrong there.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for PatternError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            write!(out, "{}: ", printable(&self.pointer))?;
        }
        out.write_str(&printable(&self.message))?;
        match &self.suggestion {
            Some(suggestion) => write!(out, "; {}", printable(suggestion)),
            None => Ok(()),
        }
    }
}

impl PatternError {
    /// A mistake in the value at hand.
    pub fn new(message: impl Into<String>) -> PatternError {
        PatternError { pointer: String::new(), message: message.into(), suggestion: None }
    }

    /// The same with what was probably meant.
    pub fn suggest(self, suggestion: impl Into<String>) -> PatternError {
        self.suggest_some(Some(suggestion.into()))
    }

    /// The same with what was probably meant, if anything comes to mind.
    pub fn suggest_some(self, suggestion: Option<String>) -> PatternError {
        PatternError { suggestion, ..self }
    }

    /// The same, seen from the object that holds the value under `key`.
    pub fn under(self, key: &str) -> PatternError {
        let key = key.replace('~', "~0").replace('/', "~1");
        PatternError { pointer: format!("/{key}{}", self.pointer), ..self }
    }

    /// The same, seen from the list that holds the value at `index`.
    pub fn under_index(self, index: usize) -> PatternError {
        PatternError { pointer: format!("/{index}{}", self.pointer), ..self }
    }

    /// The same, seen from the object that holds it under `key`, unless the mistake is the key.
    pub fn under_known(self, key: &str, known: &[&str]) -> PatternError {
        if known.contains(&key) { self.under(key) } else { self }
    }
}

/// `text` in quotes, shortened, fit for a terminal.
pub fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_MAX) {
        Some((end, _)) => format!("\"{}…\"", printable(&text[..end])),
        None => format!("\"{}\"", printable(text)),
    }
}

/// `did you mean "…"?`, if one of the `known` words is close to `word` or says the same.
pub fn suggest(word: &str, known: &[&str]) -> Option<String> {
    let plain = word.to_ascii_lowercase().replace(['_', ' '], "-");
    let meant = match plain.trim_start_matches('$') {
        "not" | "ne" | "nin" | "!=" | "<>" | "not-equals" => "anything-but",
        "starts-with" | "begins-with" | "startswith" => "prefix",
        "ends-with" | "endswith" => "suffix",
        "ignore-case" | "iequals" | "equals-case-insensitive" => "equals-ignore-case",
        "contains" | "like" | "glob" | "regex" | "matches" | "pattern" => "wildcard",
        "ip" | "ip-range" | "ip-address" => "cidr",
        "number" | "range" | "between" | "gt" | "gte" | "lt" | "lte" => "numeric",
        "equals" | "eq" | "is" => "exactly",
        "==" => "=",
        "=<" => "<=",
        "=>" => ">=",
        _ => "",
    };
    let near = || {
        let scored = known.iter().map(|known| (strsim::osa_distance(&plain, known), *known));
        // A third of the word may be wrong; of a word of one or two letters, nothing.
        scored.filter(|(distance, known)| distance * 3 <= known.len()).min().map(|(_, known)| known)
    };
    let meant = if known.contains(&meant) { Some(meant) } else { near() };
    meant.map(|meant| format!("did you mean \"{meant}\"?"))
}

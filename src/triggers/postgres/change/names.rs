//! Identifiers in attributes: what Postgres allows in a name and an attribute does not is percent-encoded.
//!
//! Invariant: two names never become one, for the percent sign is encoded too.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `name` as one token of a NATS subject: without white space, control characters, `.`, `*` and `>`.
pub(super) fn subject_token(name: &str) -> Cow<'_, str> {
    encode(name, |c| matches!(c, '.' | '*' | '>' | '%') || c.is_whitespace() || c.is_control())
}

/// `name` as one segment of a URI's path, letters of any script left as they are.
pub(super) fn path_segment(name: &str) -> Cow<'_, str> {
    encode(name, |c| matches!(c, '/' | '?' | '#' | '%') || c.is_whitespace() || c.is_control())
}

/// `text` without control characters. Here the percent sign stays: keys of rows are for people, and two keys that
/// become one only share a lane.
pub(super) fn without_controls(text: &str) -> Cow<'_, str> {
    encode(text, char::is_control)
}

fn encode(text: &str, wanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&wanted) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !wanted(c) {
            out.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    Cow::Owned(out)
}

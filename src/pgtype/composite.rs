//! Rows as `record_out` writes them: `(1,,"a ""b"" \\")`, where nothing between two commas is null.
//!
//! Invariant: a row with more or fewer fields than its type has attributes is not decoded: the type has changed since
//! it was learnt, and which field is which is not to be guessed.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Type, Undecodable, json, value};

pub(super) fn write(
    out: &mut Vec<u8>,
    attributes: &[(String, Arc<Type>)],
    text: &[u8],
    depth: usize,
) -> Result<(), Undecodable> {
    let inner = text.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")")).ok_or(Undecodable)?;
    out.push(b'{');
    let mut rest = Some(inner);
    for (at, (name, ty)) in attributes.iter().enumerate() {
        let (field, after) = field(rest.ok_or(Undecodable)?)?;
        if at > 0 {
            out.push(b',');
        }
        json::string(out, name);
        out.push(b':');
        match field {
            Some(text) => value(out, ty, &text, depth + 1)?,
            None => out.extend_from_slice(b"null"),
        }
        rest = after;
    }
    // A row of no attributes is written as one empty field.
    let ended = rest.is_none_or(|rest| attributes.is_empty() && rest.is_empty());
    if !ended {
        return Err(Undecodable);
    }
    out.push(b'}');
    Ok(())
}

/// The text of a field, `None` for null, and what follows its comma, `None` where it was the last.
type Field<'a> = (Option<Cow<'a, [u8]>>, Option<&'a [u8]>);

fn field(text: &[u8]) -> Result<Field<'_>, Undecodable> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|b| *b == b',');
        let (inner, rest) = match end {
            Some(end) => (&text[..end], Some(&text[end + 1..])),
            None => (text, None),
        };
        if inner.iter().any(|b| matches!(b, b'"' | b'\\' | b'(' | b')')) {
            return Err(Undecodable);
        }
        return Ok(((!inner.is_empty()).then_some(Cow::Borrowed(inner)), rest));
    };
    let (inner, rest) = unquote(quoted)?;
    match rest.split_first() {
        None => Ok((Some(inner), None)),
        Some((b',', rest)) => Ok((Some(inner), Some(rest))),
        Some(_) => Err(Undecodable),
    }
}

/// What stands before the closing quote, doubled quotes and backslashes undone, and what follows the quote.
fn unquote(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Undecodable> {
    let special = |from: usize| {
        let found = text.get(from..)?.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        Some(from + found)
    };
    let mut inner = Vec::new();
    let mut from = 0;
    loop {
        let at = special(from).ok_or(Undecodable)?;
        let next = text.get(at + 1);
        if text[at] == b'"' && next != Some(&b'"') {
            let rest = &text[at + 1..];
            if from == 0 {
                return Ok((Cow::Borrowed(&text[..at]), rest));
            }
            inner.extend_from_slice(&text[from..at]);
            return Ok((Cow::Owned(inner), rest));
        }
        inner.extend_from_slice(&text[from..at]);
        inner.push(*next.ok_or(Undecodable)?);
        from = at + 2;
    }
}

//! Arrays as `array_out` writes them: `{1,NULL,"a \"b\""}`, nested, with their bounds `[0:1]={…}` where they do not
//! begin at 1.
//!
//! Invariant: one pass over the text; braces are counted, not recursed into. The bounds are dropped, as the server's
//! JSON functions do.

use std::borrow::Cow;

use super::{MAX_DEPTH, Type, Undecodable, value};

/// Where in an array the text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// After an opening brace: an element, another brace, or the end of an empty array.
    First,
    /// After a delimiter.
    Element,
    /// After an element or a closing brace.
    Delimiter,
}

pub(super) fn write(
    out: &mut Vec<u8>,
    element: &Type,
    delimiter: u8,
    text: &[u8],
    depth: usize,
) -> Result<(), Undecodable> {
    let mut rest = without_bounds(text)?;
    let mut open = 0;
    let mut due = Due::Element;
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'{' if due != Due::Delimiter => {
                open += 1;
                if depth + open > MAX_DEPTH {
                    return Err(Undecodable);
                }
                out.push(b'[');
                due = Due::First;
                after
            }
            b'}' if due != Due::Element && open > 0 => {
                open -= 1;
                out.push(b']');
                due = Due::Delimiter;
                if open == 0 {
                    return if after.is_empty() { Ok(()) } else { Err(Undecodable) };
                }
                after
            }
            _ if byte == delimiter && due == Due::Delimiter => {
                out.push(b',');
                due = Due::Element;
                after
            }
            _ if due != Due::Delimiter && open > 0 => {
                due = Due::Delimiter;
                write_element(out, element, delimiter, rest, depth + open)?
            }
            _ => return Err(Undecodable),
        };
    }
    Err(Undecodable)
}

/// Elements with a space between them and nothing around.
pub(super) fn write_vector(out: &mut Vec<u8>, element: &Type, text: &[u8], depth: usize) -> Result<(), Undecodable> {
    out.push(b'[');
    let elements = text.split(|b| *b == b' ').filter(|_| !text.is_empty());
    for (at, text) in elements.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        value(out, element, text, depth + 1)?;
    }
    out.push(b']');
    Ok(())
}

/// Takes `[0:1][-2:3]=` away.
fn without_bounds(text: &[u8]) -> Result<&[u8], Undecodable> {
    if text.first() != Some(&b'[') {
        return Ok(text);
    }
    let end = text.iter().position(|b| *b == b'=').ok_or(Undecodable)?;
    let is_bounds = |b: &u8| b.is_ascii_digit() || matches!(b, b'[' | b']' | b':' | b'-' | b'+');
    let bounds = &text[..end];
    if bounds.iter().all(is_bounds) && bounds.ends_with(b"]") { Ok(&text[end + 1..]) } else { Err(Undecodable) }
}

/// Appends the element that `text` begins with; what follows it.
fn write_element<'a>(
    out: &mut Vec<u8>,
    element: &Type,
    delimiter: u8,
    text: &'a [u8],
    depth: usize,
) -> Result<&'a [u8], Undecodable> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let (inner, rest) = unquote(quoted)?;
        value(out, element, &inner, depth)?;
        return Ok(rest);
    }
    let end = text.iter().position(|b| *b == delimiter || *b == b'}').ok_or(Undecodable)?;
    let (inner, rest) = text.split_at(end);
    if inner.is_empty() || inner.iter().any(|b| matches!(b, b'"' | b'\\' | b'{')) {
        return Err(Undecodable);
    }
    if inner.eq_ignore_ascii_case(b"null") {
        out.extend_from_slice(b"null");
    } else {
        value(out, element, inner, depth)?;
    }
    Ok(rest)
}

/// What stands before the closing quote, each backslash undone, and what follows the quote.
fn unquote(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Undecodable> {
    let special = |from: usize| text[from..].iter().position(|b| matches!(b, b'"' | b'\\')).map(|at| from + at);
    let mut at = special(0).ok_or(Undecodable)?;
    if text[at] == b'"' {
        return Ok((Cow::Borrowed(&text[..at]), &text[at + 1..]));
    }
    let mut inner = Vec::with_capacity(text.len().min(4 * at + 64));
    let mut from = 0;
    while text[at] == b'\\' {
        inner.extend_from_slice(&text[from..at]);
        inner.push(*text.get(at + 1).ok_or(Undecodable)?);
        from = at + 2;
        at = special(from).ok_or(Undecodable)?;
    }
    inner.extend_from_slice(&text[from..at]);
    Ok((Cow::Owned(inner), &text[at + 1..]))
}

//! JSON, token by token: where each ends, and whether it is sound.
//!
//! Invariant: a token is taken if and only if RFC 8259 has it so; nothing is kept. What is beyond the last byte is a zero, which
//! stands nowhere in JSON.

use super::super::MAX_DEPTH;
use super::lanes::Lanes;

/// The bytes are no JSON, or more than can be counted. [`Json::parse`](super::super::Json::parse) says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// The place after white space.
#[inline(always)]
pub fn space(lanes: &Lanes<'_>, mut at: usize) -> usize {
    loop {
        let byte = lanes.byte(at);
        if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
            return at;
        }
        at += 1;
    }
}

/// The place after the value at `at`, around which `depth` arrays and objects are open.
pub fn skip(lanes: &mut Lanes<'_>, mut at: usize, depth: usize) -> Result<usize, NotJson> {
    // What is open, innermost lowest: one for an object. MAX_DEPTH fit.
    let (mut open, mut level) = (0_u128, 0);
    loop {
        match lanes.byte(at) {
            b'"' => at = string(lanes, at + 1)?.0 + 1,
            b'-' | b'0'..=b'9' => at = number(lanes, at)?,
            b't' | b'f' | b'n' => at = literal(lanes, at)?,
            bracket @ (b'{' | b'[') => {
                if depth + level >= MAX_DEPTH {
                    return Err(NotJson);
                }
                at = space(lanes, at + 1);
                // Each closing bracket stands two after the opening one.
                if lanes.byte(at) != bracket + 2 {
                    (open, level) = (open << 1 | u128::from(bracket == b'{'), level + 1);
                    if bracket == b'{' {
                        at = key(lanes, at)?;
                    }
                    continue;
                }
                at += 1;
            }
            _ => return Err(NotJson),
        }
        loop {
            if level == 0 {
                return Ok(at);
            }
            at = space(lanes, at);
            let object = open & 1 == 1;
            let next = lanes.byte(at);
            at += 1;
            if next == b',' {
                at = space(lanes, at);
                if object {
                    at = key(lanes, at)?;
                }
                break;
            }
            if next != if object { b'}' } else { b']' } {
                return Err(NotJson);
            }
            (open, level) = (open >> 1, level - 1);
        }
    }
}

/// The place of the value after the key at `at`.
#[inline(always)]
fn key(lanes: &mut Lanes<'_>, at: usize) -> Result<usize, NotJson> {
    if lanes.byte(at) != b'"' {
        return Err(NotJson);
    }
    let (end, _) = string(lanes, at + 1)?;
    let at = space(lanes, end + 1);
    if lanes.byte(at) != b':' {
        return Err(NotJson);
    }
    Ok(space(lanes, at + 1))
}

/// The place of the quote that ends the string whose first byte is at `start`, and whether it has escapes.
#[inline(always)]
pub fn string(lanes: &mut Lanes<'_>, start: usize) -> Result<(usize, bool), NotJson> {
    let at = lanes.special(start);
    if lanes.byte(at) == b'"' { Ok((at, false)) } else { escaped(lanes, at) }
}

#[cold]
fn escaped(lanes: &mut Lanes<'_>, mut at: usize) -> Result<(usize, bool), NotJson> {
    loop {
        match lanes.byte(at) {
            b'"' => return Ok((at, true)),
            b'\\' => at = lanes.special(escape(lanes.bytes(), at)?),
            _ => return Err(NotJson),
        }
    }
}

/// The place after the number at `at`.
#[inline(always)]
pub fn number(lanes: &mut Lanes<'_>, at: usize) -> Result<usize, NotJson> {
    let start = at + usize::from(lanes.byte(at) == b'-');
    let whole = digits(lanes, start)?;
    if lanes.byte(start) == b'0' && whole > start + 1 {
        return Err(NotJson);
    }
    let mut end = whole;
    if lanes.byte(end) == b'.' {
        end = digits(lanes, end + 1)?;
    }
    if lanes.byte(end) | 0x20 == b'e' {
        let sign = usize::from(matches!(lanes.byte(end + 1), b'+' | b'-'));
        end = digits(lanes, end + 1 + sign)?;
    }
    Ok(end)
}

/// The place after at least one digit.
#[inline(always)]
fn digits(lanes: &mut Lanes<'_>, at: usize) -> Result<usize, NotJson> {
    let end = lanes.digits(at);
    if end == at { Err(NotJson) } else { Ok(end) }
}

/// The place after `true`, `false` or `null`.
pub fn literal(lanes: &Lanes<'_>, at: usize) -> Result<usize, NotJson> {
    let rest = lanes.bytes().get(at..).unwrap_or_default();
    let found = ["true", "false", "null"].iter().find(|word| rest.starts_with(word.as_bytes()));
    Ok(at + found.ok_or(NotJson)?.len())
}

/// Checks the escape whose backslash is at `at`, and gives the place after it.
fn escape(bytes: &[u8], at: usize) -> Result<usize, NotJson> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match unit(bytes, at).ok_or(NotJson)? {
            0xD800..0xDC00 if matches!(unit(bytes, at + 6), Some(0xDC00..0xE000)) => Ok(at + 12),
            0xD800..0xE000 => Err(NotJson),
            _ => Ok(at + 6),
        },
        _ => Err(NotJson),
    }
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`, if there is one.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

/// Appends the inside of a string, which was checked, without its escapes.
pub fn unescape(mut text: &str, out: &mut String) {
    while let Some((plain, escaped)) = text.split_once('\\') {
        out.push_str(plain);
        // The backslash stands before `escaped`.
        let at = text.len() - escaped.len() - 1;
        let (character, len) = match escaped.as_bytes().first() {
            Some(b'u') => {
                let unit_at = |at| unit(text.as_bytes(), at).unwrap_or_default();
                match unit_at(at) {
                    high @ 0xD800..0xDC00 => {
                        (char::from_u32(0x10000 + ((high - 0xD800) << 10) + (unit_at(at + 6).wrapping_sub(0xDC00))), 12)
                    }
                    other => (char::from_u32(other), 6),
                }
            }
            Some(b'b') => (Some('\u{8}'), 2),
            Some(b'f') => (Some('\u{c}'), 2),
            Some(b'n') => (Some('\n'), 2),
            Some(b'r') => (Some('\r'), 2),
            Some(b't') => (Some('\t'), 2),
            other => (other.copied().map(char::from), 2),
        };
        out.extend(character);
        text = text.get(at + len..).unwrap_or_default();
    }
    out.push_str(text);
}

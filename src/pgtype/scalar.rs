//! Scalar values as the server's output functions write them.
//!
//! Invariant: a text is accepted only if it has the very form that its type's output function gives, so that what is
//! appended is valid JSON without a second look.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Undecodable, json};

pub(super) fn text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Undecodable> {
    json::string(out, utf8(text)?);
    Ok(())
}

pub(super) fn boolean(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Undecodable> {
    let word: &[u8] = match text {
        b"t" => b"true",
        b"f" => b"false",
        _ => return Err(Undecodable),
    };
    out.extend_from_slice(word);
    Ok(())
}

pub(super) fn integer(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Undecodable> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = digits.iter().all(u8::is_ascii_digit) && !digits.is_empty();
    if !plain || (digits[0] == b'0' && digits.len() > 1) {
        return Err(Undecodable);
    }
    out.extend_from_slice(text);
    Ok(())
}

/// A float or a numeric: its digits as they stand, or its name as a string where JSON has no number for it.
pub(super) fn number(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Undecodable> {
    if json::is_number(text) {
        out.extend_from_slice(text);
    } else if matches!(text, b"NaN" | b"Infinity" | b"-Infinity") {
        quoted(out, &[text]);
    } else {
        return Err(Undecodable);
    }
    Ok(())
}

/// `\x` and pairs of hexadecimal digits → base64.
pub(super) fn bytea(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Undecodable> {
    /// Bytes decoded at a time: a multiple of three, so that only the last chunk is padded.
    const CHUNK: usize = 384;
    let digits = text.strip_prefix(b"\\x").filter(|digits| digits.len() % 2 == 0).ok_or(Undecodable)?;
    let mut bytes = [0; CHUNK];
    let mut encoded = [0; CHUNK / 3 * 4];
    out.push(b'"');
    for chunk in digits.chunks(2 * CHUNK) {
        let bytes = &mut bytes[..chunk.len() / 2];
        for (byte, pair) in bytes.iter_mut().zip(chunk.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        let length = STANDARD.encode_slice(bytes, &mut encoded).map_err(|_| Undecodable)?;
        out.extend_from_slice(&encoded[..length]);
    }
    out.push(b'"');
    Ok(())
}

fn hex_digit(digit: u8) -> Result<u8, Undecodable> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Undecodable),
    }
}

/// A document, embedded as it stands: white space, duplicate keys and the form of numbers included.
pub(super) fn json(out: &mut Vec<u8>, text: &[u8], depth: usize) -> Result<(), Undecodable> {
    if !json::is_value(utf8(text)?, depth) {
        return Err(Undecodable);
    }
    out.extend_from_slice(text);
    Ok(())
}

/// `2026-01-31 12:00:00.5+00 BC` → `2026-01-31T12:00:00.5+00:00 BC`, as the server's own JSON functions write it.
pub(super) fn timestamp(out: &mut Vec<u8>, text: &[u8], zoned: bool) -> Result<(), Undecodable> {
    if matches!(text, b"infinity" | b"-infinity") {
        quoted(out, &[text]);
        return Ok(());
    }
    let (moment, era) = match text.strip_suffix(b" BC") {
        Some(moment) => (moment, b" BC".as_slice()),
        None => (text, b"".as_slice()),
    };
    let space = moment.iter().position(|b| *b == b' ').ok_or(Undecodable)?;
    let (date, time) = (&moment[..space], &moment[space + 1..]);
    let zone_at = time.iter().position(|b| matches!(b, b'+' | b'-')).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let minutes: &[u8] = if zone.len() == 3 { b":00" } else { b"" };
    let zone_fits = if zoned { is_zone(zone) } else { zone.is_empty() };
    if !is_date(date) || !is_time(time) || !zone_fits {
        return Err(Undecodable);
    }
    quoted(out, &[date, b"T", time, zone, minutes, era]);
    Ok(())
}

/// Whether `text` is digits where `shape` has `0`, and `shape` elsewhere.
fn has_shape(text: &[u8], shape: &[u8]) -> bool {
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() == shape.len() && text.iter().zip(shape).all(fits)
}

/// The year has four to six digits: Postgres goes to 294276.
fn is_date(text: &[u8]) -> bool {
    let Some(month) = text.len().checked_sub("-00-00".len()) else { return false };
    let (year, rest) = text.split_at(month);
    (4..=6).contains(&year.len()) && year.iter().all(u8::is_ascii_digit) && has_shape(rest, b"-00-00")
}

fn is_time(text: &[u8]) -> bool {
    let Some((time, fraction)) = text.split_at_checked("00:00:00".len()) else { return false };
    let fraction_fits = match fraction {
        [] => true,
        [b'.', digits @ ..] => (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    has_shape(time, b"00:00:00") && fraction_fits
}

fn is_zone(text: &[u8]) -> bool {
    let offset = text.split_first().map_or(text, |(_sign, offset)| offset);
    [b"00".as_slice(), b"00:00", b"00:00:00"].iter().any(|shape| has_shape(offset, shape))
}

/// Appends parts that need no escaping as one string.
fn quoted(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'"');
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'"');
}

fn utf8(text: &[u8]) -> Result<&str, Undecodable> {
    std::str::from_utf8(text).map_err(|_| Undecodable)
}

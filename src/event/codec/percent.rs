//! Header values as the CloudEvents HTTP binding writes them (1.0.2, section 3.1.3.2); the NATS binding does alike.
//!
//! Invariant: an encoded value is visible ASCII, so it cannot end a header line, and decoding it gives the text back.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Percent-encodes everything outside U+0021..U+007E, the double quote and the percent sign.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode_into(text, &mut out);
    out
}

/// [`encode`] at the end of `out`.
pub(super) fn encode_into(text: &str, out: &mut String) {
    for &byte in text.as_bytes() {
        if matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// Undoes [`encode`], once. A quoted string is unquoted first, as the binding demands; a `%` that two hexadecimal
/// digits do not follow stays as it is. `None`: the bytes are not UTF-8, which the binding says to reject.
pub(super) fn decode(text: &str) -> Option<Cow<'_, str>> {
    let text = unquote(text);
    if !text.contains('%') {
        return Some(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { hex_pair(bytes, at + 1) } else { None };
        out.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

/// The inside of a quoted string (RFC 7230, section 3.2.6); anything else as it is.
fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    Cow::Owned(out)
}

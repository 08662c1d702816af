//! Header blocks of NATS messages as they are on the wire, and a message as a dead letter keeps it.
//!
//! Invariant: any bytes give headers or an error that names the line; nothing is lost on the way to a dead letter. A server
//! passes blocks on as a publisher wrote them, so nothing in one may be believed: neither its form nor its status line.
//! It knows no client of NATS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::{Limits, Pairs};

/// The only version there is.
const VERSION: &[u8] = b"NATS/1.0";

/// A block is looked at if it is at most so many times as long as its names and values may be: separators come on top.
const SLACK: usize = 4;

/// What a header block says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The code of the status line.
    pub status: Option<u16>,
    /// What stands behind it.
    pub description: String,
    /// Names and values in their order.
    pub headers: Pairs,
}

impl Block {
    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.headers, name)
    }
}

/// Reads a header block; none is no headers. White space around a value is left out, a line that begins with white space
/// goes on with the value before it, a bare line feed ends a line too.
///
/// # Errors
/// The first line that is wrong, or more bytes than `limits` allow.
pub fn parse(block: &[u8], limits: &Limits) -> Result<Block, DecodeError> {
    if block.is_empty() {
        return Ok(Block::default());
    }
    if block.len() > limits.max_header_bytes.saturating_mul(SLACK) {
        limits.allow_headers("headers", 0, block.len())?;
    }
    let mut lines = block.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix(VERSION).ok_or(wrong(1, "does not begin with NATS/1.0"))?;
    let (status, description) = status_line(text(1, status)?);
    let mut headers: Pairs = Vec::new();
    for (line, bytes) in (2..).zip(lines) {
        if bytes.is_empty() {
            continue;
        }
        let folded = bytes.first().is_some_and(u8::is_ascii_whitespace);
        match headers.last_mut().filter(|_| folded) {
            Some((_, value)) => value.push_str(text(line, bytes)?.trim_end()),
            None => headers.push(header(line, bytes)?),
        }
    }
    Ok(Block { status, description, headers })
}

fn header(line: usize, bytes: &[u8]) -> Result<(String, String), DecodeError> {
    let text = text(line, bytes)?;
    let (name, value) = text.split_once(':').ok_or(wrong(line, "has no colon"))?;
    if name.is_empty() {
        return Err(wrong(line, "has no name before its colon"));
    }
    // As HTTP has it, and every client of NATS: visible characters of ASCII.
    if !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong(line, "has a name with a space, a control character or a letter beyond ASCII"));
    }
    Ok((name.to_owned(), value.trim().to_owned()))
}

fn text(line: usize, bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| wrong(line, "is not UTF-8"))?;
    if text.contains('\r') {
        return Err(wrong(line, "has a carriage return inside"));
    }
    Ok(text)
}

fn status_line(rest: &str) -> (Option<u16>, String) {
    let rest = rest.trim();
    let (code, description) = rest.split_once(' ').unwrap_or((rest, ""));
    (code.parse().ok(), description.trim().to_owned())
}

fn wrong(line: usize, problem: &'static str) -> DecodeError {
    DecodeError::HeaderBlock { line, problem }
}

/// Subject and header block of a message that could not be read, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// In base64.
    nats_subject: String,
    /// In base64.
    nats_headers: String,
}

impl Kept {
    /// Keeps them.
    #[must_use]
    pub fn new(subject: &[u8], block: &[u8]) -> Self {
        Self { nats_subject: STANDARD.encode(subject), nats_headers: STANDARD.encode(block) }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two texts are always JSON")
    }

    /// Reads what [`Kept::to_json`] wrote; none of what another message left.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The subject as it came.
    #[must_use]
    pub fn subject(&self) -> Vec<u8> {
        // Only what was written here is read.
        STANDARD.decode(&self.nats_subject).unwrap_or_default()
    }

    /// The header block as it came.
    #[must_use]
    pub fn block(&self) -> Vec<u8> {
        STANDARD.decode(&self.nats_headers).unwrap_or_default()
    }

    /// For people, by name: text as text, other bytes in base64.
    #[must_use]
    pub fn shown(&self) -> Pairs {
        let part = |bytes: Vec<u8>, base64: &str| String::from_utf8(bytes).unwrap_or(format!("base64:{base64}"));
        vec![
            ("(subject)".to_owned(), part(self.subject(), &self.nats_subject)),
            ("(header block)".to_owned(), part(self.block(), &self.nats_headers)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(block: &[u8]) -> Result<Block, DecodeError> {
        parse(block, &Limits::default())
    }

    #[test]
    fn a_header_block_is_read_or_its_line_is_named() {
        type Case = (&'static [u8], &'static [(&'static str, &'static str)]);
        let table: [Case; 8] = [
            (b"", &[]),
            (b"NATS/1.0\r\n\r\n", &[]),
            (b"NATS/1.0", &[]),
            (b"NATS/1.0\r\nA: b\r\n\r\n", &[("A", "b")]),
            (b"NATS/1.0\r\nA:b\r\nA:  c d \r\n\r\n", &[("A", "b"), ("A", "c d")]),
            (b"NATS/1.0\r\nA: b\r\n  c\r\nd:\r\n\r\n", &[("A", "b  c"), ("d", "")]),
            (b"NATS/1.0 503\r\nA: b:c\r\n\r\n", &[("A", "b:c")]),
            ("NATS/1.0\nA: é\u{1f600}\n\n".as_bytes(), &[("A", "é\u{1f600}")]),
        ];
        for (block, expected) in table {
            let found = read(block).expect("it is well formed").headers;
            let found: Vec<(&str, &str)> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{}", block.escape_ascii());
        }
    }

    #[test]
    fn what_is_wrong_with_a_block_is_named_with_its_line() {
        let table: [(&[u8], usize, &str); 9] = [
            (b"NATS/2.0\r\nA: b\r\n\r\n", 1, "NATS/1.0"),
            (b"\r\nA: b\r\n\r\n", 1, "NATS/1.0"),
            (b"NATS/1.0 \xff\r\n\r\n", 1, "UTF-8"),
            (b"NATS/1.0\r\nno colon\r\n\r\n", 2, "colon"),
            (b"NATS/1.0\r\nA: b\r\nB: \xff\xfe\r\n\r\n", 3, "UTF-8"),
            (b"NATS/1.0\r\nA b: c\r\n\r\n", 2, "space"),
            (b"NATS/1.0\r\n: c\r\n\r\n", 2, "no name"),
            (b"NATS/1.0\r\nA: b\rc\r\n\r\n", 2, "carriage return"),
            (b"NATS/1.0\r\n folded: first\r\n\r\n", 2, "space"),
        ];
        for (block, line, word) in table {
            let error = read(block).expect_err("it is not well formed");
            assert_eq!(error.class(), "header_block");
            let text = error.to_string();
            assert!(text.contains(&format!("line {line} ")) && text.contains(word), "{text}");
        }
    }

    #[test]
    fn a_status_is_read_and_a_huge_block_is_not() {
        let block = read(b"NATS/1.0 409 Batch Completed\r\nNats-Pending-Messages: 3\r\n\r\n").expect("a status");
        assert_eq!((block.status, block.description.as_str()), (Some(409), "Batch Completed"));
        assert_eq!(block.header("nats-pending-messages"), Some("3"));
        let huge = [b"NATS/1.0\r\nA: ".as_slice(), &vec![b'x'; 1 << 20], b"\r\n\r\n"].concat();
        assert_eq!(read(&huge).expect_err("too long").class(), "headers");
    }

    #[test]
    fn a_kept_message_has_its_bytes() {
        let kept = Kept::new(b"a.\xff", b"NATS/1.0\r\nx\r\n\r\n");
        let again = Kept::from_json(&kept.to_json()).expect("it was just written");
        assert_eq!((again.subject(), again.block()), (b"a.\xff".to_vec(), b"NATS/1.0\r\nx\r\n\r\n".to_vec()));
        assert_eq!(again.shown()[0].1, "base64:YS7/");
        for other in [r#"[["Nats-Subject","a"]]"#, "[]", "", "{}"] {
            assert_eq!(Kept::from_json(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&block);
            let block = [b"NATS/1.0".as_slice(), &block].concat();
            let _ = read(&block);
        }
    }
}

//! The JSON front end: one pass over the bytes, which checks all of them and keeps what the patterns name.
//!
//! Invariant: it takes and refuses exactly what [`Json::parse`](super::super::Json::parse) does, and what it finds is
//! what `paths` finds in the parsed value. It builds no tree; what no pattern names is checked and passed over.

use super::super::MAX_DEPTH;
use super::lanes;
use super::table::{Element, Kind, Table};
use super::trie::{Field, Node, Trie};

/// The bytes are no JSON, or more than can be counted. [`Json::parse`](super::super::Json::parse) says what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// A part of the text, from and to.
type Part = (usize, usize);

/// A pass over one JSON text.
pub struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    trie: &'a Trie,
    table: &'a mut Table,
    /// Whether texts are copied to the table: then the text need not outlive the pass.
    copied: bool,
}

/// Adds to `table` what `text`, which stands at `field`, holds of the fields of `trie`. Nothing of it is kept if it is
/// no JSON. Its texts are copied to the table, or stay parts of the payload, which it then is.
pub fn scan(text: &str, field: Field, trie: &Trie, table: &mut Table, copied: bool) -> Result<(), NotJson> {
    if u32::try_from(text.len()).is_err() {
        return Err(NotJson);
    }
    let mark = table.mark();
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0, trie, table, copied };
    let found = scan.whole(field);
    if found.is_err() {
        table.back_to(mark);
    }
    found
}

impl Scan<'_> {
    fn whole(&mut self, field: Field) -> Result<(), NotJson> {
        self.space();
        self.value(field, self.trie.node(field), super::table::OUTSIDE, 0)?;
        self.space();
        if self.at == self.bytes.len() { Ok(()) } else { Err(NotJson) }
    }

    /// The byte at hand; zero, which stands nowhere in JSON, at the end.
    #[inline]
    fn byte(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.byte(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Takes this byte and the space after it.
    #[inline]
    fn take(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.byte() != byte {
            return Err(NotJson);
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// The value at hand, of which `depth` arrays and objects are open around it.
    fn value(&mut self, field: Field, node: Node, element: Element, depth: usize) -> Result<(), NotJson> {
        match self.byte() {
            b'{' if node.parent => self.object(field, element, depth),
            b'[' => self.array(field, node, element, depth),
            b'"' if node.named => {
                let (part, escaped) = self.string()?;
                self.keep_text(field, element, part, escaped);
                Ok(())
            }
            b'-' | b'0'..=b'9' if node.named => {
                let start = self.at;
                self.number()?;
                self.keep(field, element, (Kind::Number, Kind::OwnNumber), (start, self.at));
                Ok(())
            }
            kind @ (b't' | b'f' | b'n') if node.named => {
                self.literal()?;
                let kind = if kind == b'n' { Kind::Null } else { Kind::Bool(kind == b't') };
                self.table.push(field, element, kind, (0, 0));
                Ok(())
            }
            _ => self.skip(depth),
        }
    }

    fn object(&mut self, field: Field, element: Element, depth: usize) -> Result<(), NotJson> {
        self.open(depth)?;
        if self.byte() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let child = self.key(field)?;
            self.space();
            self.take(b':')?;
            match child {
                Some(child) => self.value(child, self.trie.node(child), element, depth + 1)?,
                None => self.skip(depth + 1)?,
            }
            self.space();
            if self.byte() == b'}' {
                self.at += 1;
                return Ok(());
            }
            self.take(b',')?;
        }
    }

    fn array(&mut self, field: Field, node: Node, element: Element, depth: usize) -> Result<(), NotJson> {
        self.open(depth)?;
        if self.byte() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            match self.byte() {
                // An object or array in an array is an element of its own; scalars belong to what holds the array.
                b'[' => self.element(field, node, element, depth)?,
                b'{' if node.parent => self.element(field, node, element, depth)?,
                _ => self.value(field, node, element, depth + 1)?,
            }
            self.space();
            if self.byte() == b']' {
                self.at += 1;
                return Ok(());
            }
            self.take(b',')?;
        }
    }

    fn element(&mut self, field: Field, node: Node, around: Element, depth: usize) -> Result<(), NotJson> {
        let element = self.table.element(around, field);
        self.value(field, node, element, depth + 1)
    }

    /// The bracket at hand and the space after it.
    fn open(&mut self, depth: usize) -> Result<(), NotJson> {
        if depth >= MAX_DEPTH {
            return Err(NotJson);
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    /// The key at hand, as a field below `parent` if it is one.
    fn key(&mut self, parent: Field) -> Result<Option<Field>, NotJson> {
        let (part, escaped) = self.string()?;
        if !escaped {
            return Ok(self.trie.find(parent, &self.bytes[part.0..part.1]));
        }
        let mark = self.table.mark();
        unescape(&self.text[part.0..part.1], self.table.own());
        let found = self.trie.find(parent, &self.table.own().as_bytes()[mark.own()..]);
        self.table.back_to(mark);
        Ok(found)
    }

    fn keep_text(&mut self, field: Field, element: Element, part: Part, escaped: bool) {
        if !escaped {
            return self.keep(field, element, (Kind::Text, Kind::OwnText), part);
        }
        let own = self.table.own();
        let start = own.len();
        unescape(&self.text[part.0..part.1], own);
        let end = own.len();
        self.table.push(field, element, Kind::OwnText, (start, end));
    }

    #[inline]
    fn keep(&mut self, field: Field, element: Element, (kind, own): (Kind, Kind), part: Part) {
        if !self.copied {
            return self.table.push(field, element, kind, part);
        }
        let texts = self.table.own();
        let start = texts.len();
        texts.push_str(&self.text[part.0..part.1]);
        let end = texts.len();
        self.table.push(field, element, own, (start, end));
    }

    /// Checks the value at hand and passes over it.
    fn skip(&mut self, depth: usize) -> Result<(), NotJson> {
        // What is open, innermost lowest: one for an object. MAX_DEPTH fit.
        let (mut open, mut level) = (0_u128, 0);
        loop {
            match self.byte() {
                b'"' => self.string().map(|_| ())?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' | b'f' | b'n' => self.literal()?,
                bracket @ (b'{' | b'[') => {
                    self.open(depth + level)?;
                    let object = bracket == b'{';
                    if self.byte() != bracket + 2 {
                        (open, level) = (open << 1 | u128::from(object), level + 1);
                        if object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                _ => return Err(NotJson),
            }
            loop {
                if level == 0 {
                    return Ok(());
                }
                self.space();
                let object = open & 1 == 1;
                match self.byte() {
                    b',' => {
                        self.at += 1;
                        self.space();
                        if object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ => return Err(NotJson),
                }
                self.at += 1;
                (open, level) = (open >> 1, level - 1);
            }
        }
    }

    /// The key at hand and the colon after it.
    #[inline]
    fn skip_key(&mut self) -> Result<(), NotJson> {
        self.string()?;
        self.space();
        self.take(b':')
    }

    /// The string at hand: what stands between its quotes, and whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<(Part, bool), NotJson> {
        if self.byte() != b'"' {
            return Err(NotJson);
        }
        let start = self.at + 1;
        let mut at = lanes::special(self.bytes, start);
        let mut escaped = false;
        loop {
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(((start, at), escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    at = lanes::special(self.bytes, escape(self.bytes, at)?);
                }
                _ => return Err(NotJson),
            }
        }
    }

    /// The number at hand.
    #[inline]
    fn number(&mut self) -> Result<(), NotJson> {
        self.at += usize::from(self.byte() == b'-');
        let (first, start) = (self.byte(), self.at);
        self.digits()?;
        if first == b'0' && self.at > start + 1 {
            return Err(NotJson);
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    #[inline]
    fn digits(&mut self) -> Result<(), NotJson> {
        let end = lanes::digits(self.bytes, self.at);
        if end == self.at {
            return Err(NotJson);
        }
        self.at = end;
        Ok(())
    }

    fn literal(&mut self) -> Result<(), NotJson> {
        let rest = &self.bytes[self.at..];
        let found = ["true", "false", "null"].iter().find(|word| rest.starts_with(word.as_bytes()));
        self.at += found.ok_or(NotJson)?.len();
        Ok(())
    }
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
fn unescape(mut text: &str, out: &mut String) {
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

//! The JSON front end: one pass over the bytes, which checks all of them and keeps what the patterns name.
//!
//! Invariant: it takes and refuses exactly what [`Json::parse`](super::super::Json::parse) does, and what it finds is
//! what `paths` finds in the parsed value. It builds no tree; what no pattern names is checked and passed over.

use super::super::MAX_DEPTH;
use super::lanes::Lanes;
use super::table::{Element, Kind, Table};
use super::tokens::{self, NotJson};
use super::trie::{Field, Node, Trie};

/// A part of the text, from and to.
type Part = (usize, usize);

/// A pass over one JSON text.
pub struct Scan<'a> {
    text: &'a str,
    lanes: Lanes<'a>,
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
    let mut scan = Scan { text, lanes: Lanes::new(text.as_bytes()), at: 0, trie, table, copied };
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
        if self.at == self.text.len() { Ok(()) } else { Err(NotJson) }
    }

    /// The byte at hand.
    #[inline]
    fn byte(&self) -> u8 {
        self.lanes.byte(self.at)
    }

    #[inline]
    fn space(&mut self) {
        self.at = tokens::space(&self.lanes, self.at);
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
                self.at = tokens::number(&mut self.lanes, start)?;
                self.keep(field, element, (Kind::Number, Kind::OwnNumber), (start, self.at));
                Ok(())
            }
            kind @ (b't' | b'f' | b'n') if node.named => {
                self.at = tokens::literal(&self.lanes, self.at)?;
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
            return Ok(self.trie.find(parent, &self.text.as_bytes()[part.0..part.1]));
        }
        let mark = self.table.mark();
        tokens::unescape(&self.text[part.0..part.1], self.table.own());
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
        tokens::unescape(&self.text[part.0..part.1], own);
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
        self.at = tokens::skip(&mut self.lanes, self.at, depth)?;
        Ok(())
    }

    /// The string at hand: what stands between its quotes, and whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<(Part, bool), NotJson> {
        if self.byte() != b'"' {
            return Err(NotJson);
        }
        let start = self.at + 1;
        let (end, escaped) = tokens::string(&mut self.lanes, start)?;
        self.at = end + 1;
        Ok(((start, end), escaped))
    }
}

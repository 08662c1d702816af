//! A row in a message, read where it lies.
//!
//! Invariant: a [`Tuple`] was checked when it was made, so walking it needs no error; its values come in the order of
//! the relation's columns.

pub(super) const NULL: u8 = b'n';
pub(super) const UNCHANGED: u8 = b'u';
pub(super) const TEXT: u8 = b't';
pub(super) const BINARY: u8 = b'b';

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    values: &'a [u8],
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Null.
    Null,
    /// Stored out of line and not touched by the update; the server does not say what it is.
    Unchanged,
    /// As its type's output function writes it.
    Text(&'a [u8]),
    /// As its type's send function writes it; only on a slot that was started with `binary`.
    Binary(&'a [u8]),
}

/// The values of a row, first column first.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// `values` are `count` values exactly, as the caller has seen.
    pub(super) fn checked(count: u16, values: &'a [u8]) -> Self {
        Self { count, values }
    }

    /// How many values it has.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Its bytes in the message.
    #[must_use]
    pub fn size(&self) -> usize {
        self.values.len()
    }

    /// Its values.
    #[must_use]
    pub fn values(&self) -> Values<'a> {
        Values { left: self.count, rest: self.values }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        match kind {
            NULL => Some(Value::Null),
            UNCHANGED => Some(Value::Unchanged),
            TEXT => self.bytes().map(Value::Text),
            _ => self.bytes().map(Value::Binary),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

impl<'a> Values<'a> {
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (bytes, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

/// A row put together by hand, of values that did not come in a message: those of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Row {
    count: u16,
    values: Vec<u8>,
}

impl Row {
    /// A row without values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all values away and keeps the memory.
    pub fn clear(&mut self) {
        self.count = 0;
        self.values.clear();
    }

    /// Appends a value as text, `None` for null. `false`: it is not appended, for it is longer than 4 GiB or there are
    /// 65,535 already; Postgres has neither.
    #[must_use]
    pub fn push(&mut self, text: Option<&[u8]>) -> bool {
        let Some(count) = self.count.checked_add(1) else { return false };
        match text {
            None => self.values.push(NULL),
            Some(text) => {
                let Ok(length) = u32::try_from(text.len()) else { return false };
                self.values.push(TEXT);
                self.values.extend_from_slice(&length.to_be_bytes());
                self.values.extend_from_slice(text);
            }
        }
        self.count = count;
        true
    }

    /// The row to read.
    #[must_use]
    pub fn tuple(&self) -> Tuple<'_> {
        Tuple { count: self.count, values: &self.values }
    }
}

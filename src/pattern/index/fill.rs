//! The column front end: fields that are told one by one, such as attributes and columns, beside the JSON one.
//!
//! Invariant: whatever is told, the table holds what it would hold if all of it had been one JSON object. What no
//! pattern names is neither copied nor looked at.

use super::super::value::Scalar;
use super::scan::scan;
use super::table::{OUTSIDE, Table};
use super::tokens::NotJson;
use super::trie::{Field, ROOT, Trie};

/// A place in the event that some pattern names, or a place below which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Field);

/// Takes the fields of one event. Payloads outlive it; all else is copied if it is wanted.
#[derive(Debug)]
pub struct Fill<'t, 'e> {
    trie: &'t Trie,
    table: &'t mut Table,
    payload: Option<&'e str>,
}

impl<'t, 'e> Fill<'t, 'e> {
    pub(super) fn new(trie: &'t Trie, table: &'t mut Table) -> Self {
        Self { trie, table, payload: None }
    }

    pub(super) fn payload_text(&self) -> &'e str {
        self.payload.unwrap_or_default()
    }

    /// The event as a whole.
    pub fn root(&self) -> Place {
        Place(ROOT)
    }

    /// The place of a member, if anything is wanted there; a key with dots is the keys between them.
    pub fn below(&self, place: Place, key: &str) -> Option<Place> {
        self.trie.find(place.0, key.as_bytes()).map(Place)
    }

    /// A scalar.
    fn scalar(&mut self, place: Place, value: Scalar<'_>) {
        if self.trie.node(place.0).named {
            self.table.push_own(place.0, OUTSIDE, value);
        }
    }

    /// A string.
    pub fn text(&mut self, place: Place, text: &str) {
        self.scalar(place, Scalar::Text(text));
    }

    /// A JSON number, as it is written.
    pub fn number(&mut self, place: Place, number: &str) {
        self.scalar(place, Scalar::Number(number));
    }

    /// An integer.
    pub fn integer(&mut self, place: Place, number: i64) {
        if self.trie.node(place.0).named {
            self.number(place, &number.to_string());
        }
    }

    /// `true` or `false`.
    pub fn bool(&mut self, place: Place, value: bool) {
        self.scalar(place, Scalar::Bool(value));
    }

    /// `null`.
    pub fn null(&mut self, place: Place) {
        self.scalar(place, Scalar::Null);
    }

    /// A member of the event as a whole that is a string.
    pub fn text_at(&mut self, key: &str, text: &str) {
        if let Some(place) = self.below(self.root(), key) {
            self.text(place, text);
        }
    }

    /// Any value, as JSON.
    ///
    /// # Errors
    /// It is none; then it is as if it had not been told.
    pub fn json(&mut self, place: Place, json: &[u8]) -> Result<(), NotJson> {
        let text = simdutf8::basic::from_utf8(json).map_err(|_| NotJson)?;
        scan(text, place.0, self.trie, self.table, true)
    }

    /// The same for the largest part of the event: the first that is told so is not copied.
    ///
    /// # Errors
    /// It is none; then it is as if it had not been told.
    pub fn payload(&mut self, place: Place, json: &'e [u8]) -> Result<(), NotJson> {
        let text = simdutf8::basic::from_utf8(json).map_err(|_| NotJson)?;
        if self.payload.is_some() {
            return scan(text, place.0, self.trie, self.table, true);
        }
        self.payload = Some(text);
        scan(text, place.0, self.trie, self.table, false)
    }
}

//! The fields of one event: what a front end found of what the patterns name, ready to be looked up by field.
//!
//! Invariant: a table is filled by one front end after the other and then linked; what is read was linked. It is cleared
//! in constant time and keeps its memory, so that an event no larger than those before allocates nothing.

use super::super::value::Scalar;
use super::trie::Field;

/// The number of an object or array in an array; [`OUTSIDE`] for what is in none.
pub type Element = u32;

/// The element of values outside all arrays.
pub const OUTSIDE: Element = 0;

/// No value.
const NONE: u32 = u32::MAX;

/// The values of one event by field, and the array elements that they lie in.
#[derive(Debug, Default)]
pub struct Table {
    values: Vec<Value>,
    /// By field.
    heads: Vec<Head>,
    epoch: u32,
    present: Vec<Field>,
    /// The elements but [`OUTSIDE`]: the element that each lies in, and the array's field.
    elements: Vec<(Element, Field)>,
    /// Texts that are not in the payload as they are.
    own: String,
}

impl Mark {
    /// Where the own texts ended.
    pub fn own(self) -> usize {
        self.own
    }
}

/// How much a table held at a moment, to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    values: usize,
    elements: usize,
    own: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    epoch: u32,
    value: u32,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    field: Field,
    next: u32,
    element: Element,
    start: u32,
    len: u32,
    kind: Kind,
}

/// What a value is, and for texts and numbers where its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number in the payload.
    Number,
    /// A string in the payload.
    Text,
    /// A number among the table's own texts.
    OwnNumber,
    /// A string among the table's own texts.
    OwnText,
}

impl Table {
    /// Forgets everything; there are `fields` fields from now on.
    pub fn clear(&mut self, fields: usize) {
        self.values.clear();
        self.present.clear();
        self.elements.clear();
        self.own.clear();
        if self.heads.len() < fields {
            self.heads.resize(fields, Head::default());
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.heads.fill(Head::default());
            self.epoch = 1;
        }
    }

    /// Adds a value whose text is the part of the payload, or of the own texts, from `start` to `end`.
    #[inline]
    pub fn push(&mut self, field: Field, element: Element, kind: Kind, (start, end): (usize, usize)) {
        // Front ends take no payload beyond what a u32 can count.
        let (start, len) = (start as u32, (end - start) as u32);
        self.values.push(Value { field, next: NONE, element, start, len, kind });
    }

    /// Adds a value whose text, if it has one, is kept here.
    pub fn push_own(&mut self, field: Field, element: Element, value: Scalar<'_>) {
        let start = self.own.len();
        let kind = match value {
            Scalar::Null => Kind::Null,
            Scalar::Bool(value) => Kind::Bool(value),
            Scalar::Number(text) => {
                self.own.push_str(text);
                Kind::OwnNumber
            }
            Scalar::Text(text) => {
                self.own.push_str(text);
                Kind::OwnText
            }
        };
        self.push(field, element, kind, (start, self.own.len()));
    }

    /// The own texts, to write one into; what was written there is added with [`Table::push`].
    pub fn own(&mut self) -> &mut String {
        &mut self.own
    }

    /// A new element of the array at `array`, which lies in `parent`.
    pub fn element(&mut self, parent: Element, array: Field) -> Element {
        self.elements.push((parent, array));
        self.elements.len() as Element
    }

    /// How much there is now.
    pub fn mark(&self) -> Mark {
        Mark { values: self.values.len(), elements: self.elements.len(), own: self.own.len() }
    }

    /// Forgets what came after `mark`.
    pub fn back_to(&mut self, mark: Mark) {
        self.values.truncate(mark.values);
        self.elements.truncate(mark.elements);
        self.own.truncate(mark.own);
    }

    /// Makes the values findable by their fields.
    pub fn link(&mut self) {
        for (at, value) in self.values.iter_mut().enumerate() {
            let head = &mut self.heads[value.field as usize];
            if head.epoch == self.epoch {
                value.next = head.value;
            } else {
                head.epoch = self.epoch;
                self.present.push(value.field);
            }
            head.value = at as u32;
        }
    }

    /// The fields that have a value, each once.
    pub fn present(&self) -> &[Field] {
        &self.present
    }

    /// Whether the field has a value.
    #[inline]
    pub fn has(&self, field: Field) -> bool {
        self.heads[field as usize].epoch == self.epoch
    }

    /// How many array elements there are.
    pub fn elements(&self) -> usize {
        self.elements.len()
    }

    /// The element that `element` lies in, and the field of the array between them; none for [`OUTSIDE`].
    pub fn around(&self, element: Element) -> Option<(Element, Field)> {
        self.elements.get((element as usize).checked_sub(1)?).copied()
    }
}

/// A table with the payload that its values are parts of.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    table: &'a Table,
    payload: &'a str,
}

impl<'a> View<'a> {
    /// The values of `table`, which was filled from `payload`.
    pub fn new(table: &'a Table, payload: &'a str) -> Self {
        Self { table, payload }
    }

    /// The table.
    pub fn table(&self) -> &'a Table {
        self.table
    }

    /// The values of a field, in no certain order, each with the element that it lies in.
    #[inline]
    pub fn values(&self, field: Field) -> Values<'a> {
        let next = if self.table.has(field) { self.table.heads[field as usize].value } else { NONE };
        Values { view: *self, next }
    }
}

/// The values of one field.
#[derive(Debug)]
pub struct Values<'a> {
    view: View<'a>,
    next: u32,
}

impl<'a> Iterator for Values<'a> {
    type Item = (Element, Scalar<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let value = self.view.table.values.get(self.next as usize)?;
        self.next = value.next;
        let range = value.start as usize..(value.start + value.len) as usize;
        let scalar = match value.kind {
            Kind::Null => Scalar::Null,
            Kind::Bool(value) => Scalar::Bool(value),
            Kind::Number => Scalar::Number(&self.view.payload[range]),
            Kind::Text => Scalar::Text(&self.view.payload[range]),
            Kind::OwnNumber => Scalar::Number(&self.view.table.own[range]),
            Kind::OwnText => Scalar::Text(&self.view.table.own[range]),
        };
        Some((value.element, scalar))
    }
}

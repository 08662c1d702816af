//! Whether a conjunction that was found matches, field by field: the last word of the index.
//!
//! Invariant: the verdict is the plain evaluator's. Where at most one of the fields has values inside arrays, any value
//! of each field will do; where they all lie in elements of one array, one element must do for all; what is more tangled
//! is handed to the evaluator as it is, cut down to these fields.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::evaluate::{self, Fields};
use super::super::paths;
use super::super::value::{Scalar, Test};
use super::table::{Element, OUTSIDE, View};
use super::trie::Field;

/// So many fields can be told apart in a set of bits.
const TOLD_MAX: usize = 64;

/// What the conjunctions of a segment ask for, those of one conjunction one after the other.
#[derive(Debug, Default)]
pub struct Checks {
    checks: Vec<Check>,
    /// The texts that are asked for alone.
    texts: Vec<u8>,
    /// What else is asked for.
    fields: Vec<Arc<evaluate::Field>>,
}

/// What a field must be.
#[derive(Clone, Copy, Debug)]
struct Check {
    field: Field,
    /// Where its text begins, or its place in `fields`.
    start: u32,
    /// The text's length; none for what stands in `fields`.
    len: Option<u32>,
}

/// The checks of one conjunction.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    start: u32,
    len: u32,
}

/// Room to look at arrays in.
#[derive(Debug, Default)]
pub struct Room {
    /// By element: the fields that have a value there, and those that have one that will do.
    elements: Vec<(u64, u64)>,
}

/// What a field has.
struct Seen {
    /// A value that will do, outside all arrays.
    outside: bool,
    /// A value that will do, anywhere.
    anywhere: bool,
    /// A value outside all arrays.
    has_outside: bool,
    /// A value inside an array.
    has_inside: bool,
}

impl Checks {
    /// Adds what a conjunction asks for.
    pub fn add<'p>(&mut self, fields: impl Iterator<Item = (Field, &'p Arc<evaluate::Field>)>) -> Part {
        let start = self.checks.len() as u32;
        for (field, asked) in fields {
            let check = match asked.tests.as_slice() {
                [Test::Text(text)] if !asked.absent => {
                    let start = self.texts.len() as u32;
                    self.texts.extend_from_slice(text.as_bytes());
                    Check { field, start, len: Some(text.len() as u32) }
                }
                _ => {
                    self.fields.push(Arc::clone(asked));
                    Check { field, start: self.fields.len() as u32 - 1, len: None }
                }
            };
            self.checks.push(check);
        }
        Part { start, len: self.checks.len() as u32 - start }
    }

    /// Whether the event matches the conjunction.
    pub fn pass(&self, part: Part, view: View<'_>, room: &mut Room) -> bool {
        let checks = &self.checks[part.start as usize..(part.start + part.len) as usize];
        let (mut inside, mut open) = (0, false);
        for check in checks {
            let seen = self.see(check, view);
            inside += usize::from(seen.has_inside);
            if seen.anywhere || (self.may_be_absent(check) && !seen.has_outside && !seen.has_inside) {
                continue;
            }
            // In the element that others match in, a field may be absent that another element has.
            if !self.may_be_absent(check) || seen.has_outside {
                return false;
            }
            open = true;
        }
        if inside <= 1 { !open } else { self.in_arrays(checks, view, room) }
    }

    fn see(&self, check: &Check, view: View<'_>) -> Seen {
        let mut seen = Seen { outside: false, anywhere: false, has_outside: false, has_inside: false };
        for (element, value) in view.values(check.field) {
            let passes = self.allows(check, value);
            seen.anywhere |= passes;
            match element {
                OUTSIDE => (seen.outside, seen.has_outside) = (seen.outside | passes, true),
                _ => seen.has_inside = true,
            }
        }
        seen
    }

    #[inline]
    fn allows(&self, check: &Check, value: Scalar<'_>) -> bool {
        let start = check.start as usize;
        match (check.len, value) {
            (Some(len), Scalar::Text(text)) => text.as_bytes() == &self.texts[start..start + len as usize],
            (Some(_), _) => false,
            (None, value) => self.fields[start].allows(value),
        }
    }

    fn may_be_absent(&self, check: &Check) -> bool {
        check.len.is_none() && self.fields[check.start as usize].absent
    }

    /// The verdict where several fields have values inside arrays.
    fn in_arrays(&self, checks: &[Check], view: View<'_>, room: &mut Room) -> bool {
        let mut array = None;
        let mut one_array = checks.len() <= TOLD_MAX;
        for (element, _) in checks.iter().flat_map(|check| view.values(check.field)) {
            if let Some(around) = view.table().around(element) {
                one_array &= around.0 == OUTSIDE && *array.get_or_insert(around.1) == around.1;
            }
        }
        if one_array { self.in_one_array(checks, view, room) } else { self.tangled(checks, view) }
    }

    /// The verdict where all values that are inside arrays lie in elements of one that itself lies in none.
    fn in_one_array(&self, checks: &[Check], view: View<'_>, room: &mut Room) -> bool {
        room.elements.clear();
        room.elements.resize(view.table().elements() + 1, (0, 0));
        // The fields that a value outside satisfies, those that must be in the element, and those that it may lack.
        let (mut outside, mut asked, mut lacking) = (0_u64, 0_u64, 0_u64);
        for (at, check) in checks.iter().enumerate() {
            let (bit, mut inside, mut has_outside) = (1 << at, false, false);
            for (element, value) in view.values(check.field) {
                let passes = self.allows(check, value);
                if element == OUTSIDE {
                    (outside, has_outside) = (outside | if passes { bit } else { 0 }, true);
                    continue;
                }
                inside = true;
                let (has, hits) = &mut room.elements[element as usize];
                (*has, *hits) = (*has | bit, *hits | if passes { bit } else { 0 });
            }
            asked |= if inside { bit } else { 0 };
            lacking |= if self.may_be_absent(check) && !has_outside { bit } else { 0 };
        }
        let satisfied = |(has, hits): &(u64, u64)| *hits != 0 && asked & !(outside | hits | (lacking & !has)) == 0;
        asked & !outside == 0 || room.elements.iter().any(satisfied)
    }

    /// The evaluator's verdict.
    fn tangled(&self, checks: &[Check], view: View<'_>) -> bool {
        let mut elements: BTreeMap<Element, paths::Element<'_>> =
            BTreeMap::from([(OUTSIDE, paths::Element::default())]);
        for check in checks {
            for (element, value) in view.values(check.field) {
                let values = &mut elements.entry(element).or_default().values;
                values.entry(check.field as usize).or_default().push(value);
            }
        }
        // An element was numbered after the one that it lies in.
        while let Some((element, below)) = elements.pop_last() {
            match view.table().around(element) {
                Some((around, array)) => elements.entry(around).or_default().put(array as usize, below),
                None => return evaluate::matches(&self.asked(checks), &below),
            }
        }
        false
    }

    fn asked(&self, checks: &[Check]) -> Fields {
        let field = |check: &Check| {
            let start = check.start as usize;
            let text = |len: u32| String::from_utf8_lossy(&self.texts[start..start + len as usize]).into_owned();
            match check.len {
                Some(len) => Arc::new(evaluate::Field { tests: vec![Test::Text(text(len))], absent: false }),
                None => Arc::clone(&self.fields[start]),
            }
        };
        checks.iter().map(|check| (check.field as usize, field(check))).collect()
    }
}

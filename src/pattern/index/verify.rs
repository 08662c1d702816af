//! Whether a conjunction that was found matches, field by field: the last word of the index.
//!
//! Invariant: the verdict is the plain evaluator's. Where at most one of the fields has values inside arrays, any value
//! of each field will do; where they all lie in elements of one array, one element must do for all; what is more tangled
//! is handed to the evaluator as it is, cut down to these fields.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::FixedState;

use super::super::evaluate::{self, Fields};
use super::super::paths;
use super::super::value::{Scalar, Test};
use super::hash::{self, Words};
use super::table::{Element, OUTSIDE, View};
use super::trie::{Field, ROOT};

/// So many fields can be told apart in a set of bits.
const TOLD_MAX: usize = 64;

/// The conjunctions of a segment: whose each is, and what it asks for.
///
/// A conjunction's head and its checks stand one after the other, because what stands elsewhere is far away when there
/// are many.
#[derive(Debug, Default)]
pub struct Checks {
    lines: Vec<Line>,
    /// Those whose a conjunction is besides the first, those of one conjunction one after the other.
    others: Vec<Owner>,
    /// What is asked for that is no short text, nor a short one at the beginning or the end.
    fields: Vec<Arc<evaluate::Field>>,
}

/// Where a conjunction stands.
pub type Conjunction = u32;

/// A pattern that a conjunction belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its number.
    pub id: u32,
    /// Its place in the segment.
    pub member: u32,
}

/// Whose a conjunction is.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The first of those whose it is.
    pub owner: Owner,
    /// Where the others stand.
    others: (u32, u32),
    /// A mark that is set when the conjunction was looked at, or none.
    pub tried: u32,
    /// How many checks follow.
    checks: u32,
}

#[derive(Clone, Copy, Debug)]
enum Line {
    Head(Head),
    Text(Field, Words),
    Prefix(Field, Words),
    Suffix(Field, Words),
    /// A place in `fields`.
    Other(Field, u32),
}

/// Makes [`Checks`].
#[derive(Debug, Default)]
pub struct Builder {
    checks: Checks,
    /// What many ask for stands in one place.
    known: HashMap<Arc<evaluate::Field>, u32, FixedState>,
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

impl Builder {
    /// Adds a conjunction that belongs to these.
    pub fn add(&mut self, owners: &[Owner], asked: &[(Field, &Arc<evaluate::Field>)], tried: u32) -> Conjunction {
        let at = self.checks.lines.len() as u32;
        let [owner, others @ ..] = owners else { return at };
        let start = self.checks.others.len() as u32;
        self.checks.others.extend_from_slice(others);
        let others = (start, self.checks.others.len() as u32);
        self.checks.lines.push(Line::Head(Head { owner: *owner, others, tried, checks: asked.len() as u32 }));
        for (field, asked) in asked {
            let line = short(*field, asked).unwrap_or_else(|| {
                let fields = &mut self.checks.fields;
                let place = *self.known.entry(Arc::clone(asked)).or_insert_with(|| {
                    fields.push(Arc::clone(asked));
                    fields.len() as u32 - 1
                });
                Line::Other(*field, place)
            });
            self.checks.lines.push(line);
        }
        at
    }

    /// The conjunctions that were added.
    pub fn finish(mut self) -> Checks {
        self.checks.lines.shrink_to_fit();
        self.checks.fields.shrink_to_fit();
        self.checks
    }
}

impl Line {
    #[inline]
    fn field(self) -> Field {
        match self {
            Line::Head(_) => ROOT,
            Line::Text(field, _) | Line::Prefix(field, _) | Line::Suffix(field, _) | Line::Other(field, _) => field,
        }
    }
}

impl Checks {
    /// Whose the conjunction is.
    #[inline]
    pub fn head(&self, conjunction: Conjunction) -> Option<Head> {
        match self.lines[conjunction as usize] {
            Line::Head(head) => Some(head),
            _ => None,
        }
    }

    /// Those whose the conjunction is besides the first.
    #[inline]
    pub fn others(&self, head: Head) -> &[Owner] {
        &self.others[head.others.0 as usize..head.others.1 as usize]
    }

    /// Whether the event matches the conjunction.
    pub fn pass(&self, conjunction: Conjunction, head: Head, view: View<'_>, room: &mut Room) -> bool {
        let first = conjunction as usize + 1;
        let checks = &self.lines[first..first + head.checks as usize];
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

    fn see(&self, check: &Line, view: View<'_>) -> Seen {
        let mut seen = Seen { outside: false, anywhere: false, has_outside: false, has_inside: false };
        for (element, value) in view.values(check.field()) {
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
    fn allows(&self, check: &Line, value: Scalar<'_>) -> bool {
        match (*check, value) {
            (Line::Other(_, place), value) => self.fields[place as usize].allows(value),
            (Line::Text(_, words), Scalar::Text(text)) => hash::words(text.as_bytes()) == words,
            (Line::Prefix(_, words), Scalar::Text(text)) => {
                text.as_bytes().get(..words.len()).is_some_and(|start| hash::words(start) == words)
            }
            (Line::Suffix(_, words), Scalar::Text(text)) => {
                let start = text.len().checked_sub(words.len());
                start.is_some_and(|start| hash::words(&text.as_bytes()[start..]) == words)
            }
            _ => false,
        }
    }

    fn may_be_absent(&self, check: &Line) -> bool {
        match check {
            Line::Other(_, place) => self.fields[*place as usize].absent,
            _ => false,
        }
    }

    /// The verdict where several fields have values inside arrays.
    fn in_arrays(&self, checks: &[Line], view: View<'_>, room: &mut Room) -> bool {
        let mut array = None;
        let mut one_array = checks.len() <= TOLD_MAX;
        for (element, _) in checks.iter().flat_map(|check| view.values(check.field())) {
            if let Some(around) = view.table().around(element) {
                one_array &= around.0 == OUTSIDE && *array.get_or_insert(around.1) == around.1;
            }
        }
        if one_array { self.in_one_array(checks, view, room) } else { self.tangled(checks, view) }
    }

    /// The verdict where all values that are inside arrays lie in elements of one that itself lies in none.
    fn in_one_array(&self, checks: &[Line], view: View<'_>, room: &mut Room) -> bool {
        room.elements.clear();
        room.elements.resize(view.table().elements() + 1, (0, 0));
        // The fields that a value outside satisfies, those that must be in the element, and those that it may lack.
        let (mut outside, mut asked, mut lacking) = (0_u64, 0_u64, 0_u64);
        for (at, check) in checks.iter().enumerate() {
            let (bit, mut inside, mut has_outside) = (1 << at, false, false);
            for (element, value) in view.values(check.field()) {
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
    fn tangled(&self, checks: &[Line], view: View<'_>) -> bool {
        let mut elements: BTreeMap<Element, paths::Element<'_>> =
            BTreeMap::from([(OUTSIDE, paths::Element::default())]);
        for check in checks {
            for (element, value) in view.values(check.field()) {
                let values = &mut elements.entry(element).or_default().values;
                values.entry(check.field() as usize).or_default().push(value);
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

    fn asked(&self, checks: &[Line]) -> Fields {
        let field = |check: &Line| match check {
            Line::Head(_) => Arc::default(),
            Line::Text(_, words) => test(Test::Text(words.text())),
            Line::Prefix(_, words) => test(Test::Prefix(words.text())),
            Line::Suffix(_, words) => test(Test::Suffix(words.text())),
            Line::Other(_, place) => Arc::clone(&self.fields[*place as usize]),
        };
        checks.iter().map(|check| (check.field() as usize, field(check))).collect()
    }
}

fn test(test: Test) -> Arc<evaluate::Field> {
    Arc::new(evaluate::Field { tests: vec![test], absent: false })
}

/// The check of a field that is asked to be a short text, or to begin or end with one.
fn short(field: Field, asked: &evaluate::Field) -> Option<Line> {
    let words = |text: &str| (text.len() <= hash::WORDS_MAX).then(|| hash::words(text.as_bytes()));
    match asked.tests.as_slice() {
        _ if asked.absent => None,
        [Test::Text(text)] => Some(Line::Text(field, words(text)?)),
        [Test::Prefix(text)] => Some(Line::Prefix(field, words(text)?)),
        [Test::Suffix(text)] => Some(Line::Suffix(field, words(text)?)),
        _ => None,
    }
}

//! Whether the fields of one alternative match an event together: the plain evaluator.
//!
//! Invariant: fields below one array match in one element of it. An event matches if one element can be chosen in some
//! of its arrays (an element only with the elements that it lies in) so that every wanted field has a matching value
//! outside all arrays or in chosen elements, and every field wanted absent has no value there and none at all in an
//! array of which no element was chosen. It says yes or no; what failed is not its business.

use std::sync::Arc;

use super::paths::{Element, FieldId};
use super::value::{Scalar, Test};

/// Visits allowed for each element of the event's arrays. One is enough for fields that must be present. Where all
/// fields in an array may be absent, each is tried as the one that is not; where keys with dots stand beside nested
/// keys, a field may lie in either of two arrays, and both are tried.
const VISITS_PER_ELEMENT: u64 = 256;

/// Visits allowed whatever the event's size.
const VISITS_BASE: u64 = 4_096;

/// The values that a pattern allows for a field.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Field {
    /// One of these matches,
    pub tests: Vec<Test>,
    /// or the field is absent, where that is allowed.
    pub absent: bool,
}

impl Field {
    /// Whether the value is one that the pattern allows.
    pub fn allows(&self, value: Scalar<'_>) -> bool {
        self.tests.iter().any(|test| test.matches(value))
    }

    /// How many comparisons a value may need.
    pub fn cost(&self) -> u64 {
        self.tests.iter().map(Test::cost).sum::<u64>().max(1)
    }
}

/// One alternative: fields that must match together.
pub type Fields = std::collections::BTreeMap<FieldId, Arc<Field>>;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Present,
    Absent,
    Either,
}

#[derive(Clone, Copy)]
struct Wanted<'p> {
    id: FieldId,
    field: &'p Field,
    mode: Mode,
}

/// Where a wanted field is to be found, and what is then wanted of it there.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In the element itself, outside further arrays.
    Here,
    Array(FieldId, Mode),
    Nowhere,
}

/// A wanted field that no value at hand satisfies, and the places left for it.
struct Open<'p> {
    wanted: Wanted<'p>,
    places: Vec<Place>,
    chosen: usize,
}

impl Open<'_> {
    fn place(&self) -> Place {
        self.places[self.chosen]
    }
}

/// Whether `event`, cut down to the pattern's fields, matches all `fields`.
pub fn matches(fields: &Fields, event: &Element<'_>) -> bool {
    let wanted: Vec<Wanted<'_>> = fields
        .iter()
        .map(|(id, field)| Wanted { id: *id, field, mode: if field.absent { Mode::Either } else { Mode::Present } })
        .collect();
    let visits = VISITS_BASE.saturating_add(count(fields, event).saturating_mul(VISITS_PER_ELEMENT));
    Search { visits }.element(event, &wanted)
}

/// How many elements of arrays, at any depth, hold any of the `fields`.
fn count(fields: &Fields, element: &Element<'_>) -> u64 {
    let holds = |below: &Element<'_>| {
        let inside = |id| below.arrays.values().any(|array| array.fields.contains(id));
        fields.keys().any(|id| below.values.contains_key(id) || inside(id))
    };
    let elements = element.arrays.values().flat_map(|array| &array.elements);
    elements.map(|below| u64::from(holds(below)) + count(fields, below)).sum()
}

struct Search {
    /// Visits left; an event so tangled that they run out does not match.
    visits: u64,
}

impl Search {
    /// Whether all that is wanted can be had in this element, which is chosen, and below it.
    fn element(&mut self, element: &Element<'_>, wanted: &[Wanted<'_>]) -> bool {
        let mut open = Vec::new();
        let all_present = wanted.iter().all(|wanted| wanted.mode == Mode::Present);
        for wanted in wanted {
            let places = places(element, wanted);
            match places.first() {
                None => return false,
                // A value outside further arrays binds no other field, so it is as good as any; except that a choice
                // deeper down can be what makes another field absent.
                Some(Place::Here) if all_present || places.len() == 1 => {}
                Some(_) => open.push(Open { wanted: *wanted, places, chosen: 0 }),
            }
        }
        loop {
            if self.visits == 0 {
                return false;
            }
            self.visits -= 1;
            if self.below(element, &open) {
                return true;
            }
            if !advance(&mut open) {
                return false;
            }
        }
    }

    /// Whether one element can be chosen in each array so that the fields placed there match.
    fn below(&mut self, element: &Element<'_>, open: &[Open<'_>]) -> bool {
        element.arrays.iter().all(|(array, elements)| {
            let here: Vec<Wanted<'_>> = open
                .iter()
                .filter_map(|open| match open.place() {
                    Place::Array(place, mode) if place == *array => Some(Wanted { mode, ..open.wanted }),
                    Place::Nowhere if elements.fields.contains(&open.wanted.id) => {
                        Some(Wanted { mode: Mode::Absent, ..open.wanted })
                    }
                    _ => None,
                })
                .collect();
            here.is_empty() || self.array(&elements.elements, here)
        })
    }

    /// Whether an element can be chosen, which takes a field that is present in it: without one, fields that have a
    /// value anywhere in the array are not absent.
    fn array(&mut self, elements: &[Element<'_>], mut wanted: Vec<Wanted<'_>>) -> bool {
        let mut any = |wanted: &[Wanted<'_>]| elements.iter().any(|element| self.element(element, wanted));
        if wanted.iter().any(|wanted| wanted.mode == Mode::Present) {
            return any(&wanted);
        }
        let either: Vec<usize> = (0..wanted.len()).filter(|index| wanted[*index].mode == Mode::Either).collect();
        either.into_iter().any(|index| {
            wanted[index].mode = Mode::Present;
            let found = any(&wanted);
            wanted[index].mode = Mode::Either;
            found
        })
    }
}

/// The places left for a field, the one that binds least first.
fn places(element: &Element<'_>, wanted: &Wanted<'_>) -> Vec<Place> {
    let values = element.values.get(&wanted.id).map_or(&[][..], Vec::as_slice);
    let absent = (wanted.mode != Mode::Present && values.is_empty()).then_some(Place::Nowhere);
    if wanted.mode == Mode::Absent {
        return absent.into_iter().collect();
    }
    let arrays = element.arrays.iter().filter(|(_, elements)| elements.fields.contains(&wanted.id));
    let arrays: Vec<FieldId> = arrays.map(|(array, _)| *array).collect();
    match (arrays.as_slice(), absent) {
        // Whether it is present or absent is decided in the one array that it may be in.
        ([array], Some(_)) => vec![Place::Array(*array, Mode::Either)],
        (arrays, absent) => {
            let here = values.iter().any(|value| wanted.field.allows(*value));
            let present = arrays.iter().map(|array| Place::Array(*array, Mode::Present));
            here.then_some(Place::Here).into_iter().chain(present).chain(absent).collect()
        }
    }
}

/// The next combination of places, counting like an odometer; `false` after the last.
fn advance(open: &mut [Open<'_>]) -> bool {
    for wheel in open {
        wheel.chosen += 1;
        if wheel.chosen < wheel.places.len() {
            return true;
        }
        wheel.chosen = 0;
    }
    false
}

//! Whether the fields of one alternative match an event together: the plain evaluator.
//!
//! Invariant: fields below one array match in one element of it. An event matches if one element can be chosen in some of
//! its arrays (an element only with the elements that it lies in) so that every wanted field has a matching value
//! outside all arrays or in chosen elements, and every field wanted absent has no value there and none at all in an array of
//! which no element was chosen. It says yes or no; what failed is not its business.

use std::sync::Arc;

use super::paths::{Element, FieldId};
use super::value::Test;

/// Visits allowed for each element of the event's arrays. One is enough unless a field may lie in more than one array
/// (keys with dots beside nested keys) or may be absent from one, and then each such doubt doubles the visits.
const VISITS_PER_ELEMENT: u64 = 64;

/// Visits allowed whatever the event's size.
const VISITS_BASE: u64 = 4_096;

/// The values that a pattern allows for a field.
#[derive(Debug, Default)]
pub struct Field {
    /// One of these matches,
    pub tests: Vec<Test>,
    /// or the field is absent, where that is allowed.
    pub absent: bool,
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

/// Where a wanted field is to be found.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Array(FieldId),
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
    let visits = VISITS_BASE.saturating_add(event.count().saturating_mul(VISITS_PER_ELEMENT));
    Search { visits }.element(event, &wanted)
}

struct Search {
    /// Visits left; an event so tangled that they run out does not match.
    visits: u64,
}

impl Search {
    /// Whether all that is wanted can be had in this element, which is chosen, and below it.
    fn element(&mut self, element: &Element<'_>, wanted: &[Wanted<'_>]) -> bool {
        let mut open = Vec::new();
        for wanted in wanted {
            // A value outside further arrays binds no other field, so it is always as good as any.
            if has_value(element, wanted) {
                continue;
            }
            let places = places(element, wanted);
            if places.is_empty() {
                return false;
            }
            open.push(Open { wanted: *wanted, places, chosen: 0 });
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
                    Place::Array(place) if place == *array => Some(Wanted { mode: Mode::Present, ..open.wanted }),
                    Place::Nowhere if elements.fields.contains(&open.wanted.id) => {
                        Some(Wanted { mode: Mode::Absent, ..open.wanted })
                    }
                    _ => None,
                })
                .collect();
            if here.iter().all(|wanted| wanted.mode == Mode::Absent) {
                return here.is_empty();
            }
            elements.elements.iter().any(|element| self.element(element, &here))
        })
    }
}

fn has_value(element: &Element<'_>, wanted: &Wanted<'_>) -> bool {
    let values = element.values.get(&wanted.id).map_or(&[][..], Vec::as_slice);
    wanted.mode != Mode::Absent && values.iter().any(|value| wanted.field.tests.iter().any(|test| test.matches(value)))
}

fn places(element: &Element<'_>, wanted: &Wanted<'_>) -> Vec<Place> {
    let mut places = Vec::new();
    if wanted.mode != Mode::Absent {
        let arrays = element.arrays.iter().filter(|(_, elements)| elements.fields.contains(&wanted.id));
        places.extend(arrays.map(|(array, _)| Place::Array(*array)));
    }
    if wanted.mode != Mode::Present && !element.values.contains_key(&wanted.id) {
        places.push(Place::Nowhere);
    }
    places
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

//! Many patterns asked at once: which of them an event can match at all.
//!
//! Invariant: a pattern that [`Anchors::find`] does not name does not match the event. Each of its alternatives wants a
//! field to be one of a few texts, its anchor; it is named if the event holds such a text at that field, wherever in
//! arrays. Whether it matches is for the evaluator to say.

use std::collections::{BTreeSet, HashMap};

use super::evaluate::{Field, Fields};
use super::paths::{Element, FieldId, Paths, ROOT};
use super::value::Test;
use super::{Json, Pattern};

/// Patterns by the texts of their anchors. They go by the number that they were given.
#[derive(Debug, Default)]
pub struct Anchors {
    paths: Paths,
    patterns: HashMap<FieldId, HashMap<String, Vec<usize>>>,
}

/// A field of which an alternative wants one of a few texts.
struct Anchor<'p> {
    path: String,
    texts: Vec<&'p str>,
}

/// The texts that an alternative wants in a field, if it wants nothing else there.
fn texts(field: &Field) -> Option<Vec<&str>> {
    if field.absent { None } else { field.tests.iter().map(Test::as_text).collect() }
}

fn anchors<'p>(pattern: &'p Pattern, fields: &'p Fields, known: &str) -> Vec<Anchor<'p>> {
    let fields = fields.iter().filter_map(|(id, field)| Some((*id, texts(field)?)));
    let anchors = fields.filter_map(|(id, texts)| Some(Anchor { path: pattern.paths.path(id)?, texts }));
    anchors.filter(|anchor| anchor.path != known).collect()
}

impl Anchors {
    /// The anchors of `patterns`, and the numbers of those that have an alternative without one.
    ///
    /// Of several fields, an alternative has the one that the fewest patterns want to be the same; never the field
    /// `known` at the top, which was looked at before.
    pub fn new<'p>(patterns: impl Iterator<Item = (usize, &'p Pattern)>, known: &str) -> (Self, Vec<usize>) {
        let anchors = |pattern: &'p Pattern| pattern.alternatives.iter().map(|f| anchors(pattern, f, known)).collect();
        let patterns: Vec<(usize, Vec<Vec<Anchor<'p>>>)> = patterns.map(|(number, p)| (number, anchors(p))).collect();
        let mut wanted: HashMap<(&str, &str), usize> = HashMap::new();
        for anchor in patterns.iter().flat_map(|(_, alternatives)| alternatives.iter().flatten()) {
            anchor.texts.iter().for_each(|text| *wanted.entry((&anchor.path, text)).or_default() += 1);
        }
        let shared = |anchor: &&Anchor<'_>| -> usize {
            anchor.texts.iter().filter_map(|text| wanted.get(&(anchor.path.as_str(), *text))).sum()
        };
        let (mut found, mut without) = (Self::default(), Vec::new());
        for (number, alternatives) in &patterns {
            let chosen: Option<Vec<&Anchor<'_>>> =
                alternatives.iter().map(|anchors| anchors.iter().min_by_key(shared)).collect();
            match chosen {
                Some(chosen) => chosen.into_iter().for_each(|anchor| found.add(anchor, *number)),
                None => without.push(*number),
            }
        }
        (found, without)
    }

    fn add(&mut self, anchor: &Anchor<'_>, number: usize) {
        let field = self.paths.add(ROOT, &anchor.path);
        for text in &anchor.texts {
            self.patterns.entry(field).or_default().entry((*text).to_owned()).or_default().push(number);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The numbers of the patterns that `event` can match, each once.
    pub fn find(&self, event: &Json) -> BTreeSet<usize> {
        let mut texts = BTreeSet::new();
        collect(&self.paths.project(event), &mut texts);
        let numbers = texts.into_iter().filter_map(|(field, text)| self.patterns.get(&field)?.get(text));
        numbers.flatten().copied().collect()
    }
}

/// The texts of `element`, each once for a field.
fn collect<'e>(element: &Element<'e>, texts: &mut BTreeSet<(FieldId, &'e str)>) {
    for (field, values) in &element.values {
        texts.extend(values.iter().filter_map(|value| value.as_str()).map(|text| (*field, text)));
    }
    for array in element.arrays.values() {
        array.elements.iter().for_each(|below| collect(below, texts));
    }
}

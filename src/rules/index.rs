//! Which rules an event can match at all: first by its type, then by texts in it.
//!
//! Invariant: a rule that is no candidate does not match. The event is not parsed before a rule asks for more than its
//! type.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::pattern::{Anchors, Json};

use super::CompiledRule;

/// The field of an event that most rules name.
const TYPE: &str = "type";

type Rules = [Arc<CompiledRule>];

/// Rules by their place in the set.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Those that list the types that they want, by type.
    by_type: HashMap<String, Group>,
    /// The others.
    of_any_type: Group,
}

#[derive(Debug, Default)]
struct Group {
    all: Vec<usize>,
    /// What those that want a text in another field want.
    anchors: Anchors,
    /// The others.
    without: Vec<usize>,
}

/// Whether the type says all about whether an event matches.
pub(super) fn is_told_by_type(rule: &CompiledRule) -> bool {
    rule.pattern.is_only_about(TYPE)
}

impl Index {
    pub(super) fn new(rules: &Rules) -> Self {
        let (mut by_type, mut others): (HashMap<&str, Vec<usize>>, _) = (HashMap::new(), Vec::new());
        for (place, rule) in rules.iter().enumerate() {
            match rule.pattern.texts(TYPE) {
                Some(types) => types.into_iter().for_each(|ty| by_type.entry(ty).or_default().push(place)),
                None => others.push(place),
            }
        }
        let groups = by_type.into_iter().map(|(ty, places)| (ty.to_owned(), Group::new(rules, places)));
        Self { by_type: groups.collect(), of_any_type: Group::new(rules, others) }
    }

    /// Places of the rules that can match an event of `ty`, as far as the type tells.
    pub(super) fn of_type(&self, rules: &Rules, ty: &str) -> impl Iterator<Item = usize> {
        let listed = self.by_type.get(ty).into_iter().flat_map(|group| &group.all);
        let others = self.of_any_type.all.iter().filter(move |place| rules[**place].pattern.allows_text(TYPE, ty));
        listed.chain(others).copied()
    }

    /// Places of the rules that can match an event of `ty`, in their order.
    pub(super) fn candidates(
        &self,
        rules: &Rules,
        ty: &str,
        document: &LazyCell<Json, impl FnOnce() -> Json>,
    ) -> BTreeSet<usize> {
        let others = self.of_any_type.candidates(document);
        let allowed = others.filter(|place| rules[*place].pattern.allows_text(TYPE, ty));
        let listed = self.by_type.get(ty).into_iter().flat_map(|group| group.candidates(document));
        listed.chain(allowed).collect()
    }
}

impl Group {
    fn new(rules: &Rules, all: Vec<usize>) -> Self {
        let (told, asking): (Vec<usize>, Vec<usize>) = all.iter().partition(|place| is_told_by_type(&rules[**place]));
        let (anchors, mut without) = Anchors::new(asking.iter().map(|place| (*place, &rules[*place].pattern)), TYPE);
        without.extend(told);
        Self { all, anchors, without }
    }

    fn candidates(&self, document: &LazyCell<Json, impl FnOnce() -> Json>) -> impl Iterator<Item = usize> {
        let found = if self.anchors.is_empty() { BTreeSet::new() } else { self.anchors.find(document) };
        found.into_iter().chain(self.without.iter().copied())
    }
}

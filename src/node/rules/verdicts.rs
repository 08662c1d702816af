//! What the rows of the rules say of them, and what they ought to.
//!
//! Invariant: what is known here is what was read or written last; a verdict that could not be written is still to be
//! written by the next load. Shared by its copies.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rules::RuleSet;
use crate::store::control::RuleRow;
use crate::store::rule_rows::Verdict;

/// The verdicts by rule.
#[derive(Clone, Default)]
pub(super) struct Verdicts {
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    rows: HashMap<String, Verdict>,
    /// Rules that changed since a verdict on them was written, or found to be written already.
    open: BTreeSet<String>,
    /// Rules whose rows have an error.
    wrong: BTreeSet<String>,
}

/// Verdicts that are not in the rows.
pub(super) struct Differing {
    pub(super) verdicts: Vec<(String, Verdict)>,
    /// The rules that were open when they were found.
    open: BTreeSet<String>,
}

impl Known {
    fn note(&mut self, name: &str, verdict: Verdict) {
        match verdict.error {
            Some(_) => self.wrong.insert(name.to_owned()),
            None => self.wrong.remove(name),
        };
        self.rows.insert(name.to_owned(), verdict);
    }
}

impl Verdicts {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn knows(&self, name: &str) -> bool {
        self.known().rows.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.known().rows.len()
    }

    /// The rules that are not among `names`.
    pub(super) fn gone(&self, names: &HashSet<String>) -> Vec<String> {
        self.known().rows.keys().filter(|name| !names.contains(*name)).cloned().collect()
    }

    /// Takes in rows that were read, and forgets rules that are gone.
    pub(super) fn read(&self, rows: &[RuleRow], gone: &[String]) {
        let mut known = self.known();
        for name in gone {
            known.rows.remove(name);
            known.open.remove(name);
            known.wrong.remove(name);
        }
        for row in rows {
            known.note(&row.rule.name, Verdict { error: row.error.clone(), cost: row.cost });
            known.open.insert(row.rule.name.clone());
        }
    }

    /// The verdicts that are not in the rows: `errors` are those of all rules that have one.
    pub(super) fn differing(&self, set: &RuleSet, errors: Vec<(String, String)>) -> Differing {
        let known = self.known();
        let errors: HashMap<String, String> = errors.into_iter().collect();
        let names: BTreeSet<&String> = known.open.iter().chain(&known.wrong).chain(errors.keys()).collect();
        let differing = names.into_iter().filter_map(|name| {
            let before = known.rows.get(name)?;
            let error = errors.get(name).map(String::as_str);
            let mut verdict = Verdict::new(error, set.rule(name).map(|rule| rule.cost()));
            // A disabled rule is not in the set; what was said of it still holds.
            if verdict == Verdict::default() {
                verdict.cost = before.cost;
            }
            (verdict != *before).then(|| (name.clone(), verdict))
        });
        Differing { verdicts: differing.collect(), open: known.open.clone() }
    }

    /// Remembers that these were written and that nothing else was to be.
    pub(super) fn written(&self, differing: Differing) {
        let mut known = self.known();
        known.open.retain(|name| !differing.open.contains(name));
        for (name, verdict) in differing.verdicts {
            if known.rows.contains_key(&name) {
                known.note(&name, verdict);
            }
        }
    }
}

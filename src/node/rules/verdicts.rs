//! What the rows of the rules say of them, and what they ought to.
//!
//! Invariant: what is known here is what was read or written last; a verdict that could not be written is still to be
//! written by the next load. Shared by its copies.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rules::RuleSet;
use crate::store::control::RuleRow;
use crate::store::rule_rows::Verdict;

/// The verdicts by rule.
#[derive(Clone, Default)]
pub(super) struct Verdicts {
    known: Arc<Mutex<Known>>,
    /// Held while verdicts are written: one of an older set must not come after one of a newer.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Known {
    rows: HashMap<String, Verdict>,
    /// Rules that changed since a verdict on them was written, or found to be written already, and the version that they
    /// were read with.
    open: BTreeMap<String, i64>,
    /// Rules whose rows have an error.
    wrong: BTreeSet<String>,
    /// The errors that the log has.
    logged: HashMap<String, String>,
}

/// Verdicts that are not in the rows.
pub(super) struct Differing {
    pub(super) verdicts: Vec<(String, Verdict)>,
    /// The version of the rules that they are on.
    version: i64,
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

    /// The turn to write verdicts.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
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

    /// Takes in rows that were read with `version`, and forgets rules that are gone.
    pub(super) fn read(&self, version: i64, rows: &[RuleRow], gone: &[String]) {
        let mut known = self.known();
        for name in gone {
            known.rows.remove(name);
            known.open.remove(name);
            known.wrong.remove(name);
        }
        for row in rows {
            known.note(&row.rule.name, Verdict { error: row.error.clone(), cost: row.cost });
            known.open.insert(row.rule.name.clone(), version);
        }
    }

    /// Those of `errors`, which are all that there are, that the log does not have yet, in these words.
    pub(super) fn unlogged<'e>(&self, errors: &'e [(String, String)]) -> Vec<&'e (String, String)> {
        let mut known = self.known();
        let new = errors.iter().filter(|(name, error)| known.logged.get(name) != Some(error)).collect();
        known.logged = errors.iter().cloned().collect();
        new
    }

    /// The verdicts that are not in the rows: `errors` are those of all rules that have one.
    pub(super) fn differing(&self, set: &RuleSet, errors: Vec<(String, String)>) -> Differing {
        let known = self.known();
        let errors: HashMap<String, String> = errors.into_iter().collect();
        let names: BTreeSet<&String> = known.open.keys().chain(&known.wrong).chain(errors.keys()).collect();
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
        Differing { verdicts: differing.collect(), version: set.version }
    }

    /// Remembers that these were written and that nothing else was to be.
    pub(super) fn written(&self, differing: Differing) {
        let mut known = self.known();
        // What was read since has its verdict still to come.
        known.open.retain(|_, version| *version > differing.version);
        for (name, verdict) in differing.verdicts {
            if known.rows.contains_key(&name) {
                known.note(&name, verdict);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_logged_once_and_again_when_it_is_another() {
        let verdicts = Verdicts::default();
        let errors = |of: &[(&str, &str)]| of.iter().map(|(n, e)| (n.to_string(), e.to_string())).collect::<Vec<_>>();
        let names = |errors: &[(String, String)]| {
            verdicts.unlogged(errors).iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&errors(&[("a", "x"), ("b", "x")])), ["a", "b"]);
        assert!(names(&errors(&[("a", "x"), ("b", "x")])).is_empty());
        assert_eq!(names(&errors(&[("a", "y"), ("b", "x")])), ["a"]);
        assert!(names(&errors(&[("a", "y")])).is_empty());
        assert_eq!(names(&errors(&[("a", "y"), ("b", "x")])), ["b"], "it was mended, and is wrong again");
    }
}

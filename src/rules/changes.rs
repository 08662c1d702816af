//! How a set comes to be: from all rules at once, or from another set and what changed.
//!
//! Invariant: a set that was made from another one by changes plans what one made of all rules at once does. A change of
//! one rule costs that rule, not the set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::thread;

use crate::pattern::{Change, Index, Pattern};

use super::{CompiledRule, Rule, RuleError, RuleSet, Target};

/// Rules that one thread compiles at least: below that, starting another costs more than it saves.
const BATCH_MIN: usize = 512;

/// What changed since a set was made.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Rules that are new or different now.
    pub rules: Vec<Rule>,
    /// Names of rules that are gone.
    pub gone: Vec<String>,
}

type Compiled = Vec<(Rule, Result<CompiledRule, RuleError>)>;

/// Compiles `rules`, on several threads if there are many; those of `known` keep their patterns.
fn compile(rules: Vec<Rule>, current: &HashMap<String, u32>, known: &RuleSet) -> Compiled {
    let one = |rule: Rule| {
        let same = known.rule(&rule.name).filter(|before| before.rule.pattern == rule.pattern);
        let pattern = same.map(|before| Arc::clone(&before.pattern));
        let compiled = CompiledRule::compile_with(rule.clone(), pattern, |f| current.get(f).copied());
        (rule, compiled)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let batch = rules.len().div_ceil(threads).max(BATCH_MIN);
    if rules.len() <= batch {
        return rules.into_iter().map(one).collect();
    }
    let mut batches = Vec::new();
    let mut rules = rules.into_iter().peekable();
    while rules.peek().is_some() {
        batches.push(rules.by_ref().take(batch).collect::<Vec<_>>());
    }
    thread::scope(|scope| {
        let one = &one;
        let work = batches.into_iter().map(|batch| scope.spawn(move || batch.into_iter().map(one).collect::<Vec<_>>()));
        let work: Vec<_> = work.collect();
        work.into_iter().flat_map(|work| work.join().expect("compiling a rule does not panic")).collect()
    })
}

impl RuleSet {
    /// Compiles the enabled ones of `rules`. Gives the set and every rule that was left out, with its error.
    #[must_use]
    pub fn compile(version: i64, rules: Vec<Rule>, current: &HashMap<String, u32>) -> (Self, Vec<(String, RuleError)>) {
        let mut set = Self { version, ..Self::default() };
        let compiled = compile(rules, current, &set);
        let (patterns, refused) = set.put_all(compiled);
        let patterns = patterns.into_iter().filter_map(|(number, pattern)| Some((number, pattern?)));
        set.index = Index::new(patterns);
        (set, refused)
    }

    /// The set with `changes`, and with the versions of functions that are current now. Gives also every changed rule
    /// that was left out, with its error.
    #[must_use]
    pub fn with(
        &self,
        version: i64,
        changes: Changes,
        current: &HashMap<String, u32>,
    ) -> (Self, Vec<(String, RuleError)>) {
        let mut set = Self { version, ..self.clone() };
        let mut rules = changes.rules;
        let changed: HashSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        let moved = self.rules().filter(|rule| has_moved(rule, current) && !changed.contains(rule.rule.name.as_str()));
        let moved: Vec<Rule> = moved.map(|rule| rule.rule.clone()).collect();
        rules.extend(moved);
        let mut patterns: BTreeMap<u32, Option<Arc<Pattern>>> =
            changes.gone.iter().filter_map(|name| set.take(name)).collect();
        let (put, refused) = set.put_all(compile(rules, current, self));
        patterns.extend(put);
        let same = |number: u32, pattern: &mut Option<Arc<Pattern>>| match (self.index.get(number), pattern) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        patterns.retain(|number, pattern| !same(*number, pattern));
        set.index = self.index.with(patterns);
        (set, refused)
    }

    fn put_all(&mut self, compiled: Compiled) -> (Vec<Change>, Vec<(String, RuleError)>) {
        let (mut patterns, mut refused) = (Vec::with_capacity(compiled.len()), Vec::new());
        for (row, compiled) in compiled {
            patterns.extend(self.take(&row.name));
            match compiled {
                Ok(rule) if row.enabled => patterns.push(self.put(Arc::new(rule))),
                Ok(_) => {}
                Err(error) => refused.push((row.name, error)),
            }
        }
        (patterns, refused)
    }

    fn put(&mut self, rule: Arc<CompiledRule>) -> Change {
        self.listeners.put(&rule);
        let pattern = Arc::clone(&rule.pattern);
        (self.rules.put(rule), Some(pattern))
    }

    fn take(&mut self, name: &str) -> Option<Change> {
        let (number, rule) = self.rules.take(name)?;
        self.listeners.take(&rule);
        Some((number, None))
    }

    /// Whether looking events up takes longer than it would in [`RuleSet::merged`].
    #[must_use]
    pub fn wants_merge(&self) -> bool {
        self.index.wants_merge()
    }

    /// The same set, quicker to look up in. It takes time in proportion to the set.
    #[must_use]
    pub fn merged(&self) -> Self {
        Self { index: self.index.merged(), ..self.clone() }
    }
}

/// Whether the rule runs another version of its function now than when it was compiled, or none.
fn has_moved(rule: &CompiledRule, current: &HashMap<String, u32>) -> bool {
    match &rule.rule.target {
        Target::Run { function, version: None } => current.get(function).copied() != rule.version,
        _ => false,
    }
}

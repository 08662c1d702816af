//! How a set comes to be: from all rules at once, or from another set and what changed.
//!
//! Invariant: a set that was made from another one by changes plans what one made of all rules at once does. A change of
//! one rule costs that rule, not the set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::thread;

use crate::pattern::{Change, Crowded, EVENT_COST_MAX, Index, Pattern};

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
        Self::default().with(version, Changes { rules, gone: Vec::new() }, current)
    }

    /// The set with `changes`, and with the versions of functions that are current now. Gives also every rule that is
    /// left out, with its error.
    #[must_use]
    pub fn with(
        &self,
        version: i64,
        changes: Changes,
        current: &HashMap<String, u32>,
    ) -> (Self, Vec<(String, RuleError)>) {
        let mut set = Self { version, left_out: Arc::default(), ..self.clone() };
        let mut patterns: BTreeMap<u32, Option<Arc<Pattern>>> =
            changes.gone.iter().filter_map(|name| set.take(name)).collect();
        let (put, mut refused) = set.put_all(compile(self.to_compile(changes, current), current, self));
        patterns.extend(put);
        let same = |number: u32, pattern: &mut Option<Arc<Pattern>>| match (self.index.get(number), pattern) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        patterns.retain(|number, pattern| !same(*number, pattern));
        let late: Vec<u32> = if self.is_empty() { Vec::new() } else { patterns.keys().copied().collect() };
        set.index = match self.is_empty() {
            true => Index::new(patterns.into_iter().filter_map(|(number, pattern)| Some((number, pattern?)))),
            false => self.index.with(patterns),
        };
        refused.extend(set.take_crowded(&late));
        set.left_out = Arc::new(refused.iter().map(|(rule, _)| rule.clone()).collect());
        (set, refused.into_iter().map(|(rule, error)| (rule.name, error)).collect())
    }

    /// The rules of `changes`, those whose function's version moved, and those that were left out before.
    fn to_compile(&self, changes: Changes, current: &HashMap<String, u32>) -> Vec<Rule> {
        let names = changes.rules.iter().map(|rule| &rule.name).chain(&changes.gone);
        let changed: HashSet<String> = names.cloned().collect();
        let moved = self.rules().map(|rule| (&rule.rule, has_moved(rule, current)));
        let again = moved.chain(self.left_out.iter().map(|rule| (rule, true)));
        let again = again.filter(|(rule, again)| *again && !changed.contains(&rule.name));
        let again: Vec<Rule> = again.map(|(rule, _)| rule.clone()).collect();
        // Those that were left out come last: the others were there before them.
        changes.rules.into_iter().chain(again).collect()
    }

    /// Takes out the rules with which an event might need too many comparisons, the `late` ones first.
    fn take_crowded(&mut self, late: &[u32]) -> Vec<(Rule, RuleError)> {
        if self.index.load() <= EVENT_COST_MAX {
            return Vec::new();
        }
        let crowded = self.index.crowded(EVENT_COST_MAX, late);
        let mut refused = Vec::with_capacity(crowded.len());
        for crowded in crowded {
            let Some(rule) = self.rules.get(crowded.id).map(|rule| rule.rule.clone()) else { continue };
            self.take(&rule.name);
            self.index = self.index.with([(crowded.id, None)]);
            refused.push((rule, RuleError { field: "pattern", message: crowded_message(&crowded) }));
        }
        refused
    }

    fn put_all(&mut self, compiled: Compiled) -> (Vec<Change>, Vec<(Rule, RuleError)>) {
        let (mut patterns, mut refused) = (Vec::with_capacity(compiled.len()), Vec::new());
        for (row, compiled) in compiled {
            patterns.extend(self.take(&row.name));
            match compiled {
                Ok(rule) if row.enabled => patterns.push(self.put(Arc::new(rule))),
                Ok(_) => {}
                Err(error) => refused.push((row, error)),
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

fn crowded_message(crowded: &Crowded) -> String {
    let others = match crowded.fields.as_slice() {
        [] => "every event is compared with".to_owned(),
        fields => format!("ask for the same of {}", fields.join(", ")),
    };
    format!(
        "there is no room among the other rules: those that {others} take {} comparisons, and an event may need \
         {EVENT_COST_MAX} in all; ask also for something that fewer events have",
        crowded.here
    )
}

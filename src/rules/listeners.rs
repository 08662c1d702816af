//! Which types of events any rule can want, so that others need not be looked at.
//!
//! Invariant: a type that is not listened to is wanted by no rule. What a rule wants is taken out as it was put in.

use std::sync::Arc;

use super::CompiledRule;
use super::shards::Shards;

/// The field of an event that most rules name.
const TYPE: &str = "type";

/// How many rules there are of each trigger, and of all triggers.
type Counts = Vec<(Option<String>, u32)>;

/// The types.
#[derive(Clone, Debug, Default)]
pub(super) struct Listeners {
    /// Rules that list their types, by type.
    listed: Shards<Counts>,
    /// Rules that say nothing of the type.
    any: Counts,
    /// Rules that say something else of it.
    others: Arc<Vec<Arc<CompiledRule>>>,
}

fn count(counts: &mut Counts, trigger: Option<&String>, by: i32) {
    match counts.iter().position(|(known, _)| known.as_ref() == trigger) {
        Some(at) => {
            counts[at].1 = counts[at].1.saturating_add_signed(by);
            counts.retain(|(_, rules)| *rules > 0);
        }
        None if by > 0 => counts.push((trigger.cloned(), by.unsigned_abs())),
        None => {}
    }
}

fn listens(counts: &Counts, trigger: &str) -> bool {
    counts.iter().any(|(of, _)| of.as_deref().is_none_or(|of| of == trigger))
}

impl Listeners {
    pub(super) fn put(&mut self, rule: &Arc<CompiledRule>) {
        self.change(rule, 1);
    }

    pub(super) fn take(&mut self, rule: &Arc<CompiledRule>) {
        self.change(rule, -1);
    }

    fn change(&mut self, rule: &Arc<CompiledRule>, by: i32) {
        let trigger = rule.rule.trigger.as_ref();
        if let Some(types) = rule.pattern.texts(TYPE) {
            for ty in types {
                let mut counts = self.listed.get(ty).cloned().unwrap_or_default();
                count(&mut counts, trigger, by);
                match counts.is_empty() {
                    true => drop(self.listed.remove(ty)),
                    false => self.listed.insert(ty, counts),
                }
            }
        } else if rule.pattern.allows_any_text(TYPE) {
            count(&mut self.any, trigger, by);
        } else {
            let others = Arc::make_mut(&mut self.others);
            match by > 0 {
                true => others.push(Arc::clone(rule)),
                false => others.retain(|other| !Arc::ptr_eq(other, rule)),
            }
        }
    }

    /// Whether any rule can match an event of `ty` of `trigger`.
    pub(super) fn listen(&self, trigger: &str, ty: &str) -> bool {
        let others = || self.others.iter().any(|rule| rule.is_of(trigger) && rule.pattern.allows_text(TYPE, ty));
        listens(&self.any, trigger) || self.listed.get(ty).is_some_and(|counts| listens(counts, trigger)) || others()
    }
}

//! Rates: how many deliveries of a rule may start in a second.
//!
//! Invariant: a delivery above the rate waits, it is never dropped; while it waits it holds its credit, so that the
//! source is read no faster than the rate lets through.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::rules::{Rate, RuleSet};

type Limiter = DefaultKeyedRateLimiter<String>;

/// The rates of all rules.
#[derive(Debug, Default)]
pub(super) struct Rates {
    limiters: Mutex<HashMap<String, (u32, Arc<Limiter>)>>,
}

impl Rates {
    /// Waits until a delivery of `rule` may start.
    pub(super) async fn wait(&self, rule: &str, rate: &Rate, key: Option<&str>) {
        let Some(limiter) = self.limiter(rule, rate.per_second) else { return };
        limiter.until_key_ready(&key.unwrap_or_default().to_owned()).await;
    }

    /// Forgets rules that `rules` does not hold, and keys that have their full rate again.
    pub(super) fn keep(&self, rules: &RuleSet) {
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.retain(|name, (_, limiter)| {
            limiter.retain_recent();
            rules.rule(name).is_some_and(|r| r.rule.rate.is_some())
        });
    }

    fn limiter(&self, rule: &str, per_second: u32) -> Option<Arc<Limiter>> {
        let per_second = NonZeroU32::new(per_second)?;
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        match limiters.get(rule) {
            Some((rate, limiter)) if *rate == per_second.get() => Some(Arc::clone(limiter)),
            _ => {
                let limiter = Arc::new(RateLimiter::keyed(Quota::per_second(per_second)));
                limiters.insert(rule.to_owned(), (per_second.get(), Arc::clone(&limiter)));
                Some(limiter)
            }
        }
    }
}

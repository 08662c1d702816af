//! When to try again: full jitter under an exponential ceiling. No clock and no randomness of its own.
//!
//! Invariant: a delay is never above `cap`. The formula is "full jitter" of AWS's architecture blog, "Exponential
//! Backoff And Jitter" (2015): `random(0, min(cap, base * 2^n))`.

use std::time::Duration;

/// How often and how long a delivery is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the inline ones included; at least 1.
    pub max_attempts: u32,
    /// Ceiling of the first delay.
    pub base: Duration,
    /// Highest ceiling.
    pub cap: Duration,
    /// From the first attempt to the last one.
    pub max_age: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 12,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(600),
            max_age: Duration::from_secs(24 * 3600),
        }
    }
}

impl RetryPolicy {
    /// The delay before the try that follows `failed` failed ones (1 or more); `jitter` is uniform in 0.0 to 1.0.
    #[must_use]
    pub fn delay(&self, failed: u32, jitter: f64) -> Duration {
        let exponent = failed.saturating_sub(1).min(31);
        let ceiling = self.base.saturating_mul(1 << exponent).min(self.cap);
        ceiling.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Whether another try is allowed after `failed` failed ones, `age` after the first.
    #[must_use]
    pub fn allows(&self, failed: u32, age: Duration) -> bool {
        failed < self.max_attempts && age < self.max_age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let policy = RetryPolicy { cap: Duration::from_secs(10), ..RetryPolicy::default() };
        let table = [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 10), (4_000_000_000, 10)];
        for (failed, seconds) in table {
            assert_eq!(policy.delay(failed, 1.0), Duration::from_secs(seconds), "after {failed} failures");
            assert_eq!(policy.delay(failed, 0.0), Duration::ZERO);
        }
    }

    #[test]
    fn tries_end_by_count_or_by_age() {
        let policy = RetryPolicy { max_attempts: 3, max_age: Duration::from_secs(60), ..RetryPolicy::default() };
        assert!(policy.allows(2, Duration::from_secs(59)));
        assert!(!policy.allows(3, Duration::from_secs(1)));
        assert!(!policy.allows(1, Duration::from_secs(60)));
    }
}

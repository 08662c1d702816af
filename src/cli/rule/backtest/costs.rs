//! What the rule's function would have taken, by what its runs took before.
//!
//! Invariant: an average of runs of the version that would run; where that has none, of all versions, and then it says so.

use serde::Serialize;

use crate::rules::Target;
use crate::store::control::ControlPlane;
use crate::store::usage::FunctionRuns;
use crate::store::{Store, StoreError};

use super::subject::Subject;

/// An estimate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    /// The function.
    pub(super) function: String,
    /// The version whose runs were averaged; none for all of them.
    pub(super) version: Option<u32>,
    /// How many runs.
    pub(super) runs: i64,
    /// Of one run.
    pub(super) fuel_per_run: f64,
    /// Of one run.
    pub(super) micros_per_run: f64,
    /// For the hits of a day.
    pub(super) fuel_per_day: f64,
    /// For the hits of a day.
    pub(super) micros_per_day: f64,
}

/// The cost of a rule that runs a function which ran before.
pub(super) async fn estimate(
    subject: &Subject,
    hits_per_day: f64,
    tables: &ControlPlane,
    store: &Store,
) -> Result<Option<Cost>, StoreError> {
    let Some(Target::Run { function, version }) = subject.target() else { return Ok(None) };
    let current = || tables.functions.iter().find(|v| v.function == *function && v.current).map(|v| v.version);
    let history = store.function_runs(function).await?;
    Ok(of(function, version.or_else(current), &history, hits_per_day))
}

fn of(function: &str, version: Option<u32>, history: &[FunctionRuns], hits_per_day: f64) -> Option<Cost> {
    let own = |runs: &&FunctionRuns| version.is_some_and(|version| runs.version.unsigned_abs() == version);
    let (counted, version): (Vec<&FunctionRuns>, _) = match history.iter().find(own) {
        Some(own) => (vec![own], version),
        None => (history.iter().collect(), None),
    };
    let sum = |of: fn(&FunctionRuns) -> i64| counted.iter().map(|runs| of(runs)).sum::<i64>();
    let runs = sum(|r| r.runs);
    if runs == 0 {
        return None;
    }
    let (fuel_per_run, micros_per_run) = (sum(|r| r.fuel) as f64 / runs as f64, sum(|r| r.micros) as f64 / runs as f64);
    Some(Cost {
        function: function.to_owned(),
        version,
        runs,
        fuel_per_run,
        micros_per_run,
        fuel_per_day: fuel_per_run * hits_per_day,
        micros_per_day: micros_per_run * hits_per_day,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_would_run_counts_and_all_of_them_where_it_never_ran() {
        let runs = |version, runs, fuel| FunctionRuns { version, runs, fuel, micros: 10 * runs };
        let history = [runs(1, 10, 1_000), runs(2, 30, 9_000)];
        let own = of("f", Some(2), &history, 5.0).expect("it ran");
        assert_eq!((own.version, own.runs, own.fuel_per_run, own.fuel_per_day), (Some(2), 30, 300.0, 1_500.0));
        let all = of("f", Some(3), &history, 2.0).expect("others ran");
        assert_eq!((all.version, all.runs, all.fuel_per_run, all.micros_per_day), (None, 40, 250.0, 20.0));
        assert_eq!(of("f", Some(1), &[], 5.0), None);
    }
}

//! Reads the sums of usage, and adds the ledger up again to check them.
//!
//! Invariant: a check compares both sides in one snapshot, so that rows that are being settled cannot make a
//! difference. Prices are not known here.

use serde::Serialize;
use sqlx::types::time::{Date, OffsetDateTime};

use super::events::day_text;
use super::{Store, StoreError};

/// What usage is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageBy {
    /// Function and version.
    Function,
    /// Rule.
    Rule,
    /// Day, UTC.
    Day,
    /// Trigger.
    Trigger,
}

impl UsageBy {
    /// The name of the column.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Rule => "rule",
            Self::Day => "day",
            Self::Trigger => "trigger",
        }
    }
}

/// Sums of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageRow {
    /// The group: a function with its version, a rule, a day, a trigger. Empty for rules that publish.
    pub key: String,
    /// Attempts.
    pub runs: i64,
    /// Those whose outcome was not ok.
    pub failed: i64,
    /// Wall time.
    pub micros: i64,
    /// Fuel.
    pub fuel: i64,
    /// Events emitted.
    pub outputs: i64,
}

/// What the runs of one version of a function took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionRuns {
    /// The version.
    pub version: i32,
    /// Attempts.
    pub runs: i64,
    /// Wall time.
    pub micros: i64,
    /// Fuel.
    pub fuel: i64,
}

/// A sum of usage that is not the sum of its ledger rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageDifference {
    /// The day.
    #[serde(serialize_with = "day_text")]
    pub day: Date,
    /// The trigger.
    pub trigger: String,
    /// The rule.
    pub rule: String,
    /// The function, empty for rules that publish.
    pub function: String,
    /// Its version.
    pub version: i32,
    /// Runs as summed, and in the ledger.
    pub runs: (i64, i64),
    /// Microseconds as summed, and in the ledger.
    pub micros: (i64, i64),
    /// Fuel as summed, and in the ledger.
    pub fuel: (i64, i64),
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsageCheck {
    /// Sums that were compared.
    pub sums: i64,
    /// Ledger rows that were added up.
    pub runs: i64,
    /// Those that differ.
    pub differences: Vec<UsageDifference>,
}

impl Store {
    /// Sums from the day of `since` on, the largest wall time first; days in their order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn usage(
        &self,
        by: UsageBy,
        since: Option<OffsetDateTime>,
        limit: i64,
    ) -> Result<Vec<UsageRow>, StoreError> {
        Ok(sqlx::query_as!(
            UsageRow,
            r#"select case $1 when 'rule' then rule when 'day' then day::text when 'trigger' then trigger
                   else case function when '' then '' else function || '@' || version end end as "key!",
                   sum(runs)::bigint as "runs!", sum(failed)::bigint as "failed!", sum(micros)::bigint as "micros!",
                   sum(fuel)::bigint as "fuel!", sum(outputs)::bigint as "outputs!"
               from oncue.usage
               where day >= (coalesce($2, 'epoch'::timestamptz) at time zone 'UTC')::date
               group by 1
               order by case when $1 = 'day' then min(day) end desc, sum(micros) desc, 1 limit $3"#,
            by.name(),
            since,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// What the runs of each version of `function` took, as far back as sums are kept.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn function_runs(&self, function: &str) -> Result<Vec<FunctionRuns>, StoreError> {
        Ok(sqlx::query_as!(
            FunctionRuns,
            r#"select version, sum(runs)::bigint as "runs!", sum(micros)::bigint as "micros!", sum(fuel)::bigint as "fuel!"
               from oncue.usage where function = $1 group by version order by version"#,
            function
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The first day whose ledger is whole: the one after the oldest partition, as retention drops whole partitions.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn ledger_begins(&self) -> Result<Option<Date>, StoreError> {
        Ok(sqlx::query_scalar!(
            r#"select min(to_date(right(c.relname, 8), 'YYYYMMDD')) + 1 as day
               from pg_inherits i join pg_class c on c.oid = i.inhrelid
               where i.inhparent = 'oncue.ledger'::regclass and c.relname ~ '^ledger_[0-9]{8}$'"#
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Adds the ledger up again for every day from `since` on and compares it with the sums.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn check_usage(&self, since: Date) -> Result<UsageCheck, StoreError> {
        let rows = sqlx::query!(
            r#"with again as (
                   select (settled_at at time zone 'UTC')::date as day, trigger, rule, coalesce(function, '') as function,
                          coalesce(version, 0) as version, count(*) as runs, sum(micros)::bigint as micros,
                          sum(fuel)::bigint as fuel, sum(outputs)::bigint as outputs,
                          count(*) filter (where outcome <> 'ok') as failed
                   from oncue.ledger
                   where outcome <> 'void' and settled_at >= $1::date::timestamp at time zone 'UTC'
                   group by 1, 2, 3, 4, 5
               ), summed as (select * from oncue.usage where day >= $1)
               select day as "day!", trigger as "trigger!", rule as "rule!", function as "function!",
                      version as "version!", coalesce(s.runs, 0) as "runs!", coalesce(a.runs, 0) as "runs_again!",
                      coalesce(s.micros, 0) as "micros!", coalesce(a.micros, 0) as "micros_again!",
                      coalesce(s.fuel, 0) as "fuel!", coalesce(a.fuel, 0) as "fuel_again!",
                      (s.runs, s.failed, s.micros, s.fuel, s.outputs)
                          is not distinct from (a.runs, a.failed, a.micros, a.fuel, a.outputs) as "same!"
               from summed s full join again a using (day, trigger, rule, function, version)
               order by 1, 2, 3, 4, 5"#,
            since
        )
        .fetch_all(&self.pool)
        .await?;
        let mut check = UsageCheck { sums: 0, runs: 0, differences: Vec::new() };
        for row in rows {
            check.sums += 1;
            check.runs += row.runs_again;
            if !row.same {
                check.differences.push(UsageDifference {
                    day: row.day,
                    trigger: row.trigger,
                    rule: row.rule,
                    function: row.function,
                    version: row.version,
                    runs: (row.runs, row.runs_again),
                    micros: (row.micros, row.micros_again),
                    fuel: (row.fuel, row.fuel_again),
                });
            }
        }
        Ok(check)
    }
}

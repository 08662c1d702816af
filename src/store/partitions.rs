//! Partitions of the ledger, the logs and the record: made ahead, dropped whole when they are older than the retention.
//!
//! Invariant: nothing younger than the retention is deleted; the record has one of its own (`recorded`). What landed in the default partitions (times that no
//! partition covers) is deleted in batches by the time it was settled.

use std::time::Duration;

use super::{Store, StoreError};

/// What one round of maintenance did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Partitions that were dropped.
    pub dropped: Vec<String>,
    /// Days that could not get a partition because the default one holds rows of them.
    pub blocked_days: u32,
    /// Rows deleted from default partitions, old counts and old dead letters that were dropped or redriven.
    pub deleted: u64,
}

impl Store {
    /// Makes the partitions of yesterday to two days ahead and drops what is older than `retention`, and what is
    /// recorded and older than its trigger keeps it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn maintain(&self, retention: Duration) -> Result<Maintained, StoreError> {
        let keep_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let blocked = sqlx::query_scalar!(
            r#"select count(*) filter (where not oncue.ensure_partitions((now() at time zone 'UTC')::date + d)) as "n!"
               from generate_series(-1, 2) as d"#
        )
        .fetch_one(&self.pool)
        .await?;
        let mut dropped = self.drop_partitions("ledger", keep_ms).await?;
        dropped.extend(self.drop_partitions("logs", keep_ms).await?);
        let (forgotten, mut deleted) = self.forget_recorded().await?;
        dropped.extend(forgotten);
        deleted += self.delete_old_rows(keep_ms).await?;
        Ok(Maintained { dropped, blocked_days: u32::try_from(blocked).unwrap_or(u32::MAX), deleted })
    }

    /// Drops the partitions of `table` whose last day is older than `keep_ms`; gives their names.
    pub(super) async fn drop_partitions(&self, table: &str, keep_ms: i64) -> Result<Vec<String>, StoreError> {
        let old = sqlx::query_scalar!(
            r#"select c.relname::text as "name!" from pg_inherits i
               join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
               join pg_namespace n on n.oid = p.relnamespace
               where n.nspname = 'oncue' and p.relname = $2 and c.relname ~ ('^' || $2 || '_[0-9]{8}$')
                 and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 < (now() - $1::bigint * interval '1 millisecond')::date"#,
            keep_ms,
            table
        )
        .fetch_all(&self.pool)
        .await?;
        for name in &old {
            // The name matched the pattern above: the table's, an underscore and eight digits.
            let statement = sqlx::AssertSqlSafe(format!("drop table if exists oncue.{name}"));
            sqlx::query(statement).execute(&self.pool).await?;
        }
        Ok(old)
    }

    async fn delete_old_rows(&self, keep_ms: i64) -> Result<u64, StoreError> {
        let ledger = sqlx::query!(
            "delete from oncue.ledger_default where ctid = any(array(select ctid from oncue.ledger_default
             where settled_at < now() - $1::bigint * interval '1 millisecond' limit 10000))",
            keep_ms
        );
        let logs = sqlx::query!(
            "delete from oncue.logs_default where delivery_id in (select delivery_id from oncue.logs_default
             where delivery_id < oncue.delivery_floor(now() - $1::bigint * interval '1 millisecond') limit 10000)",
            keep_ms
        );
        let unmatched = sqlx::query!(
            "delete from oncue.unmatched where day < (now() - $1::bigint * interval '1 millisecond')::date",
            keep_ms
        );
        let letters = sqlx::query!(
            "delete from oncue.dead_letters where state <> 'dead' and dead_at < now() - $1::bigint * interval '1 millisecond'",
            keep_ms
        );
        let mut deleted = 0;
        for statement in [ledger, logs, unmatched, letters] {
            deleted += statement.execute(&self.pool).await?.rows_affected();
        }
        Ok(deleted)
    }
}

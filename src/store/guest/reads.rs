//! Reads for guests, on connections of their own: whatever guests ask, settling never waits for it.
//!
//! Invariant: a read runs in a read-only transaction that is always rolled back, and a connection comes back to the pool
//! without a trace of it: settings, locks, prepared statements. That holds for a read whose caller went away, too.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::function::sql::{ROW_BYTES_MAX, ROWS_MAX, Reader, Statement};
use crate::store::{Store, ping_idle};

use super::{Failed, Guest};

/// Reads at once. A node has its other connections for itself.
const CONNECTIONS: u32 = 4;

/// What a guest's statement may have left on a connection. `reset` comes first: nothing of ours runs under a guest's
/// settings.
const CLEAN: &str = "reset all; reset role; deallocate all; select pg_catalog.pg_advisory_unlock_all()";

/// Reads for guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reads {
    pool: PgPool,
}

impl Store {
    /// What reads for guests, on a pool of its own; the first read connects.
    #[must_use]
    pub fn reads(&self) -> Reads {
        // Nothing that is cached would outlive the cleaning.
        let options = self.options.clone().application_name("oncue reads").statement_cache_capacity(0);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(crate::function::sql::TIME_MAX)
            .test_before_acquire(false)
            .before_acquire(ping_idle)
            .after_release(|connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(CLEAN).execute(connection).await?;
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Reads { pool }
    }
}

#[async_trait]
impl Reader for Reads {
    async fn read(&self, role: &str, statement: &Statement, time: Duration) -> Result<Vec<String>, String> {
        let until = Instant::now() + time;
        let rows = self.rows(role, statement, until).await.map_err(|failed| failed.words)?;
        if rows.len() > ROWS_MAX as usize {
            return Err(format!("the query gives more than {ROWS_MAX} rows; add a `limit`, or let it sum up"));
        }
        let whole: Option<Vec<String>> = rows.into_iter().collect();
        whole.ok_or_else(|| format!("the rows have more than {ROW_BYTES_MAX} bytes; select fewer columns or rows"))
    }
}

impl Reads {
    async fn rows(&self, role: &str, statement: &Statement, until: Instant) -> Result<Vec<Option<String>>, Failed> {
        let mut connection = self.pool.acquire().await?;
        let left = || until.saturating_duration_since(Instant::now());
        for _ in 0..2 {
            let mut tx = connection.begin_with("begin read only").await?;
            let (guest, there) = Guest::enter(&mut tx, role, left()).await?;
            if there {
                // The rollback that dropping the transaction leaves behind is done while the caller goes on.
                return guest.read(&mut tx, statement, ROW_BYTES_MAX).await;
            }
            tx.rollback().await?;
            let mut making = connection.begin().await?;
            let (guest, _) = Guest::enter(&mut making, role, left()).await?;
            guest.make(&mut making, role).await?;
            making.commit().await?;
        }
        Err(sqlx::Error::Protocol("a function in pg_temp went away at once".to_owned()).into())
    }
}

//! Reads for guests, on connections of their own: whatever guests ask, settling never waits for it.
//!
//! Invariant: a read runs in a read-only transaction that is always rolled back. Its rows are counted and weighed here, as
//! they come: a read that brings more ends with its connection. So does one whose caller went away.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::TryStreamExt as _;

use crate::function::sql::{ROW_BYTES_MAX, ROWS_MAX, Reader, Statement};

use super::Guests;
use super::link::{Link, Owner, prompt};
use super::param::Param;
use super::trouble::Trouble;

/// What ends a read, and what it may have left that a rollback does not take back.
const END: &str = "rollback; select pg_catalog.pg_advisory_unlock_all()";

/// What a read gave; or which bound it passed.
enum Read {
    Rows(Vec<String>),
    Bound(String),
}

#[async_trait]
impl Reader for Guests {
    async fn read(
        &self,
        function: &str,
        role: &str,
        statement: &Statement,
        time: Duration,
    ) -> Result<Vec<String>, String> {
        let until = Instant::now() + time;
        let taking = tokio::time::timeout(time, self.inner.reads.take(function)).await;
        let Ok(Some(_share)) = taking else {
            return Err(format!("no connection was free within {time:?}: other reads of {function} have its share"));
        };
        let began = Instant::now();
        let owner = Owner { role: role.to_owned(), function: function.to_owned() };
        let read = self.read_as(&owner, statement, until).await;
        self.inner.reads.took(function, began.elapsed());
        match read.map_err(Trouble::words)? {
            Read::Rows(rows) => Ok(rows),
            Read::Bound(words) => Err(words),
        }
    }
}

impl Guests {
    async fn read_as(&self, owner: &Owner, statement: &Statement, until: Instant) -> Result<Read, Trouble> {
        let mut link = self.inner.link(owner).await?;
        let read = link.read(statement, until).await.map_err(|trouble| link.explain(trouble));
        // After a bound was passed the rest of the rows is still on its way: the connection goes with them.
        link.forget_stale();
        if matches!(&read, Ok(Read::Rows(_)) | Err(Trouble::Refused(_)))
            && prompt(link.client.batch_execute(END)).await.is_ok()
        {
            self.inner.keep(link);
        }
        read
    }
}

impl Link {
    async fn read(&mut self, statement: &Statement, until: Instant) -> Result<Read, Trouble> {
        let left = until.saturating_duration_since(Instant::now());
        let millis = left.as_millis().max(1);
        let begin = format!(
            "begin read only; set local statement_timeout = {millis}; set local lock_timeout = {millis}; set local role {}",
            self.role
        );
        prompt(self.client.batch_execute(&begin)).await?;
        // A comment at the statement's end ends with its line. Whatever else the text does to the brackets, it stays one
        // statement, and its rows are counted and weighed outside of it.
        let text = format!("select to_jsonb(q)::text from (\n{}\n) as q limit {}", statement.text, ROWS_MAX + 1);
        let prepared = self.prepare(statement, &text).await?;
        let params: Vec<Param<'_>> = statement.params.iter().map(Param).collect();
        let rows = self.client.query_raw(&prepared, params).await.map_err(|error| self.judge(error))?;
        let mut rows = std::pin::pin!(rows);
        let (mut got, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(|error| self.judge(error))? {
            let row: Option<String> = row.try_get(0)?;
            let row = row.unwrap_or_else(|| "null".to_owned());
            bytes += row.len();
            if got.len() == ROWS_MAX as usize {
                let words = format!("the query gives more than {ROWS_MAX} rows; add a `limit`, or let it sum up");
                return Ok(Read::Bound(words));
            }
            if bytes > ROW_BYTES_MAX as usize {
                let words = format!("the rows have more than {ROW_BYTES_MAX} bytes; select fewer columns or rows");
                return Ok(Read::Bound(words));
            }
            got.push(row);
        }
        Ok(Read::Rows(got))
    }
}

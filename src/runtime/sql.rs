//! The guest's SQL: reads at once through whoever reads for guests, buffers what it writes.
//!
//! Invariant: nothing is read without the grant, and no read outlives the deadline of its call. It is the one host
//! function that waits; a call that is over drops the wait, and the reader sees to its connection.

use std::time::Instant;

use super::host::HostState;
use super::host::sql::{Host, Value as Param};
use super::outputs::MISSING_SQL;
use crate::function::sql::{Statement, TIME_MAX, Value};

impl Host for HostState {
    async fn query(&mut self, statement: String, params: Vec<Param>) -> Result<Vec<String>, String> {
        let grant = self.spec.grants.sql.as_ref().ok_or(MISSING_SQL)?;
        let reader = self.reader.as_ref().ok_or("there is no database to read from here")?;
        let statement = made(statement, params);
        statement.check()?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        reader.read(&self.context.function, &grant.role, &statement, left.min(TIME_MAX)).await
    }

    fn execute(&mut self, statement: String, params: Vec<Param>) -> Result<(), String> {
        self.outputs.execute(made(statement, params)).map_err(|refused| refused.to_string())
    }
}

fn made(text: String, params: Vec<Param>) -> Statement {
    let value = |param| match param {
        Param::Null => Value::Null,
        Param::Boolean(value) => Value::Boolean(value),
        Param::Integer(value) => Value::Integer(value),
        Param::Float(value) => Value::Float(value),
        Param::Text(value) => Value::Text(value),
        Param::Bytes(value) => Value::Bytes(value),
    };
    Statement { text, params: params.into_iter().map(value).collect() }
}

//! SQL of functions: statements with their values, the bounds of one call, and what reads for a guest.
//!
//! Invariant: a value is always bound, never pasted into a statement's text. This file knows neither the database nor the
//! sandbox; the one implements what the other calls.

use std::time::Duration;

use async_trait::async_trait;

/// Statements that one call may buffer: they run while other deliveries wait to be settled.
pub const STATEMENTS_MAX: usize = 100;
/// Bytes of one statement's text: no statement that somebody wrote is longer.
pub const TEXT_MAX: usize = 64 << 10;
/// Values of one statement.
pub const PARAMS_MAX: usize = 1_000;
/// Rows that a query may give.
pub const ROWS_MAX: u32 = 1_000;
/// Bytes of the rows that a query may give.
pub const ROW_BYTES_MAX: u32 = 1 << 20;
/// Longest time of one query, and of all statements of one delivery together.
pub const TIME_MAX: Duration = Duration::from_secs(5);

/// A value of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's null, of no type.
    Null,
    /// `boolean`.
    Boolean(bool),
    /// `int8`.
    Integer(i64),
    /// `float8`.
    Float(f64),
    /// `text`.
    Text(String),
    /// `bytea`.
    Bytes(Vec<u8>),
}

impl Value {
    /// Bytes that it counts against its call's limit.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) => 1,
            Self::Integer(_) | Self::Float(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// One statement and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text, with `$1`, `$2`, … for the values.
    pub text: String,
    /// The values.
    pub params: Vec<Value>,
}

impl Statement {
    /// Bytes that it counts against its call's limit.
    #[must_use]
    pub fn size(&self) -> usize {
        self.text.len() + self.params.iter().map(Value::size).sum::<usize>()
    }

    /// Whether the database could take it at all.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let nul = |text: &str| text.contains('\0');
        if self.text.len() > TEXT_MAX {
            return Err(format!("a statement has more than {TEXT_MAX} bytes; hand what is long over as a value"));
        }
        if self.params.len() > PARAMS_MAX {
            return Err(format!("a statement has more than {PARAMS_MAX} values; hand many over as one `$1::jsonb`"));
        }
        if nul(&self.text) || self.params.iter().any(|value| matches!(value, Value::Text(text) if nul(text))) {
            return Err("a text holds U+0000, which Postgres cannot store; bind it as bytes".to_owned());
        }
        Ok(())
    }
}

/// Reads for guests.
#[async_trait]
pub trait Reader: std::fmt::Debug + Send + Sync {
    /// The rows of `statement`, each as a JSON object, read for `function` under `role` within `time`, read-only.
    ///
    /// # Errors
    /// Words for the guest: the database's own, or which bound was passed.
    async fn read(
        &self,
        function: &str,
        role: &str,
        statement: &Statement,
        time: Duration,
    ) -> Result<Vec<String>, String>;
}

#[cfg(test)]
mod tests {
    use super::{PARAMS_MAX, Statement, TEXT_MAX, Value};

    #[test]
    fn what_the_database_could_not_take_is_refused_at_once() {
        let statement = |text: &str, params| Statement { text: text.to_owned(), params };
        let nul = || "a\0b".to_owned();
        let table = [
            (statement("select $1", vec![Value::Bytes(vec![0])]), true),
            (statement("select $1", vec![Value::Text(nul())]), false),
            (statement(&nul(), Vec::new()), false),
            (statement(&"x".repeat(TEXT_MAX + 1), Vec::new()), false),
            (statement("select 1", vec![Value::Null; PARAMS_MAX + 1]), false),
        ];
        for (statement, good) in table {
            assert_eq!(statement.check().is_ok(), good, "{:.20}", statement.text);
        }
    }
}

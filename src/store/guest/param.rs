//! Values of statements, as they are bound.
//!
//! Invariant: a value is never shown by `Debug`: the client logs parameters.

use std::error::Error;
use std::fmt;

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::function::sql::{Statement, Value};

/// A value of a guest.
pub(super) struct Param<'a>(pub(super) &'a Value);

/// The type that a value is sent as; what a null is, the statement decides.
pub(super) fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::UNKNOWN,
        Value::Boolean(_) => Type::BOOL,
        Value::Integer(_) => Type::INT8,
        Value::Float(_) => Type::FLOAT8,
        Value::Text(_) => Type::TEXT,
        Value::Bytes(_) => Type::BYTEA,
    }
}

/// What a statement is prepared under: its types, a letter each.
pub(super) fn types_key(statement: &Statement) -> Vec<u8> {
    let letter = |value: &Value| match value {
        Value::Null => b'n',
        Value::Boolean(_) => b'b',
        Value::Integer(_) => b'i',
        Value::Float(_) => b'f',
        Value::Text(_) => b't',
        Value::Bytes(_) => b'y',
    };
    statement.params.iter().map(letter).collect()
}

impl fmt::Debug for Param<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(value)")
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Boolean(value) => value.to_sql(ty, out),
            Value::Integer(value) => value.to_sql(ty, out),
            Value::Float(value) => value.to_sql(ty, out),
            Value::Text(text) => text.to_sql(ty, out),
            Value::Bytes(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // A statement is prepared with the types of its values.
        true
    }

    to_sql_checked!();
}

/// A parameter of ours: a text, or the key of nodes.
pub(super) enum Own<'a> {
    /// `text`, or null.
    Text(Option<&'a str>),
    /// `bytea`.
    Key(&'a [u8]),
}

impl Own<'_> {
    /// What it is sent as.
    pub(super) fn ty(&self) -> Type {
        match self {
            Self::Text(_) => Type::TEXT,
            Self::Key(_) => Type::BYTEA,
        }
    }
}

impl fmt::Debug for Own<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(value)")
    }
}

impl ToSql for Own<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Text(text) => text.to_sql(ty, out),
            Self::Key(key) => key.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT || *ty == Type::BYTEA
    }

    to_sql_checked!();
}

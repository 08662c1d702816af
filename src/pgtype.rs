//! Values of Postgres, as the server writes them in text, → JSON.
//!
//! Invariant: [`write()`] appends exactly one JSON value whatever text and type it is given, and never recurses deeper
//! than [`MAX_DEPTH`]; a text that is not what its type promises becomes a JSON string, and the caller is told.
//!
//! What a value looks like is what the server's own `to_json` gives, byte for byte, but for `bytea`, which is base64,
//! and for types that a cast to `json` is declared for, such as `hstore`, which are strings. So integers and numerics
//! are exact JSON numbers, whatever their size; `NaN` and the infinities are strings; timestamps are ISO 8601; `oid`
//! and its like are strings. It assumes a session with `DateStyle` ISO and `bytea_output` hex, and asks no server:
//! [`Types`] is taught by its owner.

mod array;
mod builtin;
mod catalogue;
mod composite;
pub mod json;
mod scalar;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::catalogue::{TypeRow, Types};

/// The deepest nesting of a value: arrays, composites and JSON documents together. The pattern language stops at 128,
/// and the members of an event around a value take a few of those.
pub const MAX_DEPTH: usize = 100;

/// What the text of a value means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `t` or `f`.
    Boolean,
    /// An integer that fits a JSON number as it stands.
    Integer,
    /// Binary floating point.
    Float,
    /// A decimal of any precision.
    Numeric,
    /// Bytes, in hexadecimal.
    Bytea,
    /// `json` or `jsonb`.
    Json,
    /// A date and time without a zone.
    Timestamp,
    /// A point in time.
    TimestampTz,
    /// Whatever is shown as a string: text, dates, intervals, identifiers, enums, ranges, addresses and all the rest.
    Text,
    /// An array of any number of dimensions.
    Array {
        /// What it is of.
        element: Arc<Type>,
        /// What stands between two elements: a comma, of boxes a semicolon.
        delimiter: u8,
    },
    /// The arrays of system catalogues that are written without braces, with spaces: `int2vector`, `oidvector`.
    Vector(Arc<Type>),
    /// A row: the attributes in their order, by name.
    Composite(Vec<(String, Arc<Type>)>),
}

/// Text that is not what its type promises.
#[derive(Debug)]
struct Undecodable;

/// Appends the value that `text` writes to `out`, as JSON.
///
/// `false`: it could not be read as a value of that type, or nests too deep; then `out` got the text itself as a JSON
/// string, each byte that is no UTF-8 replaced by U+FFFD.
#[must_use]
pub fn write(out: &mut Vec<u8>, ty: &Type, text: &[u8]) -> bool {
    let start = out.len();
    if value(out, ty, text, 0).is_ok() {
        return true;
    }
    out.truncate(start);
    json::string(out, &String::from_utf8_lossy(text));
    false
}

/// Appends one value that stands `depth` levels deep.
fn value(out: &mut Vec<u8>, ty: &Type, text: &[u8], depth: usize) -> Result<(), Undecodable> {
    match ty {
        Type::Text => scalar::text(out, text),
        Type::Integer => scalar::integer(out, text),
        Type::Boolean => scalar::boolean(out, text),
        Type::Float | Type::Numeric => scalar::number(out, text),
        Type::Timestamp => scalar::timestamp(out, text, false),
        Type::TimestampTz => scalar::timestamp(out, text, true),
        Type::Bytea => scalar::bytea(out, text),
        Type::Json => scalar::json(out, text, MAX_DEPTH.saturating_sub(depth)),
        _ if depth >= MAX_DEPTH => Err(Undecodable),
        Type::Array { element, delimiter } => array::write(out, element, *delimiter, text, depth),
        Type::Vector(element) => array::write_vector(out, element, text, depth),
        Type::Composite(attributes) => composite::write(out, attributes, text, depth),
    }
}

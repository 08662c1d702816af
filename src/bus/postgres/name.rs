//! Names in Postgres: a table's, read and shown as SQL writes them.
//!
//! Invariant: what is shown is read back as the same name, and is safe in a statement.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest identifier, bytes; a longer one would be cut silently.
pub const IDENTIFIER_MAX: usize = 63;

/// A table's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    /// The schema, `public` if none was given.
    pub schema: String,
    /// The table.
    pub name: String,
}

/// Why a text is no table's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no table's name: {why}; it looks like public.users, or public.\"Users\" with capitals")]
pub struct NameError {
    text: String,
    why: &'static str,
}

impl TableName {
    /// `schema`.`name`.
    #[must_use]
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl TableName {
    /// Whether its rows are the keys that sign published events: no feed may tell of them.
    #[must_use]
    pub fn holds_keys(&self) -> bool {
        (self.schema.as_str(), self.name.as_str()) == ("oncue", "publish_keys")
    }
}

impl FromStr for TableName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fail = |why| NameError { text: text.to_owned(), why };
        let (first, rest) = part(text).map_err(fail)?;
        let name = match rest.strip_prefix('.') {
            Some(rest) => {
                let (second, rest) = part(rest).map_err(fail)?;
                if !rest.is_empty() {
                    return Err(fail("it has more than a schema and a name"));
                }
                Self { schema: first, name: second }
            }
            None if rest.is_empty() => Self { schema: "public".to_owned(), name: first },
            None => return Err(fail("something follows the closing quote")),
        };
        Ok(name)
    }
}

/// One identifier at the beginning of `text`, and what follows. Unquoted ones are folded to lower case, as SQL does.
fn part(text: &str) -> Result<(String, &str), &'static str> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(mut rest) => {
            let mut name = String::new();
            loop {
                let (before, after) = rest.split_once('"').ok_or("a quote is not closed")?;
                name.push_str(before);
                rest = after;
                match rest.strip_prefix('"') {
                    Some(after) => {
                        name.push('"');
                        rest = after;
                    }
                    None => break (name, rest),
                }
            }
        }
        None => {
            let end = text.find('.').unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if name.chars().any(|c| !(c.is_alphanumeric() || c == '_' || c == '$')) {
                return Err("a part with other characters than letters, digits, _ and $ must be quoted");
            }
            (name.to_ascii_lowercase(), rest)
        }
    };
    match name.len() {
        0 => Err("a part is empty"),
        length if length > IDENTIFIER_MAX => Err("a part is longer than 63 bytes"),
        _ if name.contains('\0') => Err("a part holds a NUL"),
        _ => Ok((name, rest)),
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quoted_if_needed(&self.schema), quoted_if_needed(&self.name))
    }
}

impl TryFrom<String> for TableName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

/// `name` in double quotes: safe in a statement, whatever it holds.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` in single quotes: safe in a statement, whatever it holds.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn quoted_if_needed(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if plain { name.to_owned() } else { quoted(name) }
}

impl TableName {
    /// Both parts in quotes, for statements: a plain name may be a reserved word.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_in_sql() {
        let table = [
            ("users", ("public", "users"), "public.users"),
            ("public.users", ("public", "users"), "public.users"),
            ("Public.Users", ("public", "users"), "public.users"),
            ("public.\"Users\"", ("public", "Users"), "public.\"Users\""),
            ("\"a.b\".\"c\"\"d\"", ("a.b", "c\"d"), "\"a.b\".\"c\"\"d\""),
            ("app.täglich", ("app", "täglich"), "app.\"täglich\""),
        ];
        for (text, (schema, name), shown) in table {
            let read: TableName = text.parse().expect(text);
            assert_eq!(read, TableName::new(schema, name), "{text}");
            assert_eq!(read.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(64);
        for text in ["", ".", "a.", ".a", "a.b.c", "a b", "a;drop", "\"a", "\"a\"b", "\"\"", &long] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_and_a_text_are_safe_in_a_statement() {
        assert_eq!(quoted("a\"; drop"), "\"a\"\"; drop\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\'"), "E'a\\\\'''");
    }
}

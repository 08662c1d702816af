//! What to say of an error of Postgres, without the values of rows and parameters that the server quotes.
//!
//! Invariant: these words hold no value of a row, a parameter or an event, so that they may be logged and shown. A server's
//! message quotes values in some classes of errors (`invalid input syntax for type integer: "4111"`), and the detail in more
//! (`Key (email)=(ada@example.com) already exists`): of these classes the words are the SQLSTATE and the names of what is
//! concerned. Knows no driver: the homes of the driver hand over what the server said.

use std::fmt::Write as _;

/// What a server said of an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said<'a> {
    /// The SQLSTATE.
    pub code: &'a str,
    /// The message.
    pub message: &'a str,
    /// The names of schema, table, column, type and constraint that it concerns.
    pub names: [Option<&'a str>; 5],
}

const NAMES: [&str; 5] = ["schema", "table", "column", "type", "constraint"];

/// Classes whose messages name objects and states of the server, and never a value: connections, transactions, logins,
/// names of databases and schemas, rights and syntax, resources, limits, states of objects, operators, systems.
const WITHOUT_VALUES: [&str; 17] =
    ["03", "08", "09", "0A", "25", "28", "2D", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"];

/// The same for a statement whose text is a guest's.
const WITHOUT_TEXT: [&str; 8] = ["08", "0A", "25", "40", "53", "54", "55", "57"];

/// Rights, syntax and tables. Their messages quote a part of the statement, and a guest may have written a value into it; those of
/// the rest of the class, functions and columns, do so without quotation marks.
const QUOTES_TEXT: [&str; 3] = ["42501", "42601", "42P01"];

impl Said<'_> {
    /// Words for an error of one of our own statements.
    #[must_use]
    pub fn words(&self) -> String {
        self.with(self.is_of(&WITHOUT_VALUES).then_some(self.message))
    }

    /// Words for an error of a guest's statement.
    #[must_use]
    pub fn guest_words(&self) -> String {
        let message = self.message.split(" at or near ").next().unwrap_or_default();
        let is_safe = self.is_of(&WITHOUT_TEXT) || (QUOTES_TEXT.contains(&self.code) && quotes_identifiers(message));
        self.with(is_safe.then_some(message))
    }

    fn is_of(&self, classes: &[&str]) -> bool {
        self.code.get(..2).is_some_and(|class| classes.contains(&class))
    }

    fn with(&self, message: Option<&str>) -> String {
        let mut words = message.unwrap_or_else(|| kind(self.code)).to_owned();
        let _ = write!(words, " (SQLSTATE {}", self.code);
        for (what, name) in NAMES.iter().zip(self.names).filter_map(|(what, name)| Some((what, name?))) {
            let _ = write!(words, ", {what} {name:?}");
        }
        words.push(')');
        words
    }
}

/// Whether whatever `message` has in quotation marks has the form of an identifier.
fn quotes_identifiers(message: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    let is_name = |text: &str| {
        text.len() <= 127
            && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(of_name)
    };
    !message.contains('\'') && message.split('"').skip(1).step_by(2).all(is_name)
}

/// What an error of the class means; the SQLSTATE beside it says more.
fn kind(code: &str) -> &'static str {
    match code {
        "22P02" => "a value has not the form of its type",
        "22001" => "a value is too long for its type",
        "22003" => "a number is out of the range of its type",
        "22012" => "a division by zero",
        "22021" => "a text has a byte that its encoding does not have",
        "22007" | "22008" => "a date or time has not the form of its type or is out of its range",
        "23502" => "a column must not be null",
        "23503" => "a foreign key has no row that it names, or rows name it still",
        "23505" => "a unique key is there already",
        "23514" => "a check constraint is violated",
        "23P01" => "an exclusion constraint is violated",
        "42601" => "syntax error in the statement",
        "42703" => "there is no such column",
        "42P01" => "there is no such table",
        "42883" => "there is no such function or operator",
        "42804" => "a type does not fit",
        "P0001" => "the database raised an exception",
        _ => match code.get(..2) {
            Some("22") => "a value is not what the statement needs",
            Some("23") => "a constraint is violated",
            Some("42") => "the statement is not valid",
            Some("44") => "a row does not fit its view",
            Some("54") => "a limit of the server was reached",
            _ => "the database refused it",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_no_value() {
        let key = [Some("public"), Some("users"), None, None, Some("users_email_key")];
        let table = [
            ("22P02", "invalid input syntax for type integer: \"4111\"", [None; 5], false, false),
            ("23505", "duplicate key value violates unique constraint", key, false, false),
            ("P0001", "no such card 4111", [None; 5], false, false),
            ("XX000", "cache lookup failed for 4111", [None; 5], false, false),
            ("", "4111", [None; 5], false, false),
            ("42601", "syntax error at or near \"4111\"", [None; 5], true, false),
            ("42703", "column \"4111\" does not exist", [None; 5], true, false),
            ("42703", "column \"ada@example.com\" does not exist", [None; 5], true, false),
            ("42883", "function f4111.(unknown) does not exist", [None; 5], true, false),
            ("42P01", "relation \"shop.users\" does not exist", [None; 5], true, true),
            ("42501", "permission denied for table users", [None; 5], true, true),
            ("57P01", "terminating connection due to administrator command", [None; 5], true, true),
        ];
        for (code, message, names, ours, guests) in table {
            let said = Said { code, message, names };
            assert_eq!(said.words().contains(message), ours, "{code}: {}", said.words());
            assert_eq!(said.guest_words().contains(message), guests, "{code}: {}", said.guest_words());
            assert!(said.guest_words().contains(code));
        }
        let said = Said { code: "23505", message: "", names: key };
        let expected = "a unique key is there already (SQLSTATE 23505, schema \"public\", table \"users\", constraint \
                        \"users_email_key\")";
        assert_eq!(said.words(), expected);
    }
}

//! The environment, read once, and `${VAR}` in the values of the manifest.
//!
//! Invariant: only here is the process environment looked at; an empty variable counts as unset, and a variable that
//! is not set is an error, never an empty text. Substituted text is not looked at again.

use std::collections::BTreeMap;
use std::path::Path;

/// The variables that the program was started with.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Why a text with `${…}` has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SubstitutionError {
    /// The variable is not set and has no default.
    Unset(String),
    /// `${` without a name or without its `}`. What stands there may be a secret.
    Malformed,
}

impl Environment {
    /// The variables of this process; those that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
    }

    /// Adds a variable, in the place of one of the same name.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds the `NAME=value` lines of `file`, if it is there, where a variable is not set.
    #[must_use]
    pub fn with_defaults_of(mut self, file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if self.get(name).is_none() {
                self = self.with(name, value);
            }
        }
        self
    }

    /// The value of `name`; none when it is not set or empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// `text` with `${VAR}` and `${VAR:-default}` replaced; `$${` stands for `${`.
    pub(super) fn substitute(&self, text: &str) -> Result<String, SubstitutionError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at]);
                out.push('{');
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let (inside, after) = rest[at + 2..].split_once('}').ok_or(SubstitutionError::Malformed)?;
            out.push_str(self.variable(inside)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn variable<'a>(&'a self, inside: &'a str) -> Result<&'a str, SubstitutionError> {
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(named) {
            return Err(SubstitutionError::Malformed);
        }
        self.get(name).or(default).ok_or_else(|| SubstitutionError::Unset(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once_and_an_unset_one_is_an_error() {
        let environment: Environment = [("A", "1"), ("NESTED", "${A}"), ("EMPTY", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into_iter()
            .collect();
        let unset = |name: &str| Err(SubstitutionError::Unset(name.to_owned()));
        let table = [
            ("plain", Ok("plain")),
            ("a${A}b${A}", Ok("a1b1")),
            ("${B:-two}", Ok("two")),
            ("${EMPTY:-x}", Ok("x")),
            ("${B:-}", Ok("")),
            ("$${A}", Ok("${A}")),
            ("$A $ {A}", Ok("$A $ {A}")),
            ("${NESTED}", Ok("${A}")),
            ("${B}", unset("B")),
            ("${EMPTY}", unset("EMPTY")),
            ("${A", Err(SubstitutionError::Malformed)),
            ("${}", Err(SubstitutionError::Malformed)),
            ("${a b}", Err(SubstitutionError::Malformed)),
        ];
        for (text, expected) in table {
            assert_eq!(environment.substitute(text), expected.map(str::to_owned), "{text}");
        }
    }
}

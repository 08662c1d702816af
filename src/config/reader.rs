//! A TOML or JSON document as a tree whose every value knows its place, and sections with known keys.
//!
//! Invariant: a `Section` holds only keys that its reader knows; an unknown one was refused with the nearest known
//! key. An error never shows the value of an unknown key, and of a private node only its type: the value may be a
//! password. This file knows no section by name.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::pattern::Json;

use super::environment::{Environment, SubstitutionError};
use super::error::{ConfigError, ConfigErrors, Place};

/// A value and where it is.
#[derive(Clone)]
pub(super) struct Node {
    pub place: Option<Place>,
    pub value: Value,
    /// Whether no error may show the value, or that of anything below it.
    pub is_private: bool,
}

/// What a document holds. Without `Debug`: it may hold passwords.
#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    /// As it was written, in base ten.
    Number(String),
    Flag(bool),
    Moment(String),
    Null,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// One key of a table.
#[derive(Clone)]
pub(super) struct Entry {
    pub key: String,
    pub place: Option<Place>,
    pub node: Node,
}

impl Node {
    /// Reads TOML; `file` is how errors name it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let lines = Lines { file: Arc::from(file), text };
        let table = DeTable::parse(text).map_err(|error| ConfigError {
            place: error.span().map(|span| lines.place(span.start)),
            key: String::new(),
            message: format!("this is not TOML: {}", error.message()),
            fix: String::new(),
        })?;
        Ok(Self { place: None, value: lines.table(table.get_ref())?, is_private: false })
    }

    /// Reads JSON; its values have no place.
    pub fn parse_json(file: &str, text: &str) -> Result<Self, ConfigError> {
        let json = Json::parse(text.as_bytes()).map_err(|error| ConfigError {
            place: Some(Place { file: Arc::from(file), line: error.line, column: error.column }),
            key: String::new(),
            message: format!("this is not JSON: {}", error.message),
            fix: String::new(),
        })?;
        Ok(Self::from_json(json))
    }

    /// A value of a JSON document.
    pub fn from_json(value: Json) -> Self {
        let entry = |(key, value)| Entry { key, place: None, node: Self::from_json(value) };
        let value = match value {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Flag(b),
            Json::Number(n) => Value::Number(n),
            Json::String(s) => Value::Text(s),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from_json).collect()),
            Json::Object(members) => Value::Table(members.into_iter().map(entry).collect()),
        };
        Self { place: None, value, is_private: false }
    }

    /// Makes private what is not below one of `keys`, and whatever stands there that is no table: a secret may be under
    /// a key that was mistyped.
    pub fn make_private_but(&mut self, keys: &[&str]) {
        let Value::Table(entries) = &mut self.value else { return };
        for Entry { key, node, .. } in entries {
            let is_public = keys.contains(&key.as_str()) && matches!(node.value, Value::Table(_) | Value::List(_));
            if !is_public {
                node.make_private();
            }
        }
    }

    fn make_private(&mut self) {
        self.is_private = true;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(Self::make_private),
            Value::Table(entries) => entries.iter_mut().for_each(|entry| entry.node.make_private()),
            _ => {}
        }
    }

    /// The value of `key` in a table.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }

    /// Replaces `${VAR}` in every text at and below the value, which is at `path`.
    fn substitute(&mut self, path: &str, environment: &Environment) -> Result<(), ConfigError> {
        match &mut self.value {
            Value::Text(text) => match environment.substitute(text) {
                Ok(replaced) => *text = replaced,
                Err(error) => return Err(unsubstituted(path, self.place.clone(), error)),
            },
            Value::List(items) => items.iter_mut().try_for_each(|item| item.substitute(path, environment))?,
            Value::Table(entries) => {
                entries.iter_mut().try_for_each(|e| e.node.substitute(&join(path, &e.key), environment))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Replaces `${VAR}` in the sections `keys`; what could not be is an error for each section.
    pub fn substitute_below(&mut self, keys: &[&str], environment: &Environment, errors: &mut ConfigErrors) {
        let Value::Table(entries) = &mut self.value else { return };
        for entry in entries.iter_mut().filter(|e| keys.contains(&e.key.as_str())) {
            errors.keep(entry.node.substitute(&entry.key, environment));
        }
    }

    /// The value as an error shows it; of a private one only its type.
    pub fn shown(&self) -> String {
        match &self.value {
            Value::Text(_) if self.is_private => "a string".to_owned(),
            Value::Number(_) if self.is_private => "a number".to_owned(),
            Value::Moment(_) if self.is_private => "a time".to_owned(),
            Value::Flag(_) if self.is_private => "a boolean".to_owned(),
            Value::List(items) if items.is_empty() => "an empty list".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Table(_) => "a table".to_owned(),
            Value::Null => "null".to_owned(),
            Value::Text(s) if s.chars().count() > 60 => format!("{:?}…", s.chars().take(60).collect::<String>()),
            Value::Text(s) => format!("{s:?}"),
            Value::Number(s) | Value::Moment(s) => s.clone(),
            Value::Flag(b) => b.to_string(),
        }
    }
}

/// Names what looks like a variable's name. Anything else may be the secret itself, written where its name belongs.
fn unsubstituted(path: &str, place: Option<Place>, error: SubstitutionError) -> ConfigError {
    let is_usual = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let (message, fix) = match error {
        SubstitutionError::Unset(name)
            if name.chars().all(is_usual) && !name.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            (
                format!("the environment variable {name} is not set"),
                format!("set it, or give a default: ${{{name}:-…}}"),
            )
        }
        SubstitutionError::Unset(_) => (
            "the environment variable that it names is not set".to_owned(),
            "set it, or give a default: ${NAME:-…}".to_owned(),
        ),
        SubstitutionError::Malformed => (
            "it holds a `${` that begins no variable".to_owned(),
            "write ${NAME} or ${NAME:-default}; $${ stands for a plain ${".to_owned(),
        ),
    };
    ConfigError { place, key: path.to_owned(), message, fix }
}

/// The path of `key` below `path`, quoted where TOML would quote it.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let quoted = if key.is_empty() || !key.chars().all(bare) { format!("{key:?}") } else { key.to_owned() };
    if path.is_empty() { quoted } else { format!("{path}.{quoted}") }
}

struct Lines<'a> {
    file: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn table(&self, table: &DeTable<'_>) -> Result<Value, ConfigError> {
        let mut entries = Vec::with_capacity(table.len());
        for (key, value) in table {
            let place = Some(self.place(key.span().start));
            entries.push(Entry { key: key.get_ref().to_string(), place, node: self.node(value)? });
        }
        // The order of the file, which the parser does not keep.
        entries.sort_by_key(|e| e.place.as_ref().map(|p| (p.line, p.column)));
        Ok(Value::Table(entries))
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Result<Node, ConfigError> {
        let place = self.place(value.span().start);
        let value = match value.get_ref() {
            DeValue::String(s) => Value::Text(s.to_string()),
            DeValue::Integer(i) => match i128::from_str_radix(i.as_str(), i.radix()) {
                Ok(number) => Value::Number(number.to_string()),
                Err(_) => return Err(too_large(place)),
            },
            DeValue::Float(f) => Value::Number(f.as_str().to_owned()),
            DeValue::Boolean(b) => Value::Flag(*b),
            DeValue::Datetime(d) => Value::Moment(d.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(|i| self.node(i)).collect::<Result<_, _>>()?),
            DeValue::Table(table) => self.table(table)?,
        };
        Ok(Node { place: Some(place), value, is_private: false })
    }
}

/// Without the number: it may be a password that lacks its quotes.
fn too_large(place: Place) -> ConfigError {
    ConfigError {
        place: Some(place),
        key: String::new(),
        message: "the number is too large".to_owned(),
        fix: "write it as text in quotes; in a pattern, write the pattern as JSON text".to_owned(),
    }
}

/// A table whose keys are all known.
pub(super) struct Section<'a> {
    node: &'a Node,
    /// The path of the table.
    pub path: String,
}

/// A value with the path of its key.
pub(super) struct Field<'a> {
    /// The value.
    pub node: &'a Node,
    /// The path of its key.
    pub path: String,
}

impl<'a> Section<'a> {
    /// The table `node` at `path`, which may have `keys` and no other.
    pub fn open(node: &'a Node, path: &str, keys: &[&str]) -> Result<Self, ConfigError> {
        let Value::Table(entries) = &node.value else {
            return Err(wrong_type(node, path, "a table"));
        };
        match entries.iter().find(|e| !keys.contains(&e.key.as_str())) {
            Some(unknown) => Err(unknown_key(unknown, path, keys)),
            None => Ok(Self { node, path: path.to_owned() }),
        }
    }

    /// The value of `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let node = self.node.get(key)?;
        Some(Field { node, path: join(&self.path, key) })
    }

    /// The value of `key`; `example` is what it could be.
    pub fn required(&self, key: &str, example: &str) -> Result<Field<'a>, ConfigError> {
        self.get(key).ok_or_else(|| self.error(key, format!("`{key}` is missing"), format!("add `{key} = {example}`")))
    }

    /// The tables below `key`, such as `[bus.NAME]`, by name.
    pub fn tables(&self, key: &str) -> Result<Vec<(&'a str, Field<'a>)>, ConfigError> {
        let Some(field) = self.get(key) else { return Ok(Vec::new()) };
        let Value::Table(entries) = &field.node.value else {
            return Err(wrong_type(field.node, &field.path, &format!("tables [{key}.NAME]")));
        };
        let below = |e: &'a Entry| (e.key.as_str(), Field { node: &e.node, path: join(&field.path, &e.key) });
        Ok(entries.iter().map(below).collect())
    }

    /// An error about the section, or about `key` of it.
    pub fn error(&self, key: &str, message: String, fix: String) -> ConfigError {
        let field = if key.is_empty() { None } else { self.get(key) };
        let place = field.map_or(&self.node.place, |f| &f.node.place).clone();
        let key = if key.is_empty() { self.path.clone() } else { join(&self.path, key) };
        ConfigError { place, key, message, fix }
    }

    /// Where the section is.
    pub fn place(&self) -> Option<Place> {
        self.node.place.clone()
    }
}

fn unknown_key(entry: &Entry, path: &str, keys: &[&str]) -> ConfigError {
    let known = keys.join(", ");
    let fix = match nearest(&entry.key, keys) {
        Some(near) => format!("did you mean `{near}`? the keys here are {known}"),
        None => format!("the keys here are {known}"),
    };
    // Without the value: the key may be a mistyped `password`.
    ConfigError { place: entry.place.clone(), key: join(path, &entry.key), message: "unknown key".to_owned(), fix }
}

/// The one of `known` that `word` is most like, if it is like one at all.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let like = |k: &&'k str| (strsim::jaro_winkler(word, k) * 1_000.0) as u32;
    known.iter().copied().max_by_key(like).filter(|k| like(k) > 750)
}

pub(super) fn wrong_type(node: &Node, path: &str, wanted: &str) -> ConfigError {
    ConfigError {
        place: node.place.clone(),
        key: path.to_owned(),
        message: format!("expected {wanted}, got {}", node.shown()),
        fix: String::new(),
    }
}

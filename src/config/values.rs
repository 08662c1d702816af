//! Values of the configuration: text, numbers in a range, durations, sizes, names.
//!
//! Invariant: a value that is not what its key takes is refused with the value, what is wanted and an example.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigError;
use super::reader::{Field, Value, wrong_type};

impl<'a> Field<'a> {
    /// An error about the value.
    pub fn error(&self, message: impl Into<String>, fix: impl Into<String>) -> ConfigError {
        let (place, key) = (self.node.place.clone(), self.path.clone());
        ConfigError { place, key, message: message.into(), fix: fix.into() }
    }

    /// A text.
    pub fn text(&self) -> Result<&'a str, ConfigError> {
        match &self.node.value {
            Value::Text(text) => Ok(text),
            _ => Err(wrong_type(self.node, &self.path, "a string")),
        }
    }

    /// A text that is not empty.
    pub fn word(&self) -> Result<&'a str, ConfigError> {
        match self.text()? {
            "" => Err(self.error("the text is empty", "")),
            text => Ok(text),
        }
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Result<bool, ConfigError> {
        match &self.node.value {
            Value::Flag(flag) => Ok(*flag),
            _ => Err(wrong_type(self.node, &self.path, "true or false")),
        }
    }

    /// A whole number in `range`.
    pub fn integer<T>(&self, range: RangeInclusive<T>) -> Result<T, ConfigError>
    where
        T: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        let Value::Number(text) = &self.node.value else {
            return Err(wrong_type(self.node, &self.path, &wanted()));
        };
        let number = text.parse::<i128>().ok().and_then(|n| T::try_from(n).ok());
        number.filter(|n| range.contains(n)).ok_or_else(|| wrong_type(self.node, &self.path, &wanted()))
    }

    /// A duration such as `"5s"` or `"250ms"` in `range`.
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let show = |d: &Duration| humantime::format_duration(*d);
        let wanted = format!("a duration from {} to {}, such as \"5s\"", show(range.start()), show(range.end()));
        let Value::Text(text) = &self.node.value else {
            return Err(wrong_type(self.node, &self.path, &wanted));
        };
        let duration = humantime::parse_duration(text).ok();
        duration.filter(|d| range.contains(d)).ok_or_else(|| wrong_type(self.node, &self.path, &wanted))
    }

    /// A size such as `"32MiB"`, or a number of bytes, in `range`.
    pub fn size(&self, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let show = |bytes: &u64| bytesize::ByteSize::b(*bytes).display().iec().to_string();
        let wanted = format!("a size from {} to {}, such as \"32MiB\"", show(range.start()), show(range.end()));
        let size = match &self.node.value {
            Value::Text(text) => text.parse::<bytesize::ByteSize>().ok().map(|s| s.as_u64()),
            Value::Number(text) => text.parse().ok(),
            _ => None,
        };
        size.filter(|s| range.contains(s)).ok_or_else(|| wrong_type(self.node, &self.path, &wanted))
    }

    /// A list of fields, their paths ending in `[0]`, `[1]`, ….
    pub fn list(&self) -> Result<Vec<Field<'a>>, ConfigError> {
        let Value::List(items) = &self.node.value else {
            return Err(wrong_type(self.node, &self.path, "a list"));
        };
        let item = |(at, node)| Field { node, path: format!("{}[{at}]", self.path) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A list of texts that are not empty.
    pub fn words(&self) -> Result<Vec<String>, ConfigError> {
        self.list()?.iter().map(|f| f.word().map(str::to_owned)).collect()
    }
}

/// Whether `name` is a name of a bus, trigger or function: the check of the tables.
pub(super) fn is_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(rest)
}

/// Whether `name` is a name of a rule: the check of the tables.
pub(super) fn is_rule_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = |c: char| first(c) || matches!(c, '.' | '_' | '-');
    name.len() <= 127 && name.starts_with(first) && name.chars().all(rest)
}

/// What a name may be, for errors.
pub(super) const NAME_FORM: &str = "a name is a lower-case letter and then up to 62 of a-z, 0-9, _ and -";

/// What a rule's name may be, for errors.
pub(super) const RULE_NAME_FORM: &str = "a rule's name is a-z or 0-9 and then up to 126 of a-z, 0-9, ., _ and -";

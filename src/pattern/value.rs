//! One value of a pattern against one scalar of an event.
//!
//! Invariant: a test looks at a single scalar and at nothing around it; objects and arrays are none. Which scalars
//! belong together is decided in `evaluate`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Decimal, Wildcard};

/// A scalar of an event: what is neither an object nor an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as the text that it was written as.
    Number(&'a str),
    /// A string, unescaped.
    Text(&'a str),
}

/// What a scalar must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// `null`.
    Null,
    /// This boolean.
    Bool(bool),
    /// This string.
    Text(String),
    /// This number.
    Number(Box<Decimal>),
    /// A string that starts so.
    Prefix(String),
    /// A string that starts so once folded; the text is folded.
    PrefixIgnoreCase(String),
    /// A string that ends so.
    Suffix(String),
    /// A string that ends so once folded; the text is folded.
    SuffixIgnoreCase(String),
    /// A string that is this once folded; the text is folded.
    EqualsIgnoreCase(String),
    /// A string as this wildcard says.
    Wildcard(Wildcard),
    /// A number in this range.
    Numeric(Box<Range>),
    /// A string that is an IP address in this network.
    Cidr(IpNet),
    /// Anything.
    Exists,
    /// Anything that none of these matches.
    AnythingBut(Vec<Test>),
}

/// A range of numbers, open where a bound is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    /// The bound from below.
    pub lower: Option<Bound>,
    /// The bound from above.
    pub upper: Option<Bound>,
}

/// One end of a range.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// The number at the end.
    pub at: Decimal,
    /// Whether the number itself is in the range.
    pub inclusive: bool,
}

impl Test {
    /// The only string that it can match, if it says one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Test::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this scalar is as the test says.
    pub fn matches(&self, value: Scalar<'_>) -> bool {
        match (self, value) {
            (Test::Exists, _) | (Test::Null, Scalar::Null) => true,
            (Test::AnythingBut(refused), _) => !refused.iter().any(|test| test.matches(value)),
            (Test::Bool(wanted), Scalar::Bool(got)) => *wanted == got,
            (Test::Number(wanted), Scalar::Number(got)) => **wanted == Decimal::parse(got),
            (Test::Numeric(range), Scalar::Number(got)) => range.contains(&Decimal::parse(got)),
            (test, Scalar::Text(got)) => test.matches_text(got),
            _ => false,
        }
    }

    fn matches_text(&self, got: &str) -> bool {
        match self {
            Test::Text(wanted) => got == wanted,
            Test::Prefix(wanted) => got.starts_with(wanted.as_str()),
            Test::Suffix(wanted) => got.ends_with(wanted.as_str()),
            Test::EqualsIgnoreCase(wanted) => got.chars().map(fold_char).eq(wanted.chars()),
            Test::PrefixIgnoreCase(wanted) => {
                let mut got = got.chars().map(fold_char);
                wanted.chars().all(|character| got.next() == Some(character))
            }
            Test::SuffixIgnoreCase(wanted) => {
                let mut got = got.chars().rev().map(fold_char);
                wanted.chars().rev().all(|character| got.next() == Some(character))
            }
            Test::Wildcard(wildcard) => wildcard.matches(got),
            Test::Cidr(network) => got.parse::<IpAddr>().is_ok_and(|address| network.contains(&address)),
            _ => false,
        }
    }

    /// How many comparisons the test stands for; a wildcard counts one more for each star.
    pub fn cost(&self) -> u64 {
        match self {
            Test::AnythingBut(refused) => refused.iter().map(Test::cost).sum(),
            Test::Wildcard(wildcard) => 1 + wildcard.stars() as u64,
            _ => 1,
        }
    }
}

impl Range {
    /// Whether the number is in the range.
    pub fn contains(&self, number: &Decimal) -> bool {
        let above = |bound: &Bound| *number > bound.at || (bound.inclusive && *number == bound.at);
        let below = |bound: &Bound| *number < bound.at || (bound.inclusive && *number == bound.at);
        self.lower.as_ref().is_none_or(above) && self.upper.as_ref().is_none_or(below)
    }

    /// The one number that is in the range, if it is only one.
    pub fn only(&self) -> Option<&Decimal> {
        let (lower, upper) = (self.lower.as_ref()?, self.upper.as_ref()?);
        (lower.at == upper.at).then_some(&lower.at)
    }

    /// Whether no number can be in the range.
    pub fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (Some(lower), Some(upper)) if lower.at == upper.at => !(lower.inclusive && upper.inclusive),
            (Some(lower), Some(upper)) => lower.at > upper.at,
            _ => false,
        }
    }
}

/// Folds case one character at a time, so that a folded text is as long as the text: `ß` is not `SS`, `K` (kelvin) is
/// `k`.
pub fn fold(text: &str) -> String {
    text.chars().map(fold_char).collect()
}

/// Folds one character.
pub fn fold_char(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    let upper = only(character.to_uppercase()).unwrap_or(character);
    only(upper.to_lowercase()).unwrap_or(upper)
}

fn only(mut characters: impl Iterator<Item = char>) -> Option<char> {
    let first = characters.next();
    if characters.next().is_some() { None } else { first }
}

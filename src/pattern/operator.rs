//! One value of a pattern, as it is written: a scalar, or an object with one operator.
//!
//! Invariant: what is accepted here can match some event (no empty list, no impossible range), and what is refused
//! names the operator, the operand and, where one is likely, what was meant. It knows nothing of fields or `$or`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::{PatternError, quote, suggest};
use super::value::{Bound, Range, Test, fold};
use super::wildcard::{Wildcard, WildcardError};
use super::{Decimal, Json};

/// The operators, for suggestions.
pub const OPERATORS: [&str; 9] =
    ["anything-but", "prefix", "suffix", "equals-ignore-case", "wildcard", "numeric", "exists", "cidr", "exactly"];

/// Stars in one wildcard.
const WILDCARD_STARS_MAX: usize = 32;

/// The powers of ten that a `numeric` bound may have: those of a double, since a bound outside is a slip of the pen.
const BOUND_EXPONENTS: std::ops::RangeInclusive<i128> = -324..=308;

/// What one value of a field's list asks for.
pub enum Value {
    /// A scalar as this test says.
    Test(Test),
    /// No value at all.
    Absent,
}

/// Reads one value of a field's list.
pub fn parse(value: &Json) -> Result<Value, PatternError> {
    let members = match value {
        Json::Object(members) => members,
        Json::Array(_) => {
            return Err(PatternError::new("a list inside a list").suggest("write its values into the outer list"));
        }
        scalar => return exact(scalar).map(Value::Test),
    };
    let (name, operand) = single(members)?;
    let test = match name {
        "exactly" => text(operand).map(|text| Test::Text(text.to_owned())),
        "prefix" => affix(operand, Test::Prefix, Test::PrefixIgnoreCase),
        "suffix" => affix(operand, Test::Suffix, Test::SuffixIgnoreCase),
        "equals-ignore-case" => text(operand).map(|text| Test::EqualsIgnoreCase(fold(text))),
        "wildcard" => wildcard(operand),
        "numeric" => numeric(operand),
        "cidr" => cidr(operand),
        "anything-but" => anything_but(operand),
        "exists" => match operand {
            Json::Bool(true) => Ok(Test::Exists),
            Json::Bool(false) => return Ok(Value::Absent),
            other => Err(wrong_kind("true or false", other)),
        },
        unknown => return Err(unknown_operator(unknown, &OPERATORS)),
    };
    test.map(Value::Test).map_err(|error| error.under(name))
}

/// The one member of an operator's object.
fn single(members: &[(String, Json)]) -> Result<(&str, &Json), PatternError> {
    match members {
        [(name, operand)] => Ok((name, operand)),
        [] => Err(PatternError::new("an empty object where an operator should be")),
        [(first, _), (second, _), ..] => {
            let message = format!("one object has two operators, {} and {}", quote(first), quote(second));
            Err(PatternError::new(message).suggest("give each operator its own object: values in a list are or-ed"))
        }
    }
}

fn unknown_operator(name: &str, known: &[&str]) -> PatternError {
    PatternError::new(format!("unknown operator {}", quote(name))).suggest_some(suggest(name, known))
}

fn wrong_kind(wanted: &str, got: &Json) -> PatternError {
    PatternError::new(format!("expected {wanted}, got {}", got.kind()))
}

fn exact(scalar: &Json) -> Result<Test, PatternError> {
    match scalar {
        Json::Null => Ok(Test::Null),
        Json::Bool(value) => Ok(Test::Bool(*value)),
        Json::Number(text) => Ok(Test::Number(Decimal::parse(text).into())),
        Json::String(text) => Ok(Test::Text(text.clone())),
        other => Err(wrong_kind("a string, a number, true, false or null", other)),
    }
}

fn text(operand: &Json) -> Result<&str, PatternError> {
    match operand {
        Json::String(text) => Ok(text),
        Json::Array(_) => Err(wrong_kind("a string", operand)
            .suggest("give each string its own operator object: values in a list are or-ed")),
        other => Err(wrong_kind("a string", other)),
    }
}

/// `prefix` or `suffix`: a string, or `{"equals-ignore-case": string}`.
fn affix(operand: &Json, plain: fn(String) -> Test, folded: fn(String) -> Test) -> Result<Test, PatternError> {
    let Json::Object(members) = operand else {
        return text(operand).map(|text| plain(text.to_owned()));
    };
    match single(members)? {
        (name @ "equals-ignore-case", operand) => {
            text(operand).map(|text| folded(fold(text))).map_err(|error| error.under(name))
        }
        (unknown, _) => Err(unknown_operator(unknown, &["equals-ignore-case"])),
    }
}

fn wildcard(operand: &Json) -> Result<Test, PatternError> {
    let text = text(operand)?;
    let wildcard = Wildcard::parse(text).map_err(|error| match error {
        WildcardError::TwoStars => PatternError::new(format!("two stars in a row in {}", quote(text)))
            .suggest("write `*` for `**`, or `\\*` for a star itself"),
        WildcardError::EndsInBackslash => PatternError::new(format!("{} ends in a lone backslash", quote(text)))
            .suggest("write `\\\\` for a backslash itself (`\\\\\\\\` in JSON)"),
        WildcardError::UnknownEscape(character) => {
            PatternError::new(format!("unknown escape of {} in {}", quote(&character.to_string()), quote(text)))
                .suggest("only `\\*` and `\\\\` are escapes (`\\\\*` and `\\\\\\\\` in JSON)")
        }
    })?;
    if wildcard.stars() > WILDCARD_STARS_MAX {
        let message = format!("the wildcard has {} stars; at most {WILDCARD_STARS_MAX}", wildcard.stars());
        return Err(PatternError::new(message));
    }
    Ok(Test::Wildcard(wildcard))
}

fn cidr(operand: &Json) -> Result<Test, PatternError> {
    let text = text(operand)?;
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let error = || PatternError::new(format!("{} is not a network", quote(text)));
    let network = network.ok_or_else(|| error().suggest("write an address and a length, such as \"10.0.0.0/8\""))?;
    Ok(Test::Cidr(network))
}

fn numeric(operand: &Json) -> Result<Test, PatternError> {
    let Json::Array(items) = operand else {
        return Err(wrong_kind("a list of comparisons", operand).suggest("write [\">\", 0] or [\">\", 0, \"<=\", 5]"));
    };
    let mut range = Range { lower: None, upper: None };
    let mut shown = Vec::new();
    for (index, pair) in items.chunks(2).enumerate() {
        let (sign, number) = comparison(pair, index * 2)?;
        let bound = |inclusive| Some(Bound { at: Decimal::parse(number), inclusive });
        match (sign, index) {
            ("=", 0) if items.len() == 2 => range = Range { lower: bound(true), upper: bound(true) },
            (">" | ">=", 0) => range.lower = bound(sign == ">="),
            ("<" | "<=", 0) if items.len() == 2 => range.upper = bound(sign == "<="),
            ("<" | "<=", 1) if range.lower.is_some() => range.upper = bound(sign == "<="),
            _ => {
                let message = format!("{} is not expected here", quote(sign));
                return Err(PatternError::new(message)
                    .suggest("a range has one comparison, or a lower bound and then an upper bound")
                    .under_index(index * 2));
            }
        }
        shown.push(format!("{sign} {number}"));
    }
    if range.is_empty() {
        let message = format!("no number is {}", shown.join(" and "));
        return Err(PatternError::new(message).suggest("a range needs its lower bound below its upper bound"));
    }
    if shown.is_empty() {
        return Err(
            PatternError::new("an empty list of comparisons").suggest("write [\">\", 0] or [\">\", 0, \"<=\", 5]")
        );
    }
    Ok(Test::Numeric(range.into()))
}

/// A sign and a number, from a list in which they are at `index` and the one after.
fn comparison(pair: &[Json], index: usize) -> Result<(&str, &str), PatternError> {
    let sign = match pair.first() {
        Some(Json::String(sign)) if ["=", "<", "<=", ">", ">="].contains(&sign.as_str()) => sign,
        Some(Json::String(other)) => {
            let message = format!("unknown comparison {}", quote(other));
            let meant = suggest(other, &["=", "<", "<=", ">", ">="]);
            return Err(PatternError::new(message).suggest_some(meant).under_index(index));
        }
        Some(other) => return Err(wrong_kind("=, <, <=, > or >=", other).under_index(index)),
        None => return Err(PatternError::new("a comparison is missing").under_index(index)),
    };
    let at = index + 1;
    match pair.get(1) {
        Some(Json::Number(number)) => match Decimal::parse(number).exponent() {
            Some(exponent) if !BOUND_EXPONENTS.contains(&exponent) => {
                let message = format!("{} is beyond the range of a double", quote(number));
                Err(PatternError::new(message).suggest("leave the bound out, or mend its exponent").under_index(at))
            }
            _ => Ok((sign, number)),
        },
        Some(other @ Json::String(text))
            if Json::parse(text.as_bytes()).is_ok_and(|json| matches!(json, Json::Number(_))) =>
        {
            let error = wrong_kind("a number", other).suggest(format!("write {text} without quotes"));
            Err(error.under_index(at))
        }
        Some(other) => Err(wrong_kind("a number", other).under_index(at)),
        None => Err(PatternError::new(format!("{} has no number after it", quote(sign))).under_index(index)),
    }
}

fn anything_but(operand: &Json) -> Result<Test, PatternError> {
    let refused = match operand {
        Json::Array(items) => scalars(items)?,
        Json::Object(members) => {
            let (name, operand) = single(members)?;
            anything_but_operator(name, operand).map_err(|error| error.under_known(name, &OPERATORS))?
        }
        scalar => vec![exact(scalar)?],
    };
    Ok(Test::AnythingBut(refused))
}

fn scalars(items: &[Json]) -> Result<Vec<Test>, PatternError> {
    if items.is_empty() {
        return Err(PatternError::new("an empty list excludes nothing").suggest("write {\"exists\": true}"));
    }
    let strings = items.iter().position(|item| matches!(item, Json::String(_)));
    let numbers = items.iter().position(|item| matches!(item, Json::Number(_)));
    if let (Some(string), Some(number)) = (strings, numbers) {
        let error = PatternError::new("strings and numbers in one anything-but").under_index(string.max(number));
        return Err(error.suggest("a value has one type: exclude the strings or the numbers"));
    }
    let exact = |(index, item)| exact(item).map_err(|error| error.under_index(index));
    items.iter().enumerate().map(exact).collect()
}

fn anything_but_operator(name: &str, operand: &Json) -> Result<Vec<Test>, PatternError> {
    let build: fn(&Json) -> Result<Test, PatternError> = match name {
        "prefix" => |operand| not_empty(operand).map(Test::Prefix),
        "suffix" => |operand| not_empty(operand).map(Test::Suffix),
        "wildcard" => wildcard,
        "equals-ignore-case" => |operand| text(operand).map(|text| Test::EqualsIgnoreCase(fold(text))),
        unknown => return Err(unknown_operator(unknown, &["prefix", "suffix", "wildcard", "equals-ignore-case"])),
    };
    match operand {
        Json::Array(items) if items.is_empty() => {
            Err(PatternError::new("an empty list excludes nothing").suggest("write {\"exists\": true}"))
        }
        Json::Array(items) => {
            let build = |(index, item)| build(item).map_err(|error| error.under_index(index));
            items.iter().enumerate().map(build).collect()
        }
        one => Ok(vec![build(one)?]),
    }
}

fn not_empty(operand: &Json) -> Result<String, PatternError> {
    match text(operand)? {
        "" => Err(PatternError::new("every string starts and ends with \"\", so nothing is left to match")),
        text => Ok(text.to_owned()),
    }
}

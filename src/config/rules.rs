//! `[[rule]]`: a rule as the manifest, `rule add --file` or the options of `rule add` say it.
//!
//! Invariant: a rule that was read compiles, and every one of its values passes the checks of the table; whether its
//! trigger and function are there is found against the whole manifest and the tables.

use std::time::Duration;

use crate::event::subject;
use crate::pattern::Json;
use crate::retry::RetryPolicy;
use crate::rules::{CompiledRule, OnFailure, Rate, Rule, RuleError, Target};

use super::error::{ConfigError, Place};
use super::reader::{Field, Node, Section, Value};
use super::values::{NAME_FORM, RULE_NAME_FORM, is_name, is_rule_name};

const KEYS: &[&str] = &[
    "name",
    "trigger",
    "pattern",
    "match_all",
    "run",
    "publish",
    "input",
    "ordering_key",
    "on_failure",
    "retry",
    "batch",
    "rate",
    "start",
    "enabled",
];
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// One `[[rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// The rule.
    pub rule: Rule,
    /// Where it is written.
    pub place: Option<Place>,
}

/// Reads the rule at `path`.
pub(super) fn read(node: &Node, path: &str) -> Result<RuleEntry, ConfigError> {
    let section = Section::open(node, path, KEYS)?;
    let name = section.required("name", "\"my-rule\"")?;
    if !is_rule_name(name.word()?) {
        return Err(name.error(format!("{} cannot be the name of a rule", name.node.shown()), RULE_NAME_FORM));
    }
    refuse_what_is_to_come(&section)?;
    let text = |key: &str| section.get(key).map(|f| f.word().map(str::to_owned)).transpose();
    let rule = Rule {
        name: name.word()?.to_owned(),
        trigger: section.get("trigger").map(|f| trigger(&f)).transpose()?,
        pattern: pattern(&section)?,
        target: target(&section)?,
        input: text("input")?,
        ordering_key: text("ordering_key")?,
        on_failure: section.get("on_failure").map_or(Ok(OnFailure::default()), |f| on_failure(&f))?,
        retry: section.get("retry").map_or(Ok(RetryPolicy::default()), |f| retry(&f))?,
        rate: section.get("rate").map(|f| rate(&f)).transpose()?,
        enabled: section.get("enabled").map_or(Ok(true), |f| f.flag())?,
    };
    // Whether the function is there is not known here.
    CompiledRule::compile(rule.clone(), |_| Some(1)).map_err(|e| uncompiled(&section, e))?;
    Ok(RuleEntry { rule, place: section.place() })
}

fn uncompiled(section: &Section<'_>, error: RuleError) -> ConfigError {
    match error.field {
        "rate.key" => {
            let error_at_rate = section.error("rate", error.message, String::new());
            ConfigError { key: format!("{}.key", error_at_rate.key), ..error_at_rate }
        }
        key => section.error(key, error.message, String::new()),
    }
}

fn trigger(field: &Field<'_>) -> Result<String, ConfigError> {
    let name = field.word()?;
    if is_name(name) { Ok(name.to_owned()) } else { Err(field.error(format!("{name:?} is no trigger"), NAME_FORM)) }
}

fn pattern(section: &Section<'_>) -> Result<Option<String>, ConfigError> {
    let match_all = section.get("match_all").map_or(Ok(false), |f| f.flag())?;
    match (section.get("pattern"), match_all) {
        (Some(_), true) => {
            let fix = "keep one of them".to_owned();
            Err(section.error("match_all", "`pattern` and `match_all = true` do not go together".to_owned(), fix))
        }
        (None, true) => Ok(None),
        (None, false) => {
            let fix =
                "add `pattern = '{\"type\":[\"user.signup\"]}'`, or `match_all = true` for every event".to_owned();
            Err(section.error("pattern", "`pattern` is missing".to_owned(), fix))
        }
        (Some(field), false) => match &field.node.value {
            Value::Text(text) => Ok(Some(text.clone())),
            Value::Table(_) => {
                let mut text = Vec::new();
                to_json(field.node).write(&mut text);
                Ok(Some(String::from_utf8_lossy(&text).into_owned()))
            }
            _ => Err(field.error(format!("expected JSON text or a table, got {}", field.node.shown()), "")),
        },
    }
}

/// The JSON that a table stands for, numbers digit by digit as they were written.
fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Text(s) | Value::Moment(s) => Json::string(s.as_str()),
        Value::Number(n) => Json::Number(n.strip_prefix('+').unwrap_or(n).to_owned()),
        Value::Flag(b) => Json::bool(*b),
        Value::Null => Json::null(),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Table(entries) => Json::object(entries.iter().map(|e| (e.key.clone(), to_json(&e.node))).collect()),
    }
}

fn target(section: &Section<'_>) -> Result<Target, ConfigError> {
    match (section.get("run"), section.get("publish")) {
        (Some(run), None) => run_target(&run),
        (None, Some(publish)) => publish_target(&publish),
        (Some(_), Some(_)) => {
            let fix = "keep one of them".to_owned();
            Err(section.error("publish", "`run` and `publish` do not go together".to_owned(), fix))
        }
        (None, None) => {
            let fix = "add `run = \"FUNCTION\"` or `publish = \"BUS/SUBJECT\"`".to_owned();
            Err(section.error("", "the rule does nothing".to_owned(), fix))
        }
    }
}

fn run_target(field: &Field<'_>) -> Result<Target, ConfigError> {
    let text = field.word()?;
    let (function, version) = match text.split_once('@') {
        Some((function, version)) => (function, Some(version)),
        None => (text, None),
    };
    let fix = "it is a function, as in \"welcome\", or one version of it, as in \"welcome@3\"";
    let refused = || field.error(format!("{text:?} is no function"), fix);
    let version = match version.map(str::parse::<u32>) {
        None => None,
        Some(Ok(version)) if (1..=i32::MAX.unsigned_abs()).contains(&version) => Some(version),
        Some(_) => return Err(refused()),
    };
    if is_name(function) { Ok(Target::Run { function: function.to_owned(), version }) } else { Err(refused()) }
}

fn publish_target(field: &Field<'_>) -> Result<Target, ConfigError> {
    let text = field.word()?;
    let form = "it is a bus and a subject without wildcards, as in \"events/user.created\"";
    let refused = || field.error(format!("\"{}\" is no bus and subject", subject::shown(text)), form);
    let (bus, subject) = text.split_once('/').ok_or_else(refused)?;
    if !is_name(bus) {
        return Err(refused());
    }
    let problem = |problem| field.error(format!("\"{}\" {problem}", subject::shown(subject)), form);
    subject::check(subject).map_err(problem)?;
    Ok(Target::Publish { bus: bus.to_owned(), subject: subject.to_owned() })
}

fn on_failure(field: &Field<'_>) -> Result<OnFailure, ConfigError> {
    match field.text()? {
        "park_key" => Ok(OnFailure::ParkKey),
        "skip" => Ok(OnFailure::Skip),
        other => Err(field.error(format!("{other:?} is unknown"), "it is \"park_key\" or \"skip\"")),
    }
}

fn retry(field: &Field<'_>) -> Result<RetryPolicy, ConfigError> {
    let section = Section::open(field.node, &field.path, &["max_attempts", "base", "cap", "max_age"])?;
    let mut retry = RetryPolicy::default();
    if let Some(field) = section.get("max_attempts") {
        retry.max_attempts = field.integer(1..=1_000)?;
    }
    if let Some(field) = section.get("base") {
        retry.base = field.duration(MILLISECOND..=DAY)?;
        // A base above the default cap raises it, unless `cap` says otherwise.
        retry.cap = retry.cap.max(retry.base);
    }
    if let Some(field) = section.get("cap") {
        retry.cap = field.duration(retry.base..=DAY * 7)?;
    }
    if let Some(field) = section.get("max_age") {
        retry.max_age = field.duration(MILLISECOND..=DAY * 30)?;
    }
    Ok(retry)
}

fn rate(field: &Field<'_>) -> Result<Rate, ConfigError> {
    let section = Section::open(field.node, &field.path, &["per_second", "key"])?;
    Ok(Rate {
        per_second: section.required("per_second", "100")?.integer(1..=1_000_000)?,
        key: section.get("key").map(|f| f.word().map(str::to_owned)).transpose()?,
    })
}

fn refuse_what_is_to_come(section: &Section<'_>) -> Result<(), ConfigError> {
    if let Some(field) = section.get("batch") {
        let batch = Section::open(field.node, &field.path, &["max", "wait"])?;
        if let Some(max) = batch.get("max")
            && max.integer(1..=u32::MAX)? > 1
        {
            return Err(max.error("batches are not supported by this version", "remove it, or write 1"));
        }
        if let Some(wait) = batch.get("wait")
            && !wait.duration(Duration::ZERO..=DAY)?.is_zero()
        {
            return Err(wait.error("batches are not supported by this version", "remove it, or write \"0s\""));
        }
    }
    match section.get("start") {
        Some(field) if field.text()? != "now" => {
            let fix = "remove it, or write \"now\"; where a trigger begins is `start` of the trigger";
            Err(field.error(format!("a start of {} is not supported by this version", field.node.shown()), fix))
        }
        _ => Ok(()),
    }
}

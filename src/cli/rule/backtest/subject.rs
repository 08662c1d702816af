//! The rule that is tried: one of the tables, one of a file, or a pattern.
//!
//! Invariant: what is given compiles, by the same code as on a node. Whether its function is there does not matter for what it
//! matches, and is not asked.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::cli::arguments::read_input;
use crate::config::{self, RuleEntry};
use crate::pattern::Json;
use crate::retry::RetryPolicy;
use crate::rules::{CompiledRule, OnFailure, Rule, Target};
use crate::store::StoreError;
use crate::store::control::ControlPlane;

use super::Args;

/// What a bare pattern is called.
const PATTERN: &str = "the pattern";

/// The rule that is tried.
#[derive(Debug)]
pub(super) struct Subject {
    /// Compiled.
    pub(super) rule: CompiledRule,
    /// Whether it is a rule, and not only a pattern.
    pub(super) is_rule: bool,
    /// The rule of that name as the tables have it, where this one is another.
    pub(super) before: Option<CompiledRule>,
}

impl Subject {
    /// How it is called.
    pub(super) fn name(&self) -> &str {
        &self.rule.rule.name
    }

    /// The only trigger whose events it sees.
    pub(super) fn trigger(&self) -> Option<&str> {
        self.rule.rule.trigger.as_deref()
    }

    /// What it does; none for a bare pattern.
    pub(super) fn target(&self) -> Option<&Target> {
        self.is_rule.then_some(&self.rule.rule.target)
    }
}

/// The rule that `args` name.
pub(super) fn read(args: &Args, tables: &ControlPlane) -> anyhow::Result<Subject> {
    let (mut rule, is_rule) = match (&args.file, &args.pattern, &args.name) {
        (Some(file), ..) => of_file(file, args.name.as_deref())?,
        (None, Some(pattern), _) => (bare(pattern.clone()), false),
        (None, None, Some(name)) => (crate::cli::rule::find(tables, name)?.rule.clone(), true),
        (None, None, None) => bail!("no rule is named: give its name, --file FILE or --pattern JSON"),
    };
    if args.trigger.is_some() {
        rule.trigger.clone_from(&args.trigger);
    }
    if let Some(trigger) = &rule.trigger
        && args.from.is_empty()
        && !tables.triggers.iter().any(|row| row.name == *trigger)
    {
        return Err(StoreError::Missing { kind: "trigger", name: trigger.clone() }.into());
    }
    let known = tables.rules.iter().find(|row| is_rule && row.rule.name == rule.name);
    let before = known.filter(|row| row.rule.pattern != rule.pattern || row.rule.trigger != rule.trigger);
    // One that does not compile matches nothing: there is nothing to compare with.
    let before = before.and_then(|row| compile(row.rule.clone()).ok());
    let name = rule.name.clone();
    let rule = compile(rule).with_context(|| format!("{name} cannot be tried"))?;
    Ok(Subject { rule, is_rule, before })
}

fn compile(rule: Rule) -> Result<CompiledRule, crate::rules::RuleError> {
    CompiledRule::compile(rule, |_| Some(1))
}

/// A rule that is only a pattern.
fn bare(pattern: String) -> Rule {
    Rule {
        name: PATTERN.to_owned(),
        trigger: None,
        pattern: Some(pattern),
        // On no bus: it is never published.
        target: Target::Publish { bus: String::new(), subject: "nowhere".to_owned() },
        input: None,
        ordering_key: None,
        on_failure: OnFailure::default(),
        retry: RetryPolicy::default(),
        rate: None,
        enabled: true,
    }
}

fn of_file(file: &Path, name: Option<&str>) -> anyhow::Result<(Rule, bool)> {
    let shown = file.display();
    let text = String::from_utf8(read_input(file)?).with_context(|| format!("{shown} is not UTF-8"))?;
    if is_pattern(&text) {
        ensure!(name.is_none(), "{shown} is a pattern and has no name: leave {} out", name.unwrap_or_default());
        return Ok((bare(text), false));
    }
    let rules = config::read_rules(file, &text)?;
    let names = || rules.iter().map(|entry| entry.rule.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen: Option<&RuleEntry> = match name {
        Some(name) => rules.iter().find(|entry| entry.rule.name == name),
        None if rules.len() == 1 => rules.first(),
        None => bail!("{shown} has {} rules: name one of them: {}", rules.len(), names()),
    };
    let chosen =
        chosen.with_context(|| format!("{shown} has no rule \"{}\"; it has {}", name.unwrap_or_default(), names()));
    Ok((chosen?.rule.clone(), true))
}

/// Whether `text` is a pattern and no rule: a rule has a pattern, or says what it is called and what it does.
fn is_pattern(text: &str) -> bool {
    let Ok(json @ Json::Object(_)) = Json::parse(text.as_bytes()) else { return false };
    let is_text = |key: &str| json.get(key).is_some_and(|value| value.as_str().is_some());
    let has = |key: &str| json.get(key).is_some();
    !(has("pattern") || has("match_all") || is_text("name") || is_text("run") || is_text("publish"))
}

#[cfg(test)]
mod tests {
    use super::is_pattern;

    #[test]
    fn a_pattern_is_told_from_a_rule() {
        let table = [
            (r#"{"type":["a"]}"#, true),
            (r#"{"name":["a"],"data":{"x":[1]}}"#, true),
            (r#"{"name":"a","pattern":{"type":["a"]},"run":"f"}"#, false),
            (r#"{"type":"a"}"#, true),
            (r#"{"match_all":true}"#, false),
            ("name = \"a\"", false),
            ("[1]", false),
        ];
        for (text, expected) in table {
            assert_eq!(is_pattern(text), expected, "{text}");
        }
    }
}

//! `oncue rule test`: does a rule match an event, and what would its target get?
//!
//! Invariant: the same document, pattern and template that a node uses; with --pattern the database is not asked.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::pattern::Pattern;
use crate::rules::Rule;
use crate::transform::Transformer;

use crate::cli::Context;
use crate::cli::sample::SampleArgs;

/// What may be typed after `oncue rule test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rule
    #[arg(required_unless_present = "pattern")]
    name: Option<String>,
    /// A pattern instead of a rule
    #[arg(long, value_name = "JSON", conflicts_with = "name")]
    pattern: Option<String>,
    /// A template, with --pattern
    #[arg(long, value_name = "JSON", requires = "pattern")]
    input: Option<String>,
    #[command(flatten)]
    sample: SampleArgs,
}

#[derive(Serialize)]
struct Tested {
    rule: Option<String>,
    matches: bool,
    enabled: bool,
    input: Option<Box<RawValue>>,
}

/// Tests. The exit code is 1 if the rule does not match.
///
/// # Errors
/// No such rule, a pattern, a template or an event with a mistake.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let document = args.sample.document()?;
    let rule = rule(&args, context).await?;
    let (pattern, input) = match &rule {
        Some(rule) => (rule.pattern.clone(), rule.input.clone()),
        None => (args.pattern, args.input),
    };
    let pattern = pattern.as_deref().map_or(Ok(Pattern::match_all()), Pattern::parse)?;
    let transformer = input.as_deref().map(Transformer::parse).transpose()?;
    let matches = pattern.matches(&document);
    // What a transformer writes is JSON.
    let shown = |t: &Transformer| RawValue::from_string(String::from_utf8_lossy(&t.apply(&document)).into_owned());
    let tested = Tested {
        rule: rule.as_ref().map(|r| r.name.clone()),
        matches,
        enabled: rule.as_ref().is_none_or(|r| r.enabled),
        input: transformer.as_ref().filter(|_| matches).map(shown).transpose()?,
    };
    context.output.one(&tested, text)?;
    Ok(if matches { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn rule(args: &Args, context: &Context) -> anyhow::Result<Option<Rule>> {
    let Some(name) = &args.name else { return Ok(None) };
    let tables = super::tables(context).await?;
    Ok(Some(super::find(&tables, name)?.rule.clone()))
}

fn text(tested: &Tested) -> String {
    let verdict = if tested.matches { "matches" } else { "does not match" };
    let disabled = if tested.enabled { "" } else { " (the rule is disabled)" };
    match &tested.input {
        Some(input) => format!("{verdict}{disabled}\ninput: {}", crate::cli::output::printable(input.get())),
        None => format!("{verdict}{disabled}"),
    }
}

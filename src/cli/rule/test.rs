//! `oncue rule test`: does a rule match an event, which field decides, and what would its target get?
//!
//! Invariant: the same document, pattern and template that a node uses; with --pattern the database is not asked.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::pattern::{self, Explanation};
use crate::rules::Rule;
use crate::transform::Transformer;

use crate::cli::Context;
use crate::cli::explain::draw;
use crate::cli::output::printable;
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
    explanation: Explanation,
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
    let explanation = pattern
        .as_deref()
        .map_or_else(|| Ok(Explanation::of_match_all()), |pattern| pattern::explain(pattern, &document))?;
    let transformer = input.as_deref().map(Transformer::parse).transpose()?;
    let matches = explanation.matches;
    // What a transformer writes is JSON.
    let shown = |t: &Transformer| RawValue::from_string(String::from_utf8_lossy(&t.apply(&document)).into_owned());
    let tested = Tested {
        rule: rule.as_ref().map(|r| r.name.clone()),
        matches,
        enabled: rule.as_ref().is_none_or(|r| r.enabled),
        explanation,
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
    let name = tested.rule.as_deref().unwrap_or("the pattern");
    let mut text = draw::text(name, &tested.explanation);
    if !tested.enabled {
        text.push_str("\nthe rule is disabled");
    }
    if let Some(input) = &tested.input {
        text.push_str("\ninput: ");
        text.push_str(input.get());
    }
    printable(&text)
}

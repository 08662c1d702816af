//! `oncue rule add`: a rule from options or from a file.
//!
//! Invariant: the options make the same document that a file holds, so that there is one reader and one set of errors.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::{self, Known, Manifest, RuleEntry};
use crate::store::apply::Changes;

use crate::cli::Context;
use crate::cli::arguments::{key_value, read_input};

/// What may be typed after `oncue rule add`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rule; with --file, the file names it
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// A file with the rule, as TOML or JSON: one `[[rule]]`, or its keys alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "options"])]
    file: Option<PathBuf>,
    /// Replace a rule of the same name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
#[group(id = "options", multiple = true)]
struct Options {
    /// Only events of this trigger [default: any]
    #[arg(long)]
    trigger: Option<String>,
    /// The pattern
    #[arg(long, value_name = "JSON", conflicts_with = "match_all")]
    pattern: Option<String>,
    /// Match every event
    #[arg(long)]
    match_all: bool,
    /// The function that it runs: welcome, welcome@3
    #[arg(long, value_name = "NAME[@VERSION]", conflicts_with = "publish")]
    run: Option<String>,
    /// Where it publishes the event
    #[arg(long, value_name = "BUS/SUBJECT")]
    publish: Option<String>,
    /// The template that makes the payload
    #[arg(long, value_name = "JSON")]
    input: Option<String>,
    /// The path of the value whose events run one after another
    #[arg(long, value_name = "PATH")]
    ordering_key: Option<String>,
    /// What later events of a key do while an earlier one is parked: `park_key` or `skip`
    #[arg(long, value_name = "WORD")]
    on_failure: Option<String>,
    /// A part of the retry policy, such as max_attempts=5, base=2s, cap=1m, max_age=1h; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, value_delimiter = ',')]
    retry: Vec<(String, String)>,
    /// Most starts in a second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// The path of the value that has a rate of its own
    #[arg(long, value_name = "PATH", requires = "rate")]
    rate_key: Option<String>,
    /// Add it, but let it match nothing yet
    #[arg(long)]
    disabled: bool,
}

#[derive(Serialize)]
struct Added<'a> {
    name: &'a str,
    replaced: bool,
}

/// Adds the rule.
///
/// # Errors
/// A mistake in the rule, a name that is taken, a trigger or function that is not there, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let entry = read(&args)?;
    let name = entry.rule.name.clone();
    let store = context.store().await?;
    let tables = super::tables(context).await?;
    let replaced = super::find(&tables, &name).is_ok();
    if replaced && !args.replace {
        bail!("there is a rule \"{name}\" already: give another name, or --replace");
    }
    let manifest = Manifest { rules: vec![entry.clone()], ..Manifest::default() };
    manifest.check_references(&Known::of(&tables))?;
    let changes = Changes { rules: vec![entry.rule], ..Changes::default() };
    store.apply(&changes).await.with_context(|| format!("failed to write the rule {name}"))?;
    context.output.one(&Added { name: &name, replaced }, |added| {
        format!("{} {}", if added.replaced { "replaced" } else { "added" }, added.name)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Args) -> anyhow::Result<RuleEntry> {
    if let Some(file) = &args.file {
        let text = String::from_utf8(read_input(file)?).with_context(|| format!("{} is not UTF-8", file.display()))?;
        let mut rules = config::read_rules(file, &text)?;
        let only = rules.pop().filter(|_| rules.is_empty());
        return only.with_context(|| {
            format!("{} does not hold one rule: `oncue apply` takes a manifest with others", file.display())
        });
    }
    Ok(config::rule_of_options(&document(args.name.as_deref().unwrap_or_default(), &args.options))?)
}

fn document(name: &str, options: &Options) -> Value {
    let mut rule = Map::from_iter([("name".to_owned(), Value::from(name))]);
    let texts = [
        ("trigger", &options.trigger),
        ("pattern", &options.pattern),
        ("run", &options.run),
        ("publish", &options.publish),
        ("input", &options.input),
        ("ordering_key", &options.ordering_key),
        ("on_failure", &options.on_failure),
    ];
    for (key, text) in texts {
        rule.extend(text.as_ref().map(|text| (key.to_owned(), Value::from(text.as_str()))));
    }
    if options.match_all {
        rule.insert("match_all".to_owned(), true.into());
    }
    if !options.retry.is_empty() {
        let typed = |text: &str| text.parse::<u32>().map_or_else(|_| Value::from(text), Value::from);
        let retry: Map<String, Value> = options.retry.iter().map(|(k, v)| (k.clone(), typed(v))).collect();
        rule.insert("retry".to_owned(), retry.into());
    }
    match (options.rate, &options.rate_key) {
        (Some(rate), Some(key)) => _ = rule.insert("rate".to_owned(), json!({ "per_second": rate, "key": key })),
        (Some(rate), None) => _ = rule.insert("rate".to_owned(), json!({ "per_second": rate })),
        (None, _) => {}
    }
    if options.disabled {
        rule.insert("enabled".to_owned(), false.into());
    }
    rule.into()
}

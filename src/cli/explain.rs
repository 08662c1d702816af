//! `oncue explain`: why an event matched a rule or did not, and, where it matched, what came of it.
//!
//! Invariant: the verdict on a pattern is the evaluator's; what is said of runs comes from rows. What is not known is said
//! to be unknown.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use time::OffsetDateTime;

use crate::pattern::{self, Explanation, Json};
use crate::rules::{self, Rule};
use crate::store::Store;
use crate::store::control::{ControlPlane, RuleRow};

use super::Context;
use super::arguments::read_input;
use super::sample;

pub mod draw;
mod runs;

use runs::Runs;

/// What may be typed after `oncue explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The event: a file with a CloudEvent as JSON, - for stdin, or the id of an event or a delivery whose content is kept
    #[arg(value_name = "EVENT")]
    event: String,
    /// The rule; without one, all rules, the nearest first
    rule: Option<String>,
    /// The trigger that the event of a file comes in by: rules of other triggers do not see it
    #[arg(long)]
    trigger: Option<String>,
    /// Most rules that are shown
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// An event and what is known of where it came from.
struct Subject {
    document: Json,
    /// Its id, where it is a CloudEvent.
    id: Option<String>,
    trigger: Option<String>,
    /// When it had come, where that is known.
    came: Option<OffsetDateTime>,
}

/// A rule on an event.
#[derive(Debug, Serialize)]
struct Verdict {
    rule: String,
    #[serde(flatten)]
    explanation: Explanation,
    /// What keeps a rule whose pattern matches from running, or what became of the run.
    notes: Vec<String>,
}

/// Explains.
///
/// # Errors
/// An event that is nowhere to be found or no CloudEvent, no such rule, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    let subject = subject(&args, &store).await?;
    let tables = store.control_plane().await.context("failed to read the rules")?;
    let runs = match &subject.id {
        Some(id) => runs::read(&store, id).await?,
        None => Runs::default(),
    };
    if let Some(name) = &args.rule {
        let verdict = verdict(super::rule::find(&tables, name)?, &subject, &tables, &runs)?;
        context.output.one(&verdict, one_text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut verdicts = Vec::new();
    for row in &tables.rules {
        // A rule that does not parse has its error in its row; `oncue rule list` shows it.
        if let Ok(verdict) = verdict(row, &subject, &tables, &runs) {
            verdicts.push(verdict);
        }
    }
    verdicts.sort_by_key(Verdict::distance);
    let rest = verdicts.len().saturating_sub(args.limit);
    verdicts.truncate(args.limit);
    context.output.list(&["RULE", "MATCHES", "FIELDS", "WHY"], &verdicts, |verdict| {
        let fields = format!("{} of {}", verdict.explanation.passed, verdict.explanation.fields);
        let matches = if verdict.explanation.matches { "yes" } else { "no" };
        vec![verdict.rule.clone(), matches.to_owned(), fields, verdict.why()]
    })?;
    if rest > 0 {
        context.output.note(&format!("{rest} rules are further away; --limit shows more"));
    }
    Ok(ExitCode::SUCCESS)
}

impl Verdict {
    /// Matching ones first, then those of which fewest fields fail.
    fn distance(&self) -> (bool, usize, std::cmp::Reverse<usize>, String) {
        let Explanation { matches, passed, fields, .. } = &self.explanation;
        (!matches, fields - passed, std::cmp::Reverse(*passed), self.rule.clone())
    }

    fn why(&self) -> String {
        match self.explanation.matches {
            true => self.notes.join("; "),
            false => draw::first_failure(&self.explanation),
        }
    }
}

fn verdict(row: &RuleRow, subject: &Subject, tables: &ControlPlane, runs: &Runs) -> anyhow::Result<Verdict> {
    let Rule { name, pattern, .. } = &row.rule;
    let explanation = match pattern {
        Some(text) => {
            pattern::explain(text, &subject.document).with_context(|| format!("the pattern of {name} is not valid"))?
        }
        None => Explanation::of_match_all(),
    };
    let notes = match explanation.matches {
        true => runs::notes(row, (subject.trigger.as_deref(), subject.came), tables, runs),
        false => Vec::new(),
    };
    Ok(Verdict { rule: name.clone(), explanation, notes })
}

fn one_text(verdict: &Verdict) -> String {
    let mut text = draw::text(&verdict.rule, &verdict.explanation);
    for note in &verdict.notes {
        text.push('\n');
        text.push_str(note);
    }
    super::output::printable(&text)
}

async fn subject(args: &Args, store: &Store) -> anyhow::Result<Subject> {
    let path = PathBuf::from(&args.event);
    if path == Path::new("-") || path.is_file() {
        let bytes = read_input(&path)?;
        let failed = || format!("failed to read the event of {}", args.event);
        if !sample::envelope(&bytes) {
            let document = Json::parse(&bytes).with_context(failed)?;
            return Ok(Subject { document, id: None, trigger: args.trigger.clone(), came: None });
        }
        let event = sample::decode(&bytes).with_context(failed)?;
        let (document, trigger) = (rules::document(&event), args.trigger.clone());
        return Ok(Subject { document, id: Some(event.id), trigger, came: None });
    }
    let delivery = uuid::Uuid::parse_str(&args.event).is_ok();
    for kept in store.kept_events(&args.event).await? {
        let (trigger, came) = (Some(kept.trigger.clone()), Some(kept.came));
        let Ok(event) = kept.read() else { continue };
        if event.id == args.event || delivery {
            return Ok(Subject { document: rules::document(&event), id: Some(event.id), trigger, came });
        }
    }
    bail!(
        "there is no file \"{0}\", and no event with that id whose content is kept: of an event that was done only the \
         ledger is (`oncue event show {0}`), unless its trigger says `record`; give the event as a file",
        args.event
    )
}

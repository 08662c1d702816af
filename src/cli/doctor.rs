//! `oncue doctor`: looks for what is wrong and says what mends it.
//!
//! Invariant: every finding that is not good names a command, a statement or a setting. `--fix` only adds what is
//! missing (partitions, streams that their trigger wants made); it never changes or removes anything.

use std::process::ExitCode;

use serde::Serialize;

use crate::bus::BusKind;

use super::Context;
use super::output::printable;

mod database;
mod guests;
mod kafka;
mod machine;
mod nats;
mod postgres;
mod rules;

/// What may be typed after `oncue doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Add what is missing: partitions, and streams of triggers with create_stream
    #[arg(long)]
    fix: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Somebody should know.
    Warning,
    /// Somebody must act.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    /// What was looked at: `postgres`, `trigger signups`, ….
    about: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.push(Level::Ok, about, text, None);
    }

    fn warn(&mut self, about: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) {
        self.push(Level::Warning, about, text, Some(fix.into()));
    }

    fn bad(&mut self, about: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) {
        self.push(Level::Error, about, text, Some(fix.into()));
    }

    fn push(&mut self, level: Level, about: impl Into<String>, text: impl Into<String>, fix: Option<String>) {
        self.0.push(Finding { level, about: about.into(), text: text.into(), fix });
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|f| f.level == level).count()
    }
}

/// Looks.
///
/// # Errors
/// A broken manifest; whatever else is wrong is a finding, and the exit code is 1 if one of them is bad.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let config = context.config()?;
    let mut findings = Findings::default();
    match &config.path {
        Some(path) => findings.ok("manifest", format!("{} is valid", path.display())),
        None => findings.ok("manifest", "none; the environment alone"),
    }
    let store = context.lazy_store();
    let tables = match &store {
        Ok(store) => Box::pin(database::look(store, &config.node, args.fix, &mut findings)).await,
        Err(error) => {
            findings.bad(
                "postgres",
                format!("{error:#}"),
                "set DATABASE_URL, or run `oncue dev`, which brings its own",
            );
            None
        }
    };
    if let Some(tables) = &tables {
        rules::look(tables, &mut findings);
        if let (Ok(store), Ok(node)) = (&store, context.node_config()) {
            Box::pin(guests::look(store, &node.guests(store), tables, &mut findings)).await;
        }
    }
    for (name, bus) in &config.buses {
        match bus.kind {
            BusKind::Nats => Box::pin(nats::look(name, bus, config, tables.as_ref(), args.fix, &mut findings)).await,
            BusKind::Kafka => Box::pin(kafka::look(name, bus, config, tables.as_ref(), &mut findings)).await,
            BusKind::Postgres => {
                let control = store.as_ref().ok().zip(tables.as_ref());
                Box::pin(postgres::look(name, bus, control, &mut findings)).await;
            }
        }
    }
    machine::look(&config.node, &mut findings);
    let bad = findings.count(Level::Error) > 0;
    context.output.one(&findings, text)?;
    Ok(if bad { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn text(findings: &Findings) -> String {
    let mut text = String::new();
    for finding in &findings.0 {
        let sign = match finding.level {
            Level::Ok => '✓',
            Level::Warning => '!',
            Level::Error => '✗',
        };
        text.push_str(&format!("{sign} {}: {}\n", finding.about, finding.text));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("    {}\n", fix.replace('\n', "\n    ")));
        }
    }
    let (bad, warnings) = (findings.count(Level::Error), findings.count(Level::Warning));
    text.push_str(&match (bad, warnings) {
        (0, 0) => "nothing is wrong".to_owned(),
        _ => format!("{bad} must be mended, {warnings} to know"),
    });
    printable(&text)
}

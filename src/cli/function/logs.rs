//! `oncue function logs`: what a function logged, with the attempt that it logged it in.

use std::process::ExitCode;

use serde::Serialize;
use time::OffsetDateTime;

use crate::store::functions::LogRow;

use crate::cli::arguments::Page;
use crate::cli::{Context, output};

/// What may be typed after `oncue function logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The function
    name: String,
    #[command(flatten)]
    page: Page,
}

#[derive(Serialize)]
struct Attempt {
    delivery_id: String,
    attempt: i32,
    rule: Option<String>,
    version: Option<i32>,
    outcome: Option<String>,
    #[serde(with = "time::serde::rfc3339::option")]
    started_at: Option<OffsetDateTime>,
    lines: Vec<(String, String)>,
    bytes_dropped: i64,
}

/// Shows the newest attempts that logged, oldest first, so that the end of the output is now.
///
/// # Errors
/// No such function, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store().await?;
    super::current(&store.control_plane().await?, &args.name)?;
    let rows = store.function_logs(&args.name, args.page.since(), args.page.limit).await?;
    let attempts: Vec<Attempt> = rows.into_iter().rev().map(attempt).collect();
    let lines: Vec<(&Attempt, &(String, String))> =
        attempts.iter().flat_map(|a| a.lines.iter().map(move |line| (a, line))).collect();
    if context.output.is_json() {
        context.output.one(&attempts, |_| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    context.output.list(
        &["time", "delivery", "try", "rule", "level", "message"],
        &lines,
        |(a, (level, message))| {
            vec![
                a.started_at.map_or_else(|| "-".to_owned(), output::moment),
                a.delivery_id.clone(),
                a.attempt.to_string(),
                output::dash(a.rule.as_deref()),
                level.clone(),
                message.replace('\n', "\\n"),
            ]
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn attempt(row: LogRow) -> Attempt {
    Attempt {
        delivery_id: row.delivery_id.to_string(),
        attempt: row.attempt,
        rule: row.rule,
        version: row.version,
        outcome: row.outcome,
        started_at: row.started_at,
        // A line that cannot be read is shown as it is.
        lines: serde_json::from_str(&row.lines).unwrap_or_else(|_| vec![("?".to_owned(), row.lines)]),
        bytes_dropped: row.dropped,
    }
}

//! Events that no rule matched: their counts, with a sample as text.
//!
//! Invariant: a sample is cut for people and whole for programs.

use std::process::ExitCode;

use serde::Serialize;

use crate::cli::Context;
use crate::cli::arguments::Page;
use crate::cli::output::{moment, printable};
use crate::event::codec;
use crate::store::Store;
use crate::store::events::UnmatchedRow;

use super::Filter;

/// How much of a sample is shown.
const SAMPLE_CHARS: usize = 200;
/// How much of it in a table.
const CELL_CHARS: usize = 80;

/// A count, with its sample as text.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: UnmatchedRow,
    sample: Option<String>,
}

/// Lists the counts, the newest first.
pub(super) async fn list(store: &Store, page: &Page, filter: &Filter, context: &Context) -> anyhow::Result<ExitCode> {
    let rows = store.unmatched(&filter.to_store(Some(page)), i64::from(page.limit)).await?;
    let rows: Vec<Shown> = rows.into_iter().map(|row| Shown { sample: text(&row), row }).collect();
    context.output.list(
        &["day", "trigger", "type", "count", "last", "one of them", "data"],
        &rows,
        |Shown { row, .. }| {
            let (id, data) = parts(row).unwrap_or_else(|| ("-".to_owned(), String::new()));
            vec![
                row.day.to_string(),
                row.trigger.clone(),
                row.event_type.clone(),
                row.count.to_string(),
                moment(row.last_at),
                id,
                cut(&data, CELL_CHARS),
            ]
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

/// The id and the data of a sample.
fn parts(row: &UnmatchedRow) -> Option<(String, String)> {
    let event = codec::from_structured(row.sample.as_deref()?, &codec::Limits::STORED).ok()?;
    Some((event.id, String::from_utf8_lossy(&event.data).into_owned()))
}

/// The sample of `row` as text.
pub(super) fn text(row: &UnmatchedRow) -> Option<String> {
    row.sample.as_deref().map(|sample| String::from_utf8_lossy(sample).into_owned())
}

/// A sample on a line.
pub(super) fn line(sample: &str) -> String {
    printable(&cut(sample, SAMPLE_CHARS))
}

fn cut(sample: &str, chars: usize) -> String {
    let short: String = sample.chars().take(chars).collect();
    let more = if short.len() < sample.len() { "…" } else { "" };
    format!("{}{more}", short.replace('\n', " "))
}

//! `oncue dead-letter show`: everything that was kept of one, or its bytes alone.
//!
//! Invariant: `--raw` writes the kept bytes and nothing else to a file or a pipe; no control character of theirs reaches a
//! terminal.

use std::io::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::output::{bytes, dash, fields, micros, moment, printable};
use crate::event::codec::kafka::Kept;
use crate::event::codec::nats;
use crate::function::hex;
use crate::printable::is_hidden;
use crate::store::Store;
use crate::store::dead_letters::{DeadLetter, DeadLetterRow};

use super::target;

/// More is shown with `--raw`.
const SHOWN_BYTES: usize = 16 << 10;

/// What may be typed after `oncue dead-letter show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The dead letter
    id: Uuid,
    /// Write the kept bytes as they are, and nothing else
    #[arg(long)]
    raw: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    row: &'a DeadLetterRow,
    digest: Option<String>,
    transport_key: String,
    generation: i32,
    ordering_key: Option<&'a str>,
    attempts: &'a serde_json::Value,
    headers: Vec<(String, String)>,
    /// Text, or hexadecimal digits.
    payload: String,
    payload_is_text: bool,
}

pub(super) async fn run(store: &Store, args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let letter = store.dead_letter(args.id).await?;
    if args.raw {
        let mut out = context.output.stream();
        match context.output.is_terminal() {
            true => out.write_all(printable(&String::from_utf8_lossy(&letter.raw)).as_bytes())?,
            false => out.write_all(&letter.raw)?,
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    context.output.one(&shown(&letter), text)?;
    Ok(ExitCode::SUCCESS)
}

fn shown(letter: &DeadLetter) -> Shown<'_> {
    let payload = std::str::from_utf8(&letter.raw);
    Shown {
        row: &letter.row,
        digest: letter.digest.as_deref().map(hex),
        transport_key: key_text(&letter.transport_key),
        generation: letter.generation,
        ordering_key: letter.ordering_key.as_deref(),
        attempts: &letter.attempts,
        headers: match Kept::from_json(&letter.headers) {
            Some(kept) => kept.shown(),
            None => match nats::Kept::from_json(&letter.headers) {
                Some(kept) => kept.shown(),
                None => serde_json::from_slice(&letter.headers).unwrap_or_default(),
            },
        },
        payload: payload.map_or_else(|_| hex(&letter.raw), str::to_owned),
        payload_is_text: payload.is_ok(),
    }
}

/// A transport key as people read it.
pub(super) fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(is_hidden) => text.to_owned(),
        _ => hex(key),
    }
}

fn text(shown: &Shown<'_>) -> String {
    let row = shown.row;
    let redriven = row.redriven_as.map(|id| id.to_string()).unwrap_or_default();
    let mut out = fields(&[
        ("id", row.id.to_string()),
        ("state", row.state.clone()),
        ("redriven as", redriven),
        ("kind", row.kind.clone()),
        ("class", row.class.clone()),
        ("error", row.error.clone()),
        ("died", moment(row.dead_at)),
        ("trigger", row.trigger.clone()),
        ("rule", dash(row.rule.as_deref())),
        ("function", target(row)),
        ("component", shown.digest.clone().unwrap_or_default()),
        ("event id", row.event_id.clone().unwrap_or_default()),
        ("event type", row.event_type.clone().unwrap_or_default()),
        ("ordering key", shown.ordering_key.unwrap_or_default().to_owned()),
        ("generation", shown.generation.to_string()),
        ("transport key", shown.transport_key.clone()),
    ]);
    for attempt in shown.attempts.as_array().into_iter().flatten() {
        out.push_str(&attempt_line(attempt));
    }
    for (name, value) in &shown.headers {
        out.push_str(&format!("header  {}: {}\n", printable(name), printable(value)));
    }
    let size = bytes(u64::from(row.bytes.unsigned_abs()));
    let form = if shown.payload_is_text { "" } else { ", not UTF-8: hexadecimal digits" };
    out.push_str(&format!("payload  {size}{form}\n{}\n", printable(cut(&shown.payload))));
    if shown.payload.len() > SHOWN_BYTES {
        out.push_str("… the rest with --raw\n");
    }
    if row.state == "dead" {
        out.push_str(&format!(
            "\n`oncue dead-letter redrive {0}` runs it again, `oncue dead-letter drop {0}` gives it up",
            row.id
        ));
    }
    out
}

fn attempt_line(attempt: &serde_json::Value) -> String {
    let text = |key: &str| attempt.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let number = |key: &str| attempt.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let line = format!(
        "try {}  {}  {}  {}  on {}  {}",
        number("attempt"),
        text("started_at"),
        text("outcome"),
        micros(number("micros")),
        text("node"),
        text("error")
    );
    format!("{}\n", printable(line.trim_end()))
}

fn cut(text: &str) -> &str {
    if text.len() <= SHOWN_BYTES {
        return text;
    }
    let mut end = SHOWN_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

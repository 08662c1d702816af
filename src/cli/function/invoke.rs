//! `oncue function invoke`: runs a deployed version here, in the same sandbox as a node, on one event.
//!
//! Invariant: nothing is published and nothing is written: what the function emitted is only shown.

use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::delivery::{Outcome, Report};
use crate::event::{Event, codec};
use crate::runtime::{CallContext, Runtime};

use crate::cli::arguments::name_version;
use crate::cli::sample::SampleArgs;
use crate::cli::{Context, output};

/// What may be typed after `oncue function invoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The function, or one version of it: welcome, welcome@3
    #[arg(value_name = "NAME[@VERSION]", value_parser = name_version)]
    function: (String, Option<u32>),
    #[command(flatten)]
    sample: SampleArgs,
}

#[derive(Serialize)]
struct Invoked {
    function: String,
    version: u32,
    outcome: &'static str,
    message: Option<String>,
    micros: u64,
    fuel: u64,
    peak_memory: u64,
    logs: Vec<Line>,
    logs_dropped: u64,
    emitted: Vec<Value>,
}

#[derive(Serialize)]
struct Line {
    level: &'static str,
    message: String,
}

/// Runs it. The exit code is 1 if it did not end well.
///
/// # Errors
/// No such function or version, an event with a mistake, those of the database.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let event = args.sample.event()?;
    let (name, version) = &args.function;
    let store = context.store().await?;
    let tables = store.control_plane().await.context("failed to read the functions")?;
    let version = super::version(&tables, name, *version)?;
    let component = store.component(&version.digest).await?;
    let runtime = Runtime::new(context.runtime_config()?)?;
    let loaded = runtime.load(name, Bytes::from(component), &version.spec).await;
    let loaded = loaded.with_context(|| format!("{name}@{} cannot run", version.version))?;
    let call = CallContext {
        delivery_id: uuid::Uuid::new_v4().to_string(),
        attempt: 1,
        rule: "oncue-invoke".to_owned(),
        trigger: "oncue-invoke".to_owned(),
        function: name.clone(),
        version: version.version,
    };
    let report = runtime.invoke(&loaded, &event, &call).await;
    let is_ok = matches!(report.outcome, Outcome::Ok(_));
    context.output.one(&invoked(name, version.version, report), text)?;
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn invoked(name: &str, version: u32, report: Report) -> Invoked {
    let (outcome, message) = (report.outcome.class(), report.outcome.message());
    let emitted = match report.outcome {
        Outcome::Ok(events) => events,
        _ => Vec::new(),
    };
    Invoked {
        function: name.to_owned(),
        version,
        outcome,
        message,
        micros: report.micros,
        fuel: report.fuel,
        peak_memory: report.peak_memory,
        logs: report.logs.into_iter().map(|l| Line { level: l.level, message: l.message }).collect(),
        logs_dropped: report.logs_dropped,
        emitted: emitted.iter().map(shown).collect(),
    }
}

/// The event as JSON. It has no id: that comes from the delivery when it is published.
fn shown(event: &Event) -> Value {
    // What the codec wrote is JSON.
    let mut json: Value = serde_json::from_slice(&codec::to_structured(event)).unwrap_or_default();
    if let Some(members) = json.as_object_mut()
        && event.id.is_empty()
    {
        members.shift_remove("id");
    }
    json
}

fn text(invoked: &Invoked) -> String {
    let mut text = output::fields(&[
        ("function", format!("{}@{}", invoked.function, invoked.version)),
        ("outcome", invoked.outcome.to_owned()),
        ("message", invoked.message.clone().unwrap_or_default()),
        ("time", output::micros(invoked.micros)),
        ("fuel", invoked.fuel.to_string()),
        ("memory", output::bytes(invoked.peak_memory)),
    ]);
    for line in &invoked.logs {
        text.push_str(&format!("{}: {}\n", line.level, output::printable(&line.message)));
    }
    if invoked.logs_dropped > 0 {
        text.push_str(&format!("{} bytes of log were dropped above the limit\n", invoked.logs_dropped));
    }
    for event in &invoked.emitted {
        text.push_str(&format!("emitted {}\n", output::printable(&event.to_string())));
    }
    text
}

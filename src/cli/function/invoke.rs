//! `oncue function invoke`: runs a deployed version here, in the same sandbox as a node, on one event.
//!
//! Invariant: nothing is published and nothing is written: what the function emitted, and the statements that it would
//! have run, are only shown. What it reads by SQL is read.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::delivery::{Effects, Outcome, Report};
use crate::event::{Event, codec};
use crate::function::{hex, sql};
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
    statements: Vec<Written>,
}

/// A statement that settling would have run.
#[derive(Serialize)]
struct Written {
    statement: String,
    params: Vec<Value>,
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
    let guests = context.node_config()?.guests(&store);
    let runtime = Runtime::with_reader(context.runtime_config()?, Some(Arc::new(guests)))?;
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
    let report = runtime.invoke(&loaded, &event, call).await;
    let is_ok = matches!(report.outcome, Outcome::Ok(_));
    context.output.one(&invoked(name, version.version, report), text)?;
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn invoked(name: &str, version: u32, report: Report) -> Invoked {
    let (outcome, message) = (report.outcome.class(), report.outcome.message());
    let Effects { events, statements } = match report.outcome {
        Outcome::Ok(effects) => effects,
        _ => Effects::default(),
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
        emitted: events.iter().map(shown).collect(),
        statements: statements.iter().map(written).collect(),
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

fn written(statement: &sql::Statement) -> Written {
    let shown = |value: &sql::Value| match value {
        sql::Value::Null => Value::Null,
        sql::Value::Boolean(value) => (*value).into(),
        sql::Value::Integer(value) => (*value).into(),
        // JSON has no NaN and no infinity.
        sql::Value::Float(value) if !value.is_finite() => value.to_string().into(),
        sql::Value::Float(value) => (*value).into(),
        sql::Value::Text(text) => text.clone().into(),
        sql::Value::Bytes(bytes) => format!("\\x{}", hex(bytes)).into(),
    };
    Written { statement: statement.text.clone(), params: statement.params.iter().map(shown).collect() }
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
    for written in &invoked.statements {
        let params = Value::from(written.params.clone()).to_string();
        let (statement, params) = (output::printable(&written.statement), output::printable(&params));
        text.push_str(&format!("would execute {statement} with {params}\n"));
    }
    text
}

//! `[trigger.NAME]`: flat keys; which ones are there says what kind it is.
//!
//! Invariant: a trigger that was read passed `TriggerSpec::parse`, so that a node will not refuse it.

use std::time::Duration;

use crate::triggers::spec::{JetStreamSpec, NatsSpec, Start, TriggerSpec};

use super::error::{ConfigError, Place};
use super::reader::{Field, Node, Section, Value};
use super::values::{NAME_FORM, is_name};

const KEYS: &[&str] = &[
    "bus",
    "stream",
    "subjects",
    "durable",
    "start",
    "ack_wait",
    "max_ack_pending",
    "create_stream",
    "subject",
    "queue",
    "tables",
    "topics",
    "group",
    "cron",
];
/// Keys of kinds that are to come, with the kind.
const LATER: &[(&str, &str)] = &[
    ("tables", "change feeds of Postgres"),
    ("topics", "Kafka topics"),
    ("group", "Kafka consumer groups"),
    ("cron", "schedules"),
];
const JETSTREAM_ONLY: &[&str] = &["subjects", "durable", "start", "ack_wait", "max_ack_pending", "create_stream"];

/// One `[trigger.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerEntry {
    /// Unique.
    pub name: String,
    /// The bus.
    pub bus: String,
    /// What it subscribes to.
    pub spec: TriggerSpec,
    /// Where it is written.
    pub place: Option<Place>,
}

/// Reads the trigger `name` at `path`.
pub(super) fn read(name: &str, node: &Node, path: &str) -> Result<TriggerEntry, ConfigError> {
    let section = Section::open(node, path, KEYS)?;
    if !is_name(name) {
        return Err(section.error("", format!("{name:?} cannot be the name of a trigger"), NAME_FORM.to_owned()));
    }
    if let Some((key, kind)) = LATER.iter().find(|(key, _)| section.get(key).is_some()) {
        let fix = "use `stream` (JetStream) or `subject` (core NATS)".to_owned();
        return Err(section.error(key, format!("{kind} are not supported by this version"), fix));
    }
    let bus = section.required("bus", "\"events\"")?.word()?.to_owned();
    let spec = match (section.get("stream"), section.get("subject")) {
        (Some(stream), None) => TriggerSpec::JetStream(jetstream(&section, &stream)?),
        (None, Some(subject)) => TriggerSpec::Nats(nats(&section, &subject)?),
        (Some(_), Some(_)) => {
            let fix = "keep one of them; subjects of a stream are `subjects`".to_owned();
            return Err(section.error("subject", "`stream` and `subject` do not go together".to_owned(), fix));
        }
        (None, None) => {
            let fix = "add `stream = \"NAME\"` (JetStream) or `subject = \"SUBJECT\"` (core NATS)".to_owned();
            return Err(section.error("", "the trigger subscribes to nothing".to_owned(), fix));
        }
    };
    let spec = TriggerSpec::parse(spec.kind(), &spec.to_json()).map_err(|e| {
        let message = e.to_string();
        let (key, what) = message.split_once(": ").unwrap_or(("", &message));
        section.error(key.trim_end_matches("_ms"), what.to_owned(), String::new())
    })?;
    Ok(TriggerEntry { name: name.to_owned(), bus, spec, place: section.place() })
}

fn jetstream(section: &Section<'_>, stream: &Field<'_>) -> Result<JetStreamSpec, ConfigError> {
    if section.get("queue").is_some() {
        let fix = "remove it: nodes share a stream through its durable consumer".to_owned();
        return Err(section.error("queue", "`queue` goes with `subject`".to_owned(), fix));
    }
    let second = Duration::from_secs(1);
    let ack_wait = section.get("ack_wait").map_or(Ok(second * 30), |f| f.duration(second..=second * 3_600))?;
    Ok(JetStreamSpec {
        stream: stream.word()?.to_owned(),
        subjects: section.get("subjects").map_or(Ok(Vec::new()), |f| f.words())?,
        durable: section.get("durable").map(|f| f.word().map(str::to_owned)).transpose()?,
        start: section.get("start").map_or(Ok(Start::default()), |f| start(&f))?,
        ack_wait_ms: u64::try_from(ack_wait.as_millis()).unwrap_or(u64::MAX),
        max_ack_pending: section.get("max_ack_pending").map_or(Ok(20_000), |f| f.integer(1..=10_000_000))?,
        create_stream: section.get("create_stream").map_or(Ok(false), |f| f.flag())?,
    })
}

fn nats(section: &Section<'_>, subject: &Field<'_>) -> Result<NatsSpec, ConfigError> {
    if let Some(key) = JETSTREAM_ONLY.iter().find(|key| section.get(key).is_some()) {
        let fix = "remove it, or take a stream with `stream` instead of `subject`".to_owned();
        return Err(section.error(key, format!("`{key}` goes with `stream`"), fix));
    }
    Ok(NatsSpec {
        subject: subject.word()?.to_owned(),
        queue: section.get("queue").map(|f| f.word().map(str::to_owned)).transpose()?,
    })
}

fn start(field: &Field<'_>) -> Result<Start, ConfigError> {
    match &field.node.value {
        Value::Text(text) if text == "all" => Ok(Start::All),
        Value::Text(text) if text == "new" => Ok(Start::New),
        Value::Moment(time) => Ok(Start::Time(time.clone())),
        Value::Table(_) => {
            let section = Section::open(field.node, &field.path, &["time", "sequence"])?;
            match (section.get("time"), section.get("sequence")) {
                (Some(time), None) => match &time.node.value {
                    Value::Moment(moment) => Ok(Start::Time(moment.clone())),
                    _ => Ok(Start::Time(time.word()?.to_owned())),
                },
                (None, Some(sequence)) => Ok(Start::Sequence(sequence.integer(1..=u64::MAX)?)),
                _ => Err(field.error("a start is one thing", "give `time` or `sequence`")),
            }
        }
        _ => {
            let fix = "it is \"all\", \"new\", { time = \"2026-01-31T12:00:00Z\" } or { sequence = 1 }";
            Err(field.error(format!("{} is no start", field.node.shown()), fix))
        }
    }
}

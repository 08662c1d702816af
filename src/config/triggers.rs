//! `[trigger.NAME]`: flat keys; which ones are there says what kind it is.
//!
//! Invariant: a trigger that was read passed `TriggerSpec::parse`, so that a node will not refuse it.

use std::time::Duration;

use crate::store::recorded::{Recording, What};
use crate::triggers::spec::{
    FeedStart, GroupProtocol, JetStreamSpec, KafkaOrder, KafkaSpec, KafkaStart, NatsSpec, PostgresSpec, Start,
    TriggerSpec,
};

use super::error::{ConfigError, Place};
use super::reader::{Field, Node, Section, Value};
use super::values::{NAME_FORM, is_name};

/// Keys of a stream, of a subject, of topics and of tables; `start` is known to three of them and means something else to
/// each.
const STREAM_KEYS: &[&str] =
    &["stream", "subjects", "durable", "start", "ack_wait", "max_ack_pending", "create_stream"];
const SUBJECT_KEYS: &[&str] = &["subject", "queue"];
const TOPIC_KEYS: &[&str] = &["topics", "group", "start", "protocol", "ordered"];
const FEED_KEYS: &[&str] = &[
    "tables",
    "messages",
    "publication",
    "slot",
    "create",
    "start",
    "relay",
    "chunk_rows",
    "rows_per_second",
    "failover",
];
/// Keys of kinds that are to come, with the kind.
const LATER: &[(&str, &str)] = &[("cron", "schedules")];
/// What says of which kind a trigger is, with the keys that go with it.
const KINDS: [(&str, &[&str]); 6] = [
    ("stream", STREAM_KEYS),
    ("subject", SUBJECT_KEYS),
    ("topics", TOPIC_KEYS),
    ("tables", FEED_KEYS),
    ("publication", FEED_KEYS),
    ("messages", FEED_KEYS),
];

const RECORD: &str = "it is \"none\", \"matched\" (events that a rule matched) or \"all\"";
/// What the table takes.
const RECORD_FOR_MIN: Duration = Duration::from_secs(60);
const RECORD_FOR_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// One `[trigger.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerEntry {
    /// Unique.
    pub name: String,
    /// The bus.
    pub bus: String,
    /// What it subscribes to.
    pub spec: TriggerSpec,
    /// What is recorded of its events.
    pub recording: Recording,
    /// Where it is written.
    pub place: Option<Place>,
}

/// Reads the trigger `name` at `path`.
pub(super) fn read(name: &str, node: &Node, path: &str) -> Result<TriggerEntry, ConfigError> {
    let later = LATER.iter().map(|(key, _)| *key);
    let mut keys: Vec<&str> =
        ["bus", "record", "record_for"].iter().chain(STREAM_KEYS).chain(SUBJECT_KEYS).copied().collect();
    let others = TOPIC_KEYS.iter().chain(FEED_KEYS).copied().filter(|key| *key != "start");
    keys.extend(others.chain(later));
    let section = Section::open(node, path, &keys)?;
    if !is_name(name) {
        return Err(section.error("", format!("{name:?} cannot be the name of a trigger"), NAME_FORM.to_owned()));
    }
    if let Some((key, kind)) = LATER.iter().find(|(key, _)| section.get(key).is_some()) {
        let fix = "use `stream` (JetStream), `subject` (core NATS), `topics` (Kafka) or `tables` (Postgres)".to_owned();
        return Err(section.error(key, format!("{kind} are not supported by this version"), fix));
    }
    let bus = section.required("bus", "\"events\"")?.word()?.to_owned();
    let spec = match kind(&section)? {
        ("stream", stream) => TriggerSpec::JetStream(jetstream(&section, &stream)?),
        ("subject", subject) => TriggerSpec::Nats(nats(&section, &subject)?),
        ("topics", topics) => TriggerSpec::Kafka(kafka(&section, &topics)?),
        _ => TriggerSpec::Postgres(feed(&section)?),
    };
    let spec = TriggerSpec::parse(spec.kind(), &spec.to_json()).map_err(|e| {
        let message = e.to_string();
        let (key, what) = message.split_once(": ").unwrap_or(("", &message));
        section.error(key.trim_end_matches("_ms"), what.to_owned(), String::new())
    })?;
    let recording = recording(&section)?;
    Ok(TriggerEntry { name: name.to_owned(), bus, spec, recording, place: section.place() })
}

fn recording(section: &Section<'_>) -> Result<Recording, ConfigError> {
    let mut recording = Recording::default();
    if let Some(field) = section.get("record") {
        let named = |text: &str| What::named(text).ok_or_else(|| field.error(format!("{text:?} is unknown"), RECORD));
        recording.what = field.text().and_then(named)?;
    }
    if let Some(field) = section.get("record_for") {
        recording.keep = field.duration(RECORD_FOR_MIN..=RECORD_FOR_MAX)?;
    }
    if recording.what != What::None && section.get("relay").is_some() {
        let message = "a trigger that relays its events matches none and records none".to_owned();
        return Err(section.error("record", message, "set it on the trigger that reads what is relayed".to_owned()));
    }
    Ok(recording)
}

/// The key that says what the trigger subscribes to; every other key must go with it.
fn kind<'a>(section: &Section<'a>) -> Result<(&'static str, Field<'a>), ConfigError> {
    let given = KINDS.iter().find_map(|(key, goes_with)| Some((*key, section.get(key)?, *goes_with)));
    let Some((key, field, goes_with)) = given else {
        let fix = "add `stream = \"NAME\"` (JetStream), `subject = \"SUBJECT\"` (core NATS), `topics = [\"NAME\"]` (Kafka) or \
                   `tables = [\"public.users\"]` (Postgres)";
        return Err(section.error("", "the trigger subscribes to nothing".to_owned(), fix.to_owned()));
    };
    for (other, keys) in KINDS {
        if let Some(stray) = keys.iter().find(|k| !goes_with.contains(k) && section.get(k).is_some()) {
            let (message, fix) = if *stray == other {
                (format!("`{key}` and `{stray}` do not go together"), "keep one of them".to_owned())
            } else {
                (format!("`{stray}` goes with `{other}`"), format!("remove it: the trigger has `{key}`"))
            };
            return Err(section.error(stray, message, fix));
        }
    }
    Ok((key, field))
}

fn jetstream(section: &Section<'_>, stream: &Field<'_>) -> Result<JetStreamSpec, ConfigError> {
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
    Ok(NatsSpec {
        subject: subject.word()?.to_owned(),
        queue: section.get("queue").map(|f| f.word().map(str::to_owned)).transpose()?,
    })
}

fn kafka(section: &Section<'_>, topics: &Field<'_>) -> Result<KafkaSpec, ConfigError> {
    Ok(KafkaSpec {
        topics: topics.words()?,
        group: section.get("group").map(|f| f.word().map(str::to_owned)).transpose()?,
        start: section.get("start").map_or(Ok(KafkaStart::default()), |f| kafka_start(&f))?,
        protocol: section.get("protocol").map_or(Ok(GroupProtocol::default()), |f| match f.word()? {
            "cooperative" => Ok(GroupProtocol::Cooperative),
            "consumer" => Ok(GroupProtocol::Consumer),
            other => {
                let fix = "it is \"cooperative\", or \"consumer\" where the brokers have KIP-848";
                Err(f.error(format!("{other:?} is no protocol of consumer groups"), fix))
            }
        })?,
        ordered: section.get("ordered").map_or(Ok(KafkaOrder::default()), |f| match f.word()? {
            "key" => Ok(KafkaOrder::Key),
            "partition" => Ok(KafkaOrder::Partition),
            "none" => Ok(KafkaOrder::None),
            other => Err(f.error(format!("{other:?} is no order"), "it is \"key\", \"partition\" or \"none\"")),
        })?,
    })
}

fn kafka_start(field: &Field<'_>) -> Result<KafkaStart, ConfigError> {
    match &field.node.value {
        Value::Text(text) if text == "earliest" => Ok(KafkaStart::Earliest),
        Value::Text(text) if text == "latest" => Ok(KafkaStart::Latest),
        // The specification says what a time looks like.
        Value::Text(time) | Value::Moment(time) => Ok(KafkaStart::Time(time.clone())),
        Value::Table(_) => {
            let section = Section::open(field.node, &field.path, &["time"])?;
            let time = section.required("time", "\"2026-01-31T12:00:00Z\"")?;
            match &time.node.value {
                Value::Moment(moment) => Ok(KafkaStart::Time(moment.clone())),
                _ => Ok(KafkaStart::Time(time.word()?.to_owned())),
            }
        }
        _ => {
            let fix = "it is \"earliest\", \"latest\" or { time = \"2026-01-31T12:00:00Z\" }";
            Err(field.error(format!("{} is no start of a topic", field.node.shown()), fix))
        }
    }
}

fn feed(section: &Section<'_>) -> Result<PostgresSpec, ConfigError> {
    let default = PostgresSpec::default();
    let word = |key: &str| section.get(key).map(|f| f.word().map(str::to_owned)).transpose();
    let flag = |key: &str| section.get(key).map_or(Ok(false), |f| f.flag());
    Ok(PostgresSpec {
        tables: section.get("tables").map_or(Ok(Vec::new()), |f| f.words())?,
        messages: section.get("messages").map_or(Ok(default.messages), |f| f.words())?,
        publication: word("publication")?,
        slot: word("slot")?,
        create: flag("create")?,
        start: section.get("start").map_or(Ok(FeedStart::Now), |f| feed_start(&f))?,
        relay: word("relay")?,
        chunk_rows: section.get("chunk_rows").map_or(Ok(default.chunk_rows), |f| f.integer(1..=100_000))?,
        rows_per_second: section.get("rows_per_second").map(|f| f.integer(1..=10_000_000)).transpose()?,
        failover: flag("failover")?,
    })
}

fn feed_start(field: &Field<'_>) -> Result<FeedStart, ConfigError> {
    match &field.node.value {
        Value::Text(text) if text == "now" => Ok(FeedStart::Now),
        Value::Text(text) if text == "snapshot" => Ok(FeedStart::Snapshot),
        _ => {
            let fix = "it is \"now\", or \"snapshot\" for the rows that are there first";
            Err(field.error(format!("{} is no start of a change feed", field.node.shown()), fix))
        }
    }
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

//! Rows in the words of the manifest: the same keys, durations and sizes, defaults left out.
//!
//! Invariant: reading a form gives the row that it was made from; two rows are equal if and only if their forms are.
//! `plan` compares forms, `export` writes them, `show` prints them.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::function::{FunctionSpec, Grants, Limits, SqlGrant};
use crate::pattern::Json;
use crate::retry::RetryPolicy;
use crate::rules::{OnFailure, Rule, Target};
use crate::store::recorded::Recording;
use crate::triggers::spec::{
    FeedStart, GroupProtocol, JetStreamSpec, KafkaOrder, KafkaSpec, KafkaStart, PostgresSpec, Start, TriggerSpec,
};

/// Keys of the manifest with their values.
pub type Form = Map<String, Value>;

/// A rule, its name left out.
#[must_use]
pub fn rule_form(rule: &Rule) -> Form {
    let mut form = Form::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            form.insert(key.to_owned(), value);
        }
    };
    put("trigger", rule.trigger.as_deref().map(Value::from));
    put("pattern", rule.pattern.as_deref().map(|p| compact(p).into()));
    put("match_all", rule.pattern.is_none().then_some(Value::Bool(true)));
    let key = if matches!(rule.target, Target::Run { .. }) { "run" } else { "publish" };
    put(key, Some(target_text(&rule.target).into()));
    put("input", rule.input.as_deref().map(Value::from));
    put("ordering_key", rule.ordering_key.as_deref().map(Value::from));
    put("on_failure", (rule.on_failure == OnFailure::Skip).then(|| "skip".into()));
    put("retry", retry_form(&rule.retry));
    put(
        "rate",
        rule.rate.as_ref().map(|rate| match &rate.key {
            Some(key) => json!({ "per_second": rate.per_second, "key": key }),
            None => json!({ "per_second": rate.per_second }),
        }),
    );
    put("enabled", (!rule.enabled).then_some(Value::Bool(false)));
    form
}

/// `welcome`, `welcome@3` or `events/user.created`.
#[must_use]
pub fn target_text(target: &Target) -> String {
    match target {
        Target::Run { function, version: Some(version) } => format!("{function}@{version}"),
        Target::Run { function, version: None } => function.clone(),
        Target::Publish { bus, subject } => format!("{bus}/{subject}"),
    }
}

/// A trigger, its name left out.
#[must_use]
pub fn trigger_form(bus: &str, spec: &TriggerSpec, recording: &Recording) -> Form {
    let mut form = Form::new();
    form.insert("bus".to_owned(), bus.into());
    match spec {
        TriggerSpec::JetStream(spec) => jetstream_form(spec, &mut form),
        TriggerSpec::Nats(spec) => {
            form.insert("subject".to_owned(), spec.subject.clone().into());
            form.extend(spec.queue.iter().map(|queue| ("queue".to_owned(), queue.clone().into())));
        }
        TriggerSpec::Kafka(spec) => kafka_form(spec, &mut form),
        TriggerSpec::Postgres(spec) => postgres_form(spec, &mut form),
    }
    let default = Recording::default();
    if recording.what != default.what {
        form.insert("record".to_owned(), recording.what.name().into());
    }
    if recording.keep != default.keep {
        form.insert("record_for".to_owned(), duration_text(recording.keep).into());
    }
    form
}

fn jetstream_form(spec: &JetStreamSpec, form: &mut Form) {
    let mut put = |key: &str, value: Value| form.insert(key.to_owned(), value);
    put("stream", spec.stream.clone().into());
    if !spec.subjects.is_empty() {
        put("subjects", spec.subjects.clone().into());
    }
    if let Some(durable) = &spec.durable {
        put("durable", durable.clone().into());
    }
    match &spec.start {
        Start::All => None,
        Start::New => put("start", "new".into()),
        Start::Time(time) => put("start", json!({ "time": time })),
        Start::Sequence(sequence) => put("start", json!({ "sequence": sequence })),
    };
    if spec.ack_wait_ms != 30_000 {
        put("ack_wait", duration_text(Duration::from_millis(spec.ack_wait_ms)).into());
    }
    if spec.max_ack_pending != 20_000 {
        put("max_ack_pending", spec.max_ack_pending.into());
    }
    if spec.create_stream {
        put("create_stream", true.into());
    }
}

fn kafka_form(spec: &KafkaSpec, form: &mut Form) {
    let mut put = |key: &str, value: Value| form.insert(key.to_owned(), value);
    put("topics", spec.topics.clone().into());
    if let Some(group) = &spec.group {
        put("group", group.clone().into());
    }
    match &spec.start {
        KafkaStart::Earliest => None,
        KafkaStart::Latest => put("start", "latest".into()),
        KafkaStart::Time(time) => put("start", json!({ "time": time })),
    };
    if spec.protocol == GroupProtocol::Consumer {
        put("protocol", "consumer".into());
    }
    match spec.ordered {
        KafkaOrder::Key => None,
        KafkaOrder::Partition => put("ordered", "partition".into()),
        KafkaOrder::None => put("ordered", "none".into()),
    };
}

fn postgres_form(spec: &PostgresSpec, form: &mut Form) {
    let default = PostgresSpec::default();
    let mut put = |key: &str, differs: bool, value: Value| {
        if differs {
            form.insert(key.to_owned(), value);
        }
    };
    put("tables", !spec.tables.is_empty(), spec.tables.clone().into());
    // Something must say that it is a change feed.
    put("messages", spec.messages != default.messages || spec.follows_messages_only(), spec.messages.clone().into());
    put("publication", spec.publication.is_some(), json!(spec.publication));
    put("slot", spec.slot.is_some(), json!(spec.slot));
    put("create", spec.create, true.into());
    put("start", spec.start == FeedStart::Snapshot, "snapshot".into());
    put("relay", spec.relay.is_some(), json!(spec.relay));
    put("chunk_rows", spec.chunk_rows != default.chunk_rows, spec.chunk_rows.into());
    put("rows_per_second", spec.rows_per_second.is_some(), json!(spec.rows_per_second));
    put("failover", spec.failover, true.into());
}

/// Limits, grants and configuration of a function.
#[must_use]
pub fn function_form(spec: &FunctionSpec) -> Form {
    let mut form = Form::new();
    let limits = limits_form(&spec.limits);
    if !limits.is_empty() {
        form.insert("limits".to_owned(), limits.into());
    }
    let grants = grants_form(&spec.grants);
    if !grants.is_empty() {
        form.insert("grants".to_owned(), grants.into());
    }
    if !spec.config.is_empty() {
        form.insert("config".to_owned(), json!(spec.config));
    }
    form
}

fn grants_form(grants: &Grants) -> Form {
    let mut form = Form::new();
    if !grants.publish.is_empty() {
        form.insert("publish".to_owned(), json!(grants.publish));
    }
    if let Some(SqlGrant { role }) = &grants.sql {
        form.insert("sql".to_owned(), json!({ "role": role }));
    }
    form
}

fn limits_form(limits: &Limits) -> Form {
    let default = Limits::default();
    let duration = |ms: u64| duration_text(Duration::from_millis(ms)).into();
    let rows: [(&str, bool, Value); 7] = [
        ("timeout", limits.timeout_ms == default.timeout_ms, duration(limits.timeout_ms)),
        ("memory", limits.memory_bytes == default.memory_bytes, size_text(limits.memory_bytes).into()),
        ("fuel", limits.fuel == default.fuel, limits.fuel.into()),
        ("concurrency", limits.concurrency == default.concurrency, limits.concurrency.into()),
        ("output", limits.output_bytes == default.output_bytes, size_text(limits.output_bytes).into()),
        ("output_events", limits.output_events == default.output_events, limits.output_events.into()),
        ("log", limits.log_bytes == default.log_bytes, size_text(limits.log_bytes.into()).into()),
    ];
    let changed = rows.into_iter().filter(|(_, is_default, _)| !is_default);
    changed.map(|(key, _, value)| (key.to_owned(), value)).collect()
}

fn retry_form(retry: &RetryPolicy) -> Option<Value> {
    let default = RetryPolicy::default();
    let duration = |d: Duration| Value::from(duration_text(d));
    let mut form = Form::new();
    if retry.max_attempts != default.max_attempts {
        form.insert("max_attempts".to_owned(), retry.max_attempts.into());
    }
    if retry.base != default.base {
        form.insert("base".to_owned(), duration(retry.base));
    }
    // A base above the default cap raises it, so that the cap is said whenever the base is not the default.
    if retry.cap != default.cap || retry.base > default.cap {
        form.insert("cap".to_owned(), duration(retry.cap));
    }
    if retry.max_age != default.max_age {
        form.insert("max_age".to_owned(), duration(retry.max_age));
    }
    (!form.is_empty()).then_some(form.into())
}

/// `pattern` without white space between its tokens; as it is if it is no JSON.
#[must_use]
pub fn compact(pattern: &str) -> String {
    let Ok(json) = Json::parse(pattern.as_bytes()) else { return pattern.to_owned() };
    let mut text = Vec::with_capacity(pattern.len());
    json.write(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// A duration as the manifest takes it: `1m 30s`.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A size as the manifest takes it, exact: `32MiB`, else `1000B`.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = units.iter().find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    exact.map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

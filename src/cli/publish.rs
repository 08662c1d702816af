//! `oncue publish`: one event, or many of the same, onto a bus.
//!
//! Invariant: without `--core` a message counts as published when a stream has stored it. The payload goes out byte
//! for byte as it was given; it is only read to see whether it is JSON.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;

use crate::bus::nats::{self, NatsBus};
use crate::bus::send::{self, Outgoing, SendError, Stored};
use crate::bus::{BusConfig, BusKind, Publishing};
use crate::event::{Event, codec};

use super::Context;
use super::arguments::{key_value, read_input};

/// What may be typed after `oncue publish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A subject of the only bus, or BUS/SUBJECT
    topic: String,
    /// The payload: JSON, @FILE, or - for stdin
    #[arg(allow_hyphen_values = true)]
    payload: String,
    /// The event's type [default: the subject]
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
    /// The event's id; a stream stores an id once in its duplicate window [default: a random UUID]
    #[arg(long)]
    id: Option<String>,
    /// Where the event comes from
    #[arg(long, default_value = "oncue/cli")]
    source: String,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// An extension attribute; repeatable
    #[arg(long = "ext", value_name = "NAME=VALUE", value_parser = key_value)]
    extensions: Vec<(String, String)>,
    /// A message header; repeatable
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = key_value)]
    headers: Vec<(String, String)>,
    /// Send the payload as it is, without CloudEvents headers
    #[arg(long, conflicts_with_all = ["ty", "source", "subject", "extensions"])]
    raw: bool,
    /// Publish by core NATS: at most once, nothing is stored
    #[arg(long)]
    core: bool,
    /// Publish this many; with more than one the ids end in -1, -2, …
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

/// What was published.
#[derive(Debug, Default, Serialize)]
struct Published {
    bus: String,
    subject: String,
    id: Option<String>,
    stream: Option<String>,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    count: u64,
    duplicates: u64,
    seconds: f64,
}

/// Publishes.
///
/// # Errors
/// A payload that is no JSON, no such bus, a server that is not there, a subject that no stream stores.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (bus_name, config, subject) = resolve(&args.topic, context)?;
    ensure!(config.kind == BusKind::Nats, "the bus \"{bus_name}\" is a Postgres: run `select oncue.publish(…)` there");
    let payload = payload(&args)?;
    let id = args.id.clone().or_else(|| (!args.raw).then(|| uuid::Uuid::new_v4().to_string()));
    let template = message(&args, &subject, id.as_deref().unwrap_or_default(), payload)?;
    let bus = nats::connect(&bus_name, config).await?;
    let mut published = Published { bus: bus_name, subject, id: id.clone(), ..Published::default() };
    let begin = Instant::now();
    let messages = (1..=args.count).map(|n| numbered(&template, id.as_deref(), n, args.count));
    if args.core || config.publish == Publishing::Core {
        published.count = send::core(&bus, messages).await?;
    } else {
        store(&bus, messages, &mut published).await?;
    }
    published.seconds = begin.elapsed().as_secs_f64();
    context.output.one(&published, describe)?;
    Ok(ExitCode::SUCCESS)
}

async fn store(
    bus: &NatsBus,
    messages: impl Iterator<Item = Outgoing>,
    published: &mut Published,
) -> anyhow::Result<()> {
    let note = |_: &Outgoing, stored: Stored| {
        published.first_sequence.get_or_insert(stored.sequence);
        published.last_sequence = Some(stored.sequence);
        published.stream = Some(stored.stream);
        published.count += 1;
        published.duplicates += u64::from(stored.duplicate);
    };
    match send::store(bus, messages, note).await {
        Err(error @ SendError::NoStream(_)) => Err(error).context(
            "nothing was published: give a JetStream trigger this subject and `create_stream = true` and run \
             `oncue apply`, or create a stream with `nats stream add`, or publish with --core, which stores nothing",
        ),
        Err(error) => Err(error).with_context(|| format!("published {} of the messages", published.count)),
        Ok(()) => Ok(()),
    }
}

/// The bus and the subject that `topic` names.
fn resolve<'a>(topic: &str, context: &'a Context) -> anyhow::Result<(String, &'a BusConfig, String)> {
    let buses = &context.config()?.buses;
    let known = || buses.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (name, subject) = match topic.split_once('/') {
        Some((bus, subject)) => (bus.to_owned(), subject),
        None => match buses.len() {
            0 => bail!("no bus is named: set NATS_URL, or add a section [bus.NAME] to oncue.toml, or run `oncue dev`"),
            1 => (known(), topic),
            _ => bail!("there are several buses ({}): write BUS/{topic}", known()),
        },
    };
    let config = buses.get(&name).with_context(|| format!("there is no bus \"{name}\"; there is {}", known()))?;
    check_subject(subject)?;
    Ok((name, config, subject.to_owned()))
}

fn check_subject(subject: &str) -> anyhow::Result<()> {
    let bad = subject.chars().find(|c| c.is_whitespace() || c.is_control() || "*>".contains(*c));
    if let Some(bad) = bad {
        bail!("\"{subject}\" cannot be published to: {bad:?} is not allowed in a subject");
    }
    ensure!(!subject.split('.').any(str::is_empty), "\"{subject}\" cannot be published to: it has an empty token");
    Ok(())
}

fn payload(args: &Args) -> anyhow::Result<Bytes> {
    let (bytes, place) = match args.payload.strip_prefix('@') {
        Some(path) => (read_input(path.as_ref())?, path),
        None if args.payload == "-" => (read_input("-".as_ref())?, "stdin"),
        None => (args.payload.clone().into_bytes(), "the payload"),
    };
    if !args.raw {
        let json: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&bytes);
        json.with_context(|| format!("{place} is not JSON; --raw sends anything"))?;
    }
    Ok(bytes.into())
}

fn message(args: &Args, subject: &str, id: &str, payload: Bytes) -> anyhow::Result<Outgoing> {
    let message_id = (!id.is_empty()).then(|| id.to_owned());
    let (mut headers, payload) = if args.raw {
        (Vec::new(), payload)
    } else {
        let event = Event {
            id: id.to_owned(),
            source: args.source.clone(),
            ty: args.ty.clone().unwrap_or_else(|| subject.to_owned()),
            subject: args.subject.clone(),
            time: Some(OffsetDateTime::now_utc()),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: args.extensions.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect(),
            data: payload,
        };
        codec::check(&event).context("this is no CloudEvent")?;
        codec::to_binary(&event)
    };
    headers.extend(args.headers.iter().cloned());
    Ok(Outgoing { subject: subject.to_owned(), headers, payload, message_id })
}

/// The `n`th of `count` messages: of more than one, each has an id of its own.
fn numbered(template: &Outgoing, id: Option<&str>, n: u64, count: u64) -> Outgoing {
    let mut message = template.clone();
    let Some(id) = id.filter(|_| count > 1) else { return message };
    let id = format!("{id}-{n}");
    if let Some((_, value)) = message.headers.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case("ce-id")) {
        value.clone_from(&id);
    }
    message.message_id = Some(id);
    message
}

fn describe(published: &Published) -> String {
    let Published { bus, subject, count, duplicates, seconds, .. } = published;
    let id = published.id.as_deref().map(|id| format!(" as {id}")).unwrap_or_default();
    let rate = *count as f64 / seconds.max(1e-6);
    match (&published.stream, published.first_sequence, published.last_sequence) {
        (Some(stream), Some(first), Some(last)) if *count > 1 => format!(
            "published {count} to {bus}/{subject}{id}-N: stream {stream}, sequences {first} to {last}, \
             {duplicates} duplicates, {seconds:.2} s, {rate:.0}/s"
        ),
        (Some(stream), Some(sequence), _) => {
            let duplicate = if *duplicates > 0 { ", duplicate: the stream had it already" } else { "" };
            format!("published to {bus}/{subject}{id}: stream {stream}, sequence {sequence}{duplicate}")
        }
        _ => format!("sent {count} to {bus}/{subject}{id} by core NATS: nothing says whether anybody listened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_to_publish_to_has_no_wildcards() {
        let table =
            [("user.signup", true), ("a", true), ("a.*", false), ("a.>", false), ("a..b", false), ("a b", false)];
        for (subject, good) in table {
            assert_eq!(check_subject(subject).is_ok(), good, "{subject}");
        }
    }

    #[test]
    fn many_messages_have_ids_of_their_own() {
        let template = Outgoing {
            subject: "a".to_owned(),
            headers: vec![("ce-id".to_owned(), "x".to_owned())],
            payload: Bytes::new(),
            message_id: Some("x".to_owned()),
        };
        let second = numbered(&template, Some("x"), 2, 3);
        assert_eq!((second.headers[0].1.as_str(), second.message_id.as_deref()), ("x-2", Some("x-2")));
        assert_eq!(numbered(&template, Some("x"), 1, 1).message_id.as_deref(), Some("x"));
    }
}

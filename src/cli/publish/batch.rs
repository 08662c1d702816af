//! What `oncue publish` sends: one event or many, from one payload or from one a line.
//!
//! Invariant: of more than one event each has an id of its own; every payload was looked at before the first is sent.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use time::OffsetDateTime;

use crate::bus::BusKind;
use crate::bus::send::Outgoing;
use crate::cli::arguments::read_input;
use crate::event::codec::kafka::{self, Outgoing as Record};
use crate::event::{AttributeValue, Event, PARTITION_KEY, codec};

use super::Args;

/// Events that are alike but for their ids and payloads.
pub(super) struct Batch {
    /// The id of the only event, or what the ids begin with; none for raw messages without one.
    pub(super) id: Option<String>,
    subject: String,
    template: Event,
    raw: bool,
    key: Option<String>,
    headers: Vec<(String, String)>,
    payloads: Vec<Bytes>,
    count: u64,
}

impl Batch {
    /// Reads what `args` ask for.
    ///
    /// # Errors
    /// Options that the kind of bus does not have, a payload that is no JSON, attributes that are no CloudEvent's.
    pub(super) fn new(args: &Args, subject: &str, kind: BusKind) -> anyhow::Result<Self> {
        ensure!(kind == BusKind::Kafka || args.key.is_none(), "only records of Kafka have keys: leave --key out");
        ensure!(kind != BusKind::Kafka || !args.core, "a topic stores what it takes: leave --core out");
        if kind == BusKind::Postgres {
            ensure!(
                !args.raw && !args.core && args.headers.is_empty(),
                "a Postgres bus takes events only: leave --raw, --core and --header out"
            );
            ensure!(args.ty.is_none(), "a Postgres bus has no subjects: the type is after BUS/, leave --type out");
        }
        let id = args.id.clone().or_else(|| (!args.raw).then(|| uuid::Uuid::new_v4().to_string()));
        let template = Event {
            id: id.clone().unwrap_or_default(),
            source: args.source.clone(),
            ty: args.ty.clone().unwrap_or_else(|| subject.to_owned()),
            subject: args.subject.clone(),
            // Of a Postgres it is the time of the commit.
            time: (kind != BusKind::Postgres).then(OffsetDateTime::now_utc),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: extensions(args),
            data: Bytes::new(),
        };
        if !args.raw {
            codec::check(&template).context("this is no CloudEvent")?;
        }
        Ok(Self {
            id,
            subject: subject.to_owned(),
            template,
            raw: args.raw,
            key: args.key.clone(),
            headers: args.headers.clone(),
            payloads: payloads(args)?,
            count: args.count,
        })
    }

    /// How many there are.
    pub(super) fn total(&self) -> u64 {
        self.payloads.len() as u64 * self.count
    }

    /// The `n`th, counted from 1.
    pub(super) fn event(&self, n: u64) -> Event {
        let id = self.id(n).unwrap_or_default();
        Event { id, data: self.payload(n), ..self.template.clone() }
    }

    /// The `n`th as a message of NATS.
    pub(super) fn message(&self, n: u64) -> Outgoing {
        let (mut headers, payload) =
            if self.raw { (Vec::new(), self.payload(n)) } else { codec::to_binary(&self.event(n)) };
        headers.extend(self.headers.iter().cloned());
        let message_id = self.id(n).filter(|id| !id.is_empty());
        Outgoing { subject: self.subject.clone(), headers, payload, message_id }
    }

    /// The `n`th as a record of Kafka.
    pub(super) fn record(&self, n: u64) -> Record {
        let mut record = if self.raw {
            Record { key: self.key.clone(), headers: Vec::new(), value: self.payload(n) }
        } else {
            kafka::encode(&self.event(n))
        };
        record.headers.extend(self.headers.iter().cloned());
        record
    }

    fn id(&self, n: u64) -> Option<String> {
        let id = self.id.as_ref()?;
        Some(if self.total() > 1 { format!("{id}-{n}") } else { id.clone() })
    }

    fn payload(&self, n: u64) -> Bytes {
        // There is at least one payload, and with several the count is 1.
        let at = usize::try_from(n - 1).unwrap_or(usize::MAX).min(self.payloads.len() - 1);
        self.payloads[at].clone()
    }
}

/// The attributes that were given by name, and the key, which travels as one of them.
fn extensions(args: &Args) -> Vec<(String, AttributeValue)> {
    let key = args.key.as_ref().map(|key| (PARTITION_KEY.to_owned(), key.clone()));
    let named = args.extensions.iter().filter(|(name, _)| key.is_none() || name != PARTITION_KEY).cloned();
    named.chain(key.clone()).map(|(name, value)| (name, value.into())).collect()
}

fn payloads(args: &Args) -> anyhow::Result<Vec<Bytes>> {
    let (bytes, place) = match args.payload.strip_prefix('@') {
        Some(path) => (read_input(path.as_ref())?, path),
        None if args.payload == "-" => (read_input("-".as_ref())?, "stdin"),
        None => (args.payload.clone().into_bytes(), "the payload"),
    };
    let whole = Bytes::from(bytes);
    if args.raw {
        return Ok(vec![whole]);
    }
    let check = |bytes: &Bytes, place: &str| {
        let json: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(bytes);
        json.map(drop).with_context(|| format!("{place} is not JSON; --raw sends anything"))
    };
    if !args.lines {
        check(&whole, place)?;
        return Ok(vec![whole]);
    }
    let mut payloads = Vec::new();
    for (at, line) in whole.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if !line.is_empty() {
            let line = whole.slice_ref(line);
            check(&line, &format!("line {} of {place}", at + 1))?;
            payloads.push(line);
        }
    }
    ensure!(!payloads.is_empty(), "{place} has no lines");
    Ok(payloads)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn batch(kind: BusKind, line: &[&str]) -> anyhow::Result<Batch> {
        let args = Line::try_parse_from(["publish"].iter().chain(line))?.args;
        Batch::new(&args, "user.signup", kind)
    }

    #[test]
    fn many_messages_have_ids_of_their_own() {
        let three = batch(BusKind::Nats, &["t", "{}", "--id", "x", "--count", "3"]).expect("it is right");
        let second = three.message(2);
        let id = second.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-id")).map(|(_, v)| v.as_str());
        assert_eq!((id, second.message_id.as_deref(), three.total()), (Some("x-2"), Some("x-2"), 3));
        let one = batch(BusKind::Nats, &["t", "{}", "--id", "x"]).expect("it is right");
        assert_eq!(one.message(1).message_id.as_deref(), Some("x"));
    }

    #[test]
    fn a_record_has_the_key_that_it_is_given_or_its_subject() {
        let table: [(&[&str], Option<&str>); 5] = [
            (&["t", "{}"], None),
            (&["t", "{}", "--subject", "s"], Some("s")),
            (&["t", "{}", "--subject", "s", "--key", "k"], Some("k")),
            (&["t", "{}", "--ext", "partitionkey=p"], Some("p")),
            (&["t", "x", "--raw", "--key", "k"], Some("k")),
        ];
        for (line, key) in table {
            let record = batch(BusKind::Kafka, line).expect("it is right").record(1);
            assert_eq!(record.key.as_deref(), key, "{line:?}");
        }
        let raw = batch(BusKind::Kafka, &["t", "x", "--raw", "--header", "a=b"]).expect("it is right").record(1);
        assert_eq!((raw.headers, &raw.value[..]), (vec![("a".to_owned(), "b".to_owned())], &b"x"[..]));
    }

    #[test]
    fn each_line_is_an_event() {
        let lines =
            batch(BusKind::Postgres, &["t", "{\"a\":1}\n\n [2] \n", "--lines", "--id", "x"]).expect("it is right");
        assert_eq!(lines.total(), 2);
        let second = lines.event(2);
        assert_eq!((second.id.as_str(), &second.data[..], second.ty.as_str()), ("x-2", &b"[2]"[..], "user.signup"));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_before_anything_is() {
        let table: [(BusKind, &[&str], &str); 9] = [
            (BusKind::Nats, &["t", "x"], "the payload is not JSON"),
            (BusKind::Nats, &["t", "{}\nx", "--lines"], "line 2 of the payload is not JSON"),
            (BusKind::Nats, &["t", "\n", "--lines"], "has no lines"),
            (BusKind::Nats, &["t", "{}", "--ext", "A=1"], "this is no CloudEvent"),
            (BusKind::Nats, &["t", "{}", "--key", "k"], "leave --key out"),
            (BusKind::Kafka, &["t", "{}", "--core"], "leave --core out"),
            (BusKind::Postgres, &["t", "{}", "--core"], "takes events only"),
            (BusKind::Postgres, &["t", "{}", "--header", "a=b"], "takes events only"),
            (BusKind::Postgres, &["t", "{}", "--type", "x"], "leave --type out"),
        ];
        for (kind, line, expected) in table {
            let error = batch(kind, line).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
    }
}

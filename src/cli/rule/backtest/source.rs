//! Where a backtest reads from: for each trigger that the rule sees, its record or its bus.
//!
//! Invariant: nothing is read before every source could be opened. What a source is known to lack stands in its `gaps`.

use anyhow::{Context as _, bail};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bus::kafka::KafkaBus;
use crate::bus::{BusConfig, BusKind, nats};
use crate::cli::Context;
use crate::delivery::DeliveryId;
use crate::event::Event;
use crate::store::Store;
use crate::store::control::{ControlPlane, TriggerRow};
use crate::store::recorded::What;
use crate::triggers::history::{History, Wanted};
use crate::triggers::spec::{KafkaSpec, TriggerSpec};

use super::subject::Subject;
use super::{Args, SourceKind};

mod recorded;

use recorded::RecordReader;

/// The consumer group that a topic is read for where no trigger has one; it is not joined.
const GROUP: &str = "oncue-backtest";

/// An event that was read, or why a message is none.
pub(super) struct Taken {
    pub(super) at: OffsetDateTime,
    pub(super) event: Result<Event, String>,
}

/// One source.
pub(super) struct Reader {
    /// The trigger whose events it has.
    pub(super) trigger: String,
    /// What is read.
    from: String,
    /// About how many events there are; 0 where that is not known.
    pub(super) expected: u64,
    /// What it lacks, in words.
    pub(super) gaps: Vec<String>,
    /// Events that were read.
    pub(super) events: u64,
    /// Why it could not be read to its end.
    pub(super) failed: Option<String>,
    kind: Kind,
}

enum Kind {
    Record(Box<RecordReader>),
    Bus(Box<History>),
}

impl Reader {
    /// The next event; none at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Taken>> {
        match &mut self.kind {
            Kind::Record(record) => record.next().await,
            Kind::Bus(history) => {
                let message = history.next().await?;
                Ok(message.map(|m| Taken { at: m.at, event: m.event.map_err(|error| error.to_string()) }))
            }
        }
    }

    /// What was read, in words.
    pub(super) fn from(&self) -> String {
        match &self.kind {
            Kind::Record(record) if record.beside() > 0 => {
                format!("{}, with {} parked and dead ones", self.from, record.beside())
            }
            _ => self.from.clone(),
        }
    }

    fn of_bus(trigger: &str, from: String, history: History) -> Self {
        let History { expected, ref gaps, .. } = history;
        let gaps = gaps.clone();
        let (trigger, kind) = (trigger.to_owned(), Kind::Bus(Box::new(history)));
        Self { trigger, from, expected, gaps, events: 0, failed: None, kind }
    }
}

/// Opens every source that `args` ask for.
pub(super) async fn open(
    args: &Args,
    subject: &Subject,
    tables: &ControlPlane,
    (store, context): (&Store, &Context),
    since: OffsetDateTime,
) -> anyhow::Result<Vec<Reader>> {
    if !args.from.is_empty() {
        return Box::pin(named(args, subject, context, since)).await;
    }
    let mut readers = Vec::new();
    let mut without = Vec::new();
    for row in tables.triggers.iter().filter(|row| subject.trigger().is_none_or(|name| name == row.name)) {
        let on_bus = place(row);
        let from = args.source.unwrap_or(match (row.recording().what, &on_bus) {
            (What::None | What::Matched, Some(_)) => SourceKind::Bus,
            _ => SourceKind::Recorded,
        });
        match (from, on_bus) {
            (SourceKind::Recorded, on_bus) => readers.push(of_record(row, on_bus.is_some(), store, since).await?),
            (SourceKind::Bus, Some(place)) => readers.push(Box::pin(of_bus(row, place, context, since)).await?),
            (SourceKind::Bus, None) => without.push(row.name.as_str()),
        }
    }
    if readers.is_empty() {
        match without.as_slice() {
            [] => bail!(
                "there is no trigger: `oncue apply` writes those of the manifest, or name a source with --from BUS/NAME"
            ),
            names => bail!(
                "the bus of {} keeps no events (a stream or a topic does): leave --source bus out, and set `record = \"all\"` on \
                 the trigger",
                names.join(", ")
            ),
        }
    }
    Ok(readers)
}

/// What a bus keeps of a trigger's events.
enum Place {
    Stream { name: String, subjects: Vec<String> },
    Topics(KafkaSpec),
}

/// None of a trigger whose bus keeps nothing.
fn place(row: &TriggerRow) -> Option<Place> {
    match TriggerSpec::parse(&row.kind, &row.spec).ok()? {
        TriggerSpec::JetStream(spec) => Some(Place::Stream { name: spec.stream, subjects: spec.subjects }),
        TriggerSpec::Kafka(spec) => Some(Place::Topics(spec)),
        TriggerSpec::Nats(_) | TriggerSpec::Postgres(_) => None,
    }
}

async fn of_bus(row: &TriggerRow, place: Place, context: &Context, since: OffsetDateTime) -> anyhow::Result<Reader> {
    let config = bus(&row.bus, context)?;
    let wanted = wanted(&row.name, context, since)?;
    match place {
        Place::Stream { name, subjects } => {
            let connection = nats::connect(&row.bus, config).await?;
            let history = History::of_stream((&row.bus, &connection), (&name, &subjects), wanted).await?;
            Ok(Reader::of_bus(&row.name, format!("the stream {name}"), history))
        }
        Place::Topics(spec) => {
            let bus = KafkaBus::new(&row.bus, config)?;
            let mut names: Vec<String> = spec.names().map(str::to_owned).collect();
            if names.len() < spec.topics.len() {
                // Some are expressions.
                let found = bus.topics().await?.into_iter().map(|topic| topic.name);
                let new: Vec<String> = found.filter(|name| spec.reads(name) && !names.contains(name)).collect();
                names.extend(new);
            }
            let from = match names.as_slice() {
                [one] => format!("the topic {one}"),
                names => format!("the topics {}", names.join(", ")),
            };
            let history = History::of_topics(&bus, &names, &spec.group(&row.name), wanted).await?;
            Ok(Reader::of_bus(&row.name, from, history))
        }
    }
}

/// The sources that were named.
async fn named(
    args: &Args,
    subject: &Subject,
    context: &Context,
    since: OffsetDateTime,
) -> anyhow::Result<Vec<Reader>> {
    let mut readers = Vec::with_capacity(args.from.len());
    for (bus_name, name) in &args.from {
        let config = bus(bus_name, context)?;
        // As if they came in by the rule's own trigger.
        let trigger = subject.trigger().unwrap_or(name);
        let wanted = wanted(trigger, context, since)?;
        let (from, history) = match config.kind {
            BusKind::Nats => {
                let connection = nats::connect(bus_name, config).await?;
                let history = History::of_stream((bus_name, &connection), (name, &[]), wanted).await?;
                (format!("the stream {name}"), history)
            }
            BusKind::Kafka => {
                let bus = KafkaBus::new(bus_name, config)?;
                let topics = [name.clone()];
                (format!("the topic {name}"), History::of_topics(&bus, &topics, GROUP, wanted).await?)
            }
            BusKind::Postgres => bail!(
                "--from {bus_name}/{name}: a Postgres bus keeps no events: set `record = \"all\"` on its trigger, and leave --from out"
            ),
        };
        readers.push(Reader::of_bus(trigger, from, history));
    }
    Ok(readers)
}

fn wanted(trigger: &str, context: &Context, since: OffsetDateTime) -> anyhow::Result<Wanted> {
    Ok(Wanted { trigger: trigger.to_owned(), since, limits: context.config()?.node.limits })
}

fn bus<'a>(name: &str, context: &'a Context) -> anyhow::Result<&'a BusConfig> {
    let buses = &context.config()?.buses;
    buses.get(name).with_context(|| {
        let known: Vec<&str> = buses.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "there is no bus \"{name}\" in {}: add a section [bus.{name}] (there is {known})",
            context.manifest().display()
        )
    })
}

async fn of_record(row: &TriggerRow, on_bus: bool, store: &Store, since: OffsetDateTime) -> anyhow::Result<Reader> {
    let begins = store.record_begins(&row.name).await?.map(|id| DeliveryId(id).time());
    let reader = RecordReader::new(store, &row.name, since);
    let mut gaps = Vec::new();
    let what = row.recording().what;
    let advice = "set `record = \"all\"` on it for what is to come";
    match (what, begins) {
        (What::None, None) => gaps.push(format!("{} records nothing: {advice}", row.name)),
        (_, None) => gaps.push(format!("nothing of {} is recorded yet", row.name)),
        (_, Some(begins)) if begins > since => {
            let begins = begins.format(&Rfc3339).unwrap_or_default();
            let more = if on_bus { "; --source bus reads what the bus has" } else { "" };
            gaps.push(format!("the record of {} begins at {begins}: what came before is not in it{more}", row.name));
        }
        _ => {}
    }
    match what {
        What::Matched => {
            gaps.push(format!("{} records only what a rule matched: what none did is not in it; {advice}", row.name));
        }
        What::None if begins.is_some() => gaps.push(format!("{} records nothing any more: {advice}", row.name)),
        What::None | What::All => {}
    }
    let (trigger, kind) = (row.name.clone(), Kind::Record(Box::new(reader)));
    Ok(Reader { trigger, from: "the record".to_owned(), expected: 0, gaps, events: 0, failed: None, kind })
}

//! The effects of a call, events and SQL statements: checked, granted, bounded, and kept until the call has ended well.
//!
//! Invariant: nothing leaves this buffer before `handle` returned ok, and nothing at all if a limit was hit (no partial
//! effects). Ids are left as the guest gave them or empty: the dispatcher gives the deterministic ones.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use super::host::wit;
use super::logs;
use crate::delivery::{Effects, Limit, Outcome};
use crate::event::{AttributeValue, Event, subject};
use crate::function::FunctionSpec;
use crate::function::sql::{STATEMENTS_MAX, Statement};

/// Longest name of an extension attribute (CloudEvents 1.0: names should not exceed 20 characters).
const EXTENSION_NAME_MAX: usize = 20;
/// What is shown of a text at most.
const TYPE_MAX: usize = 255;
/// Bytes that an event, each of its extension attributes, and a statement count beside their text.
const OVERHEAD: usize = 32;
/// What a guest without the grant hears.
pub(super) const MISSING_SQL: &str =
    "SQL is not granted; deploy the function with the grant: grants = { sql = { role = \"ROLE\" } }";
/// Names that are attributes of the envelope itself, so no extension may carry them (CloudEvents 1.0).
const RESERVED: [&str; 9] =
    ["id", "source", "specversion", "type", "subject", "time", "data", "datacontenttype", "dataschema"];

/// Why an effect was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It is not valid, or no grant covers it.
    #[error("{0}")]
    Denied(String),
    /// The sum of a call's effects is above its limit.
    #[error("{1}")]
    Limit(Limit, String),
}

/// The effects of one call.
#[derive(Debug)]
pub(super) struct Outputs {
    spec: Arc<FunctionSpec>,
    source: String,
    effects: Effects,
    bytes: u64,
    over: Option<(Limit, String)>,
}

impl Outputs {
    /// Empty outputs of `function`.
    pub(super) fn new(spec: Arc<FunctionSpec>, function: &str) -> Self {
        Self { spec, source: format!("oncue/{function}"), effects: Effects::default(), bytes: 0, over: None }
    }

    /// Takes one event.
    pub(super) fn push(&mut self, event: wit::Event) -> Result<(), Refused> {
        self.count(&event)?;
        let event = convert(event, &self.source).map_err(Refused::Denied)?;
        if self.spec.grants.bus_for(&event.ty).is_none() {
            return Err(Refused::Denied(missing_grant(&event.ty)));
        }
        self.effects.events.push(event);
        Ok(())
    }

    /// Takes one statement.
    pub(super) fn execute(&mut self, statement: Statement) -> Result<(), Refused> {
        if self.spec.grants.sql.is_none() {
            return Err(Refused::Denied(MISSING_SQL.to_owned()));
        }
        if self.effects.statements.len() >= STATEMENTS_MAX {
            let text = format!("buffered more than {STATEMENTS_MAX} statements; hand rows over as one `$1::jsonb`");
            return Err(self.exceed(Limit::Statements, text));
        }
        self.weigh(OVERHEAD + statement.size())?;
        statement.check().map_err(Refused::Denied)?;
        self.effects.statements.push(statement);
        Ok(())
    }

    /// What the call comes to when `handle` returned `returned`: all its events, or why there are none.
    pub(super) fn finish(mut self, returned: Vec<wit::Event>) -> Outcome {
        self.effects.events.reserve(returned.len().min(self.spec.limits.output_events as usize));
        for event in returned {
            match self.push(event) {
                Ok(()) => {}
                Err(Refused::Denied(text)) => return Outcome::Denied(text),
                Err(Refused::Limit(limit, text)) => return Outcome::Limit(limit, text),
            }
        }
        match self.over {
            Some((limit, text)) => Outcome::Limit(limit, text),
            None => Outcome::Ok(self.effects),
        }
    }

    fn count(&mut self, event: &wit::Event) -> Result<(), Refused> {
        let most = self.spec.limits.output_events;
        if self.effects.events.len() >= most as usize {
            return Err(self.exceed(Limit::OutputEvents, format!("emitted more than {most} events")));
        }
        self.weigh(size(event))
    }

    fn weigh(&mut self, bytes: usize) -> Result<(), Refused> {
        let most = self.spec.limits.output_bytes;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > most {
            let text = format!("emitted more than {most} bytes of events and statements");
            return Err(self.exceed(Limit::OutputBytes, text));
        }
        Ok(())
    }

    /// Remembers the first limit that was passed: it ends the call however the guest takes it.
    fn exceed(&mut self, limit: Limit, text: String) -> Refused {
        self.over.get_or_insert_with(|| (limit, text.clone()));
        Refused::Limit(limit, text)
    }
}

/// Bytes that an event counts against the limit of its call.
fn size(event: &wit::Event) -> usize {
    let option = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let extensions: usize = event.extensions.iter().map(|(name, value)| OVERHEAD + name.len() + value.len()).sum();
    let attributes = event.id.len() + event.source.len() + event.type_.len();
    OVERHEAD + attributes + option(&event.subject) + option(&event.content_type) + extensions + event.data.len()
}

fn missing_grant(ty: &str) -> String {
    let shown = logs::escape(ty, TYPE_MAX).0;
    format!("emitted an event of type {shown}, which no grant covers; grant it with publish = [\"bus/{shown}\"]")
}

fn convert(event: wit::Event, source: &str) -> Result<Event, String> {
    check_type(&event.type_)?;
    let time = event.time.map(time_of).transpose()?;
    let texts = [Some(&event.id), Some(&event.source), event.subject.as_ref(), event.content_type.as_ref()];
    texts.into_iter().flatten().try_for_each(|text| check_text(text))?;
    let mut extensions = Vec::with_capacity(event.extensions.len());
    for (name, value) in event.extensions {
        // The host's own names: a function that passes an event on hands them back, so this is no mistake of its.
        if name.starts_with("oncue") {
            continue;
        }
        check_extension(&name, &value, &extensions)?;
        extensions.push((name, AttributeValue::String(value)));
    }
    Ok(Event {
        id: event.id,
        source: if event.source.is_empty() { source.to_owned() } else { event.source },
        ty: event.type_,
        subject: event.subject.filter(|subject| !subject.is_empty()),
        time,
        datacontenttype: event.content_type.filter(|media| !media.is_empty()),
        dataschema: None,
        extensions,
        data: Bytes::from(event.data),
    })
}

/// A type is also the subject that the event is published to.
fn check_type(ty: &str) -> Result<(), String> {
    // Without the type: a function may make it of what it was given.
    subject::check(ty).map_err(|problem| format!("emitted an event whose type {problem}"))
}

fn check_text(text: &str) -> Result<(), String> {
    match text.contains(char::is_control) {
        true => Err("emitted an attribute with a control character".to_owned()),
        false => Ok(()),
    }
}

fn check_extension(name: &str, value: &str, others: &[(String, AttributeValue)]) -> Result<(), String> {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || name.len() > EXTENSION_NAME_MAX || !name.bytes().all(lower) {
        return Err("emitted an extension whose name is not 1 to 20 of a-z and 0-9".to_owned());
    }
    if RESERVED.contains(&name) {
        return Err(format!("emitted an extension named {name:?}, which is an attribute of every event"));
    }
    if others.iter().any(|(other, _)| other == name) {
        return Err(format!("emitted the extension {name:?} twice"));
    }
    check_text(value)
}

fn time_of(micros: u64) -> Result<OffsetDateTime, String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .map_err(|_| format!("emitted an event whose time is after the year 9999: {micros} us since 1970"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Outputs, Refused, check_type};
    use crate::delivery::{Effects, Limit, Outcome};
    use crate::function::sql::{STATEMENTS_MAX, Statement, Value};
    use crate::function::{FunctionSpec, Grants, Limits, SqlGrant};
    use crate::runtime::host::wit;

    fn outputs() -> Outputs {
        let limits = Limits { output_events: 2, output_bytes: 1_000, ..Limits::default() };
        let grants = Grants { publish: vec!["bus/mail.*".to_owned()], sql: None };
        Outputs::new(Arc::new(FunctionSpec { limits, grants, ..FunctionSpec::default() }), "welcome")
    }

    fn event(ty: &str, data: usize) -> wit::Event {
        wit::Event {
            id: String::new(),
            source: String::new(),
            type_: ty.to_owned(),
            subject: None,
            time: None,
            content_type: None,
            extensions: Vec::new(),
            data: vec![b'x'; data],
        }
    }

    #[test]
    fn an_event_gets_a_source_and_keeps_an_empty_id() {
        let Outcome::Ok(Effects { events, .. }) = outputs().finish(vec![event("mail.welcome", 3)]) else {
            panic!("not ok")
        };
        assert_eq!((events[0].id.as_str(), events[0].source.as_str()), ("", "oncue/welcome"));
        assert_eq!(events[0].data, "xxx");
    }

    #[test]
    fn the_host_s_own_extensions_are_dropped_and_bad_ones_are_refused() {
        let with = |name: &str| {
            let extensions = vec![(name.to_owned(), "1".to_owned())];
            outputs().finish(vec![wit::Event { extensions, ..event("mail.a", 0) }])
        };
        assert!(matches!(with("oncuehops"), Outcome::Ok(e) if e.events[0].extensions.is_empty()));
        assert!(matches!(with("region"), Outcome::Ok(e) if e.events[0].extensions.len() == 1));
        for name in ["", "Upper", "has-dash", "source", "abcdefghijklmnopqrstu"] {
            assert!(matches!(with(name), Outcome::Denied(_)), "{name}");
        }
    }

    #[test]
    fn types_that_are_no_subject_are_refused() {
        for ty in ["", ".", "a..b", "a.*", "a.>", "a b", "a\r\nPUB x", "$JS.API.STREAM.DELETE.x", &"x".repeat(256)] {
            assert!(check_type(ty).is_err(), "{ty}");
        }
        assert!(check_type("com.example.Signed-Up_2").is_ok());
    }

    #[test]
    fn a_missing_grant_is_named() {
        let Outcome::Denied(text) = outputs().finish(vec![event("billing.paid", 0)]) else { panic!("not denied") };
        assert!(text.contains("publish = [\"bus/billing.paid\"]"), "{text}");
    }

    #[test]
    fn a_limit_throws_everything_away_even_when_the_guest_ignores_it() {
        let mut buffer = outputs();
        assert!(buffer.push(event("mail.a", 10)).is_ok());
        assert!(matches!(buffer.push(event("mail.a", 1_000)), Err(Refused::Limit(Limit::OutputBytes, _))));
        assert!(matches!(buffer.finish(Vec::new()), Outcome::Limit(Limit::OutputBytes, _)));
        let three = vec![event("mail.a", 0), event("mail.a", 0), event("mail.a", 0)];
        assert!(matches!(outputs().finish(three), Outcome::Limit(Limit::OutputEvents, _)));
    }

    fn statement(bytes: usize) -> Statement {
        Statement { text: "select $1".to_owned(), params: vec![Value::Bytes(vec![0; bytes])] }
    }

    fn with_sql() -> Outputs {
        let mut outputs = outputs();
        let mut spec = (*outputs.spec).clone();
        spec.grants.sql = Some(SqlGrant { role: "mailer".to_owned() });
        spec.limits.output_bytes = 100_000;
        outputs.spec = Arc::new(spec);
        outputs
    }

    #[test]
    fn statements_need_a_grant_and_keep_their_order() {
        assert!(matches!(outputs().execute(statement(1)), Err(Refused::Denied(text)) if text.contains("sql = { role")));
        let mut buffer = with_sql();
        assert!((1..4).all(|n| buffer.execute(statement(n)).is_ok()));
        let Outcome::Ok(Effects { statements, .. }) = buffer.finish(Vec::new()) else { panic!("not ok") };
        assert_eq!(statements, [statement(1), statement(2), statement(3)]);
    }

    #[test]
    fn statements_are_bounded_in_number_and_share_the_bytes_with_the_events() {
        let mut many = with_sql();
        assert!((0..STATEMENTS_MAX).all(|_| many.execute(statement(1)).is_ok()));
        assert!(matches!(many.execute(statement(1)), Err(Refused::Limit(Limit::Statements, _))));
        assert!(matches!(many.finish(Vec::new()), Outcome::Limit(Limit::Statements, _)));
        let mut large = with_sql();
        assert!(large.execute(statement(60_000)).is_ok());
        assert!(matches!(large.push(event("mail.a", 60_000)), Err(Refused::Limit(Limit::OutputBytes, _))));
    }
}

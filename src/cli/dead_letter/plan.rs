//! What a dead letter becomes when it is driven again: pure, from the letter and one picture of the control plane.
//!
//! Invariant: a delivery of a redrive has the id of the next generation, so that driving the same letter twice parks
//! it once. A letter that cannot run says why and stays as it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::delivery::{DeliveryId, FORGED};
use crate::event::codec::kafka::{self, Kept};
use crate::event::codec::{self, DecodeError, Defaults, Limits, Message, Pairs, nats};
use crate::event::{Event, ROLE, SIGNATURE};
use crate::rules::{CompiledRule, Rule, RuleSet};
use crate::store::control::{ControlPlane, TriggerRow};
use crate::store::dead_letters::{DeadLetter, RedriveDelivery};
use crate::triggers::spec::TriggerSpec;

use super::show::key_text;

/// The header in which NATS itself names the subject that a message had.
const SUBJECT_HEADER: &str = "nats-subject";

/// How letters are planned.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    /// Run what the rule names now, not what it named then.
    pub(super) with_current: bool,
    /// Limits for messages that were rejected.
    pub(super) limits: Limits,
    /// The type of a rejected message that names none.
    pub(super) ty: Option<String>,
}

/// The control plane as a redrive sees it.
pub(super) struct Planner {
    rules: HashMap<String, Rule>,
    current: HashMap<String, u32>,
    versions: BTreeSet<(String, u32)>,
    triggers: HashMap<String, TriggerRow>,
    set: RuleSet,
    options: Options,
}

impl Planner {
    pub(super) fn new(control: ControlPlane, options: Options) -> Self {
        let current: HashMap<String, u32> =
            control.functions.iter().filter(|f| f.current).map(|f| (f.function.clone(), f.version)).collect();
        let rules: Vec<Rule> = control.rules.into_iter().map(|r| r.rule).collect();
        let (set, _) = RuleSet::compile(control.version, rules.clone(), &current);
        Self {
            rules: rules.into_iter().map(|r| (r.name.clone(), r)).collect(),
            versions: control.functions.into_iter().map(|f| (f.function, f.version)).collect(),
            triggers: control.triggers.into_iter().map(|t| (t.name.clone(), t)).collect(),
            current,
            set,
            options,
        }
    }

    /// The deliveries that `letter` becomes.
    ///
    /// # Errors
    /// Why it cannot run, with what mends it.
    pub(super) fn plan(&self, letter: &DeadLetter) -> Result<Vec<RedriveDelivery>, String> {
        match &letter.row.rule {
            Some(rule) => self.failed(letter, rule).map(|delivery| vec![delivery]),
            None => self.rejected(letter),
        }
    }

    fn failed(&self, letter: &DeadLetter, name: &str) -> Result<RedriveDelivery, String> {
        let rule =
            self.rules.get(name).ok_or_else(|| format!("the rule {name} is gone: add it again, or drop the letter"))?;
        let function = if self.options.with_current {
            let compiled = CompiledRule::compile(rule.clone(), |f| self.current.get(f).copied());
            function_of(&compiled.map_err(|e| format!("the rule {name} does not compile: {e}"))?)
        } else {
            self.pinned(letter)?
        };
        Ok(delivery(letter, name, function, letter.raw.clone(), letter.ordering_key.clone()))
    }

    fn pinned(&self, letter: &DeadLetter) -> Result<Option<(String, i32)>, String> {
        let (Some(function), Some(version)) = (&letter.row.function, letter.row.version) else { return Ok(None) };
        if self.versions.contains(&(function.clone(), version.unsigned_abs())) {
            return Ok(Some((function.clone(), version)));
        }
        Err(format!("{function}@{version} is gone: --with-current runs what the rule names now"))
    }

    /// Decodes the message again and matches it against the rules of now.
    fn rejected(&self, letter: &DeadLetter) -> Result<Vec<RedriveDelivery>, String> {
        let trigger = &letter.row.trigger;
        let event = match Kept::from_json(&letter.headers) {
            Some(kept) => self.record(letter, &kept)?,
            None => self.message(letter)?,
        };
        let planned = self.set.plan(trigger, &Arc::new(event));
        if planned.is_empty() {
            return Err("it can be decoded, but no rule matches it".to_owned());
        }
        let deliveries = planned.into_iter().map(|p| {
            let event = codec::to_structured(&p.event);
            delivery(letter, &p.rule.rule.name, function_of(&p.rule), event, p.ordering_key)
        });
        Ok(deliveries.collect())
    }

    fn message(&self, letter: &DeadLetter) -> Result<Event, String> {
        let headers = match nats::Kept::from_json(&letter.headers) {
            Some(kept) => self.kept_headers(&kept)?,
            None => serde_json::from_slice(&letter.headers).map_err(|e| format!("its headers cannot be read: {e}"))?,
        };
        let ty = self.type_of(letter, &headers);
        let plain = !codec::is_binary(&headers) && !codec::is_structured(&headers);
        if plain && ty.is_none() {
            return Err("it is no CloudEvent and its subject was not kept: name its type with --type".to_owned());
        }
        let payload = Bytes::from(letter.raw.clone());
        let message = Message { headers: &headers, payload: &payload };
        let decode = |defaults: &Defaults<'_>| codec::decode(&message, defaults, &self.options.limits);
        let mut event = decoded(letter, ty.as_deref().unwrap_or_default(), decode)?;
        if letter.row.class == FORGED {
            // Nobody vouches for what it says of who published it.
            event.remove_extension(ROLE);
            event.remove_extension(SIGNATURE);
        }
        Ok(event)
    }

    /// The headers of a message that was kept byte for byte: its subject may be no text, but then its type can be named.
    fn kept_headers(&self, kept: &nats::Kept) -> Result<Pairs, String> {
        let block = nats::parse(&kept.block(), &self.options.limits);
        let mut headers = block.map_err(|error| format!("it still cannot be decoded: {error}"))?.headers;
        headers.extend(String::from_utf8(kept.subject()).map(|subject| (SUBJECT_HEADER.to_owned(), subject)));
        Ok(headers)
    }

    fn record(&self, letter: &DeadLetter, kept: &Kept) -> Result<Event, String> {
        let ty = self.options.ty.as_deref().unwrap_or(&kept.topic);
        kept.with_record(&letter.raw, |record| {
            decoded(letter, ty, |defaults| kafka::decode(record, defaults, &self.options.limits))
        })
    }

    /// The type of a message that is no CloudEvent: its subject, if it is known.
    fn type_of(&self, letter: &DeadLetter, headers: &[(String, String)]) -> Option<String> {
        let header = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(SUBJECT_HEADER)).map(|(_, v)| v.clone());
        header.or_else(|| self.options.ty.clone()).or_else(|| {
            let row = self.triggers.get(&letter.row.trigger)?;
            only_subject(&TriggerSpec::parse(&row.kind, &row.spec).ok()?)
        })
    }
}

/// The event of a rejected message, named as its trigger named it if it names itself not.
fn decoded(
    letter: &DeadLetter,
    ty: &str,
    decode: impl FnOnce(&Defaults<'_>) -> Result<Event, DecodeError>,
) -> Result<Event, String> {
    let (source, id) = (format!("oncue/trigger/{}", letter.row.trigger), key_text(&letter.transport_key));
    let time = Some(DeliveryId(letter.row.id).time());
    let defaults = Defaults { ty, source: &source, id: &id, subject: None, time };
    decode(&defaults).map_err(|e| format!("it still cannot be decoded: {e}"))
}

/// The subject of a trigger that has one without wildcards.
fn only_subject(spec: &TriggerSpec) -> Option<String> {
    let subjects = match spec {
        TriggerSpec::JetStream(spec) => spec.subjects.as_slice(),
        TriggerSpec::Nats(spec) => std::slice::from_ref(&spec.subject),
        // A record is kept with its topic.
        TriggerSpec::Kafka(_) => return None,
        // A published message says its type itself.
        TriggerSpec::Postgres(_) => return None,
    };
    match subjects {
        [subject] if !subject.contains(['*', '>']) => Some(subject.clone()),
        _ => None,
    }
}

fn function_of(rule: &CompiledRule) -> Option<(String, i32)> {
    match (&rule.rule.target, rule.version) {
        (crate::rules::Target::Run { function, .. }, Some(version)) => {
            Some((function.clone(), i32::try_from(version).unwrap_or(i32::MAX)))
        }
        _ => None,
    }
}

fn delivery(
    letter: &DeadLetter,
    rule: &str,
    function: Option<(String, i32)>,
    event: Vec<u8>,
    ordering_key: Option<String>,
) -> RedriveDelivery {
    let generation = letter.generation.saturating_add(1);
    let at = DeliveryId(letter.row.id).time();
    let trigger = &letter.row.trigger;
    let id = DeliveryId::derive(at, trigger, &letter.transport_key, rule, generation.unsigned_abs());
    RedriveDelivery {
        delivery_id: id.0,
        trigger: trigger.clone(),
        rule: rule.to_owned(),
        function,
        event,
        transport_key: letter.transport_key.clone(),
        generation,
        ordering_key,
        after_ms: 0,
    }
}

#[cfg(test)]
mod tests;

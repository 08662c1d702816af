//! The lines of `oncue dev`: what came, what matched, what ran, how long, how much fuel, what it emitted, or why
//! nothing ran.
//!
//! Invariant: an event that matched has a line for each attempt, one that did not has a line that says so; nothing from
//! an event reaches the terminal as a control character.

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::cli::output::{bytes, micros, printable};
use crate::dispatch::SeenAttempt;
use crate::node::Seen;

/// Characters of a row's key that are shown.
const KEY_SHOWN: usize = 60;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line {
    /// No rule matched.
    Unmatched {
        at: String,
        trigger: String,
        event_id: String,
        event_type: String,
        event_subject: Option<String>,
        count: u64,
    },
    /// An attempt ended.
    Attempt(Box<AttemptLine>),
    /// A message was no event.
    Rejected { at: String, trigger: String, class: &'static str, error: String },
}

/// An attempt that ended.
#[derive(Debug, Serialize)]
pub(super) struct AttemptLine {
    at: String,
    trigger: String,
    event_id: String,
    event_type: String,
    event_subject: Option<String>,
    delivery: String,
    rule: String,
    function: Option<String>,
    attempt: u32,
    outcome: &'static str,
    message: Option<String>,
    micros: u64,
    fuel: u64,
    peak_memory: u64,
    outputs: Vec<String>,
    settlement: &'static str,
    retry_in_ms: Option<u64>,
    logs: Vec<(&'static str, String)>,
}

impl Line {
    /// The line of `seen`; none for an event that matched: its attempts have lines.
    pub(super) fn of(seen: &Seen) -> Option<Self> {
        let form = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
        let at = OffsetDateTime::now_utc().format(&form).unwrap_or_default();
        match seen {
            Seen::Event { matched, .. } if !matched.is_empty() => None,
            Seen::Event { trigger, event, count, .. } => Some(Self::Unmatched {
                at,
                trigger: trigger.clone(),
                event_id: event.id.clone(),
                event_type: event.ty.clone(),
                event_subject: event.subject.clone(),
                count: *count,
            }),
            Seen::Attempt(seen) => Some(Self::Attempt(Box::new(AttemptLine::of(at, seen)))),
            Seen::Rejected { trigger, class, error } => {
                Some(Self::Rejected { at, trigger: trigger.clone(), class, error: error.clone() })
            }
        }
    }
}

impl AttemptLine {
    fn of(at: String, seen: &SeenAttempt) -> Self {
        Self {
            at,
            trigger: seen.trigger.clone(),
            event_id: seen.event_id.clone(),
            event_type: seen.event_type.clone(),
            event_subject: seen.event_subject.clone(),
            delivery: seen.delivery.clone(),
            rule: seen.rule.clone(),
            function: seen.function.as_ref().map(|(name, version)| format!("{name}@{version}")),
            attempt: seen.attempt,
            outcome: seen.outcome,
            message: seen.message.clone(),
            micros: seen.micros,
            fuel: seen.fuel,
            peak_memory: seen.peak_memory,
            outputs: seen.outputs.clone(),
            settlement: seen.settlement,
            retry_in_ms: seen.retry_in.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            logs: seen.logs.iter().map(|l| (l.level, l.message.clone())).collect(),
        }
    }
}

/// The line as people read it.
pub(super) fn text(line: &Line) -> String {
    let text = match line {
        Line::Unmatched { at, trigger, event_id, event_type, event_subject, count } => {
            let event = event_text(event_type, event_id, event_subject.as_deref());
            let more = if *count > 1 { format!(" ({count} like it)") } else { String::new() };
            format!("{at}  {event}  from {trigger}: no rule matched{more}")
        }
        Line::Rejected { at, trigger, class, error } => {
            format!("{at}  rejected  from {trigger}: {class}: {error}; `oncue dead-letter list` has it")
        }
        Line::Attempt(line) => attempt(line),
    };
    printable(&text)
}

/// Type and id; of a change of a row table, operation and key, which say more than a position in the WAL.
fn event_text(ty: &str, id: &str, subject: Option<&str>) -> String {
    match (ty.strip_prefix("postgres."), subject) {
        (Some(change), Some(key)) => format!("{change}  key {}", shortened(key)),
        _ => format!("{ty}  {id}"),
    }
}

/// `text` cut where it would fill the line.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(KEY_SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn attempt(line: &AttemptLine) -> String {
    let AttemptLine { at, trigger, event_id, event_type, event_subject, rule, outcome, .. } = line;
    let run = line.function.as_deref().map_or(String::new(), |f| format!(" → {f}"));
    let tries = if line.attempt > 1 { format!("  try {}", line.attempt) } else { String::new() };
    let cost = match line.function {
        Some(_) => format!("  {} fuel  {}", line.fuel, bytes(line.peak_memory)),
        None => String::new(),
    };
    let took = micros(line.micros);
    let emitted =
        if line.outputs.is_empty() { String::new() } else { format!("  emitted {}", line.outputs.join(", ")) };
    let message = line.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
    let event = event_text(event_type, event_id, event_subject.as_deref());
    let what = format!("{event}  from {trigger}: {rule}{run}{tries}");
    format!("{at}  {what}  {outcome}  {took}{cost}{emitted}{message}{}", after(line))
}

/// What follows from a failure, and what was logged.
fn after(line: &AttemptLine) -> String {
    let AttemptLine { delivery, settlement, retry_in_ms, logs, .. } = line;
    let mut text = match (*settlement, retry_in_ms) {
        ("again", _) => "  → again at once".to_owned(),
        ("parked", Some(ms)) => format!("  → parked, again in {:.1} s", *ms as f64 / 1e3),
        ("parked", None) => "  → parked".to_owned(),
        ("dead", _) => format!("  → dead letter: `oncue dead-letter show {delivery}`"),
        ("void", _) => "  → dropped: its rule is gone".to_owned(),
        _ => String::new(),
    };
    for (level, message) in logs {
        text.push_str(&format!("\n    {level}: {}", message.replace('\n', "\n    ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::delivery::LogLine;
    use crate::event::Event;

    use super::*;

    fn shown(seen: &Seen) -> Option<String> {
        // The time of day is in front.
        Line::of(seen).map(|line| text(&line)[14..].to_owned())
    }

    fn event(matched: &[&str]) -> Seen {
        let event = Event {
            id: "7".to_owned(),
            source: "/a".to_owned(),
            ty: "user.\u{1b}[31msignup".to_owned(),
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Vec::new(),
            data: bytes::Bytes::new(),
        };
        let matched = matched.iter().map(|m| (*m).to_owned()).collect();
        Seen::Event { trigger: "signups".to_owned(), event: Arc::new(event), matched, count: 1 }
    }

    fn seen_attempt() -> SeenAttempt {
        SeenAttempt {
            delivery: "d".to_owned(),
            event_id: "7".to_owned(),
            event_type: "user.signup".to_owned(),
            event_subject: None,
            trigger: "signups".to_owned(),
            rule: "greet".to_owned(),
            function: Some(("welcome".to_owned(), 2)),
            attempt: 1,
            outcome: "ok",
            message: None,
            micros: 85,
            fuel: 1_204,
            peak_memory: 65_536,
            outputs: vec!["events/mail.welcome".to_owned()],
            settlement: "done",
            retry_in: None,
            logs: Vec::new(),
        }
    }

    #[test]
    fn an_event_has_a_line_when_nothing_matched() {
        assert_eq!(shown(&event(&["greet"])), None);
        assert_eq!(shown(&event(&[])).as_deref(), Some("user.\\u{1b}[31msignup  7  from signups: no rule matched"));
    }

    #[test]
    fn a_change_of_a_row_shows_its_table_operation_and_key() {
        let change = SeenAttempt {
            event_type: "postgres.public.users.update".to_owned(),
            event_subject: Some("42".to_owned()),
            ..seen_attempt()
        };
        let text = shown(&Seen::Attempt(Box::new(change))).unwrap_or_default();
        assert!(text.starts_with("public.users.update  key 42  from signups: greet → welcome@2"), "{text}");
        let published = SeenAttempt { event_subject: Some("42".to_owned()), ..seen_attempt() };
        let text = shown(&Seen::Attempt(Box::new(published))).unwrap_or_default();
        assert!(text.starts_with("user.signup  7  from"), "{text}");
        assert_eq!(shortened(&"ü".repeat(70)), format!("{}…", "ü".repeat(60)));
    }

    #[test]
    fn an_attempt_says_what_ran_what_it_cost_and_what_follows() {
        let good = "user.signup  7  from signups: greet → welcome@2  ok  85 µs  1204 fuel  64.0 KiB  emitted events/mail.welcome";
        assert_eq!(shown(&Seen::Attempt(Box::new(seen_attempt()))).as_deref(), Some(good));
        let failed = SeenAttempt {
            attempt: 3,
            outcome: "retry",
            message: Some("no mail server".to_owned()),
            outputs: Vec::new(),
            settlement: "parked",
            retry_in: Some(Duration::from_millis(1_500)),
            logs: vec![LogLine { level: "warn", message: "trying".to_owned() }],
            ..seen_attempt()
        };
        let bad = "user.signup  7  from signups: greet → welcome@2  try 3  retry  85 µs  1204 fuel  64.0 KiB: no mail server  \
                   → parked, again in 1.5 s\n    warn: trying";
        assert_eq!(shown(&Seen::Attempt(Box::new(failed))).as_deref(), Some(bad));
    }
}

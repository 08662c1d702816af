//! Deliveries as they are settled, made by hand.

use oncue::delivery::{DeliveryId, LogLine};
use oncue::store::settle::{AttemptRow, Next, Record, Subject};
use time::OffsetDateTime;

/// A delivery of the event `id` to `function` that is done after `attempts`, each of which has logged a line.
pub fn record(id: &str, function: &str, attempts: u32) -> Record {
    let at = OffsetDateTime::now_utc().replace_time(time::Time::MIDNIGHT);
    let row = |attempt| AttemptRow {
        attempt,
        outcome: if attempt == attempts { "ok" } else { "retry" },
        settlement: if attempt == attempts { "done" } else { "again" },
        error: (attempt < attempts).then(|| "later".to_owned()),
        started_at: at,
        micros: 10,
        fuel: 100,
        peak_memory: 1,
        outputs: 2,
        logs: vec![LogLine { level: "info", message: format!("{id}, try {attempt}") }],
        logs_dropped: 0,
    };
    let subject = Subject {
        id: DeliveryId::derive(at, "work", id.as_bytes(), "work", 0),
        trigger: "work".to_owned(),
        rule: "work".to_owned(),
        function: Some((function.to_owned(), 1)),
        event_id: id.to_owned(),
        event_type: "work".to_owned(),
        event_source: "test".to_owned(),
        cause: None,
        transport_key: id.as_bytes().to_vec(),
        generation: 0,
        ordering_key: None,
    };
    Record {
        subject,
        fence: None,
        attempts: (1..=attempts).map(row).collect(),
        claim: None,
        attempts_total: attempts,
        next: Next::Done,
        effects: None,
        recorded: None,
    }
}

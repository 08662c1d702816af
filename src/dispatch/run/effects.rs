//! The end of a delivery that writes by SQL: its statements, its ledger row and its outbox in one transaction.
//!
//! Invariant: what such a delivery emitted is handed to the outbox's relay only after the commit. If the node dies in
//! between, the rows are found by whoever looks for those whose lease has run out.

use crate::delivery::{Outcome, Settlement};
use crate::dispatch::Inner;
use crate::event::codec;
use crate::outputs::Output;
use crate::settle::Settled;
use crate::store::outbox::{OutboxKey, OutboxRow};
use crate::store::settle::{AttemptRow, Effects, Next, Record, Refusal};

use super::attempt::{Sql, Tried};
use super::{Delivery, row};

impl Inner {
    /// Settles `delivery`, whose attempt `tried` went well but for its statements; `before` are the attempts before it.
    /// None if the node quit before that was decided.
    ///
    /// # Errors
    /// The outcome that the attempt has because its statements were refused: nothing was written.
    pub(super) async fn apply(
        &self,
        delivery: &Delivery,
        before: Vec<AttemptRow>,
        attempt: u32,
        tried: &Tried,
        sql: Sql,
    ) -> Result<Option<Settled>, Outcome> {
        let mut attempts = before;
        attempts.push(row(attempt, tried.report.clone(), &Settlement::Done, tried.outputs.len()));
        let Sql { role, statements } = sql;
        let outbox = tried.outputs.iter().map(to_row).collect();
        let record = Record {
            subject: delivery.subject.clone(),
            fence: delivery.ownership.as_ref().and_then(|o| o.fence()),
            attempts,
            claim: delivery.claim,
            attempts_total: attempt,
            next: Next::Done,
            effects: Some(Box::new(Effects { role, statements, outbox })),
            recorded: delivery.recorded.clone(),
        };
        let settled = match self.settler.settle(record).await {
            Ok(Settled::Refused(refusal)) => return Err(outcome(refusal)),
            Ok(settled) => settled,
            Err(_) => return Ok(None),
        };
        if settled == Settled::Fresh && !tried.outputs.is_empty() {
            let id = delivery.subject.id;
            let keyed = (0..).zip(&tried.outputs).map(|(place, output)| ((id, place), output.clone()));
            let keyed: Vec<(OutboxKey, Output)> = keyed.collect();
            // A relay that has too much to do already finds them in the table.
            let _ = self.outbox.try_send(keyed);
        }
        self.watch(delivery, attempt, &tried.report, &tried.outputs, &Settlement::Done);
        Ok(Some(settled))
    }
}

fn to_row(output: &Output) -> OutboxRow {
    OutboxRow {
        bus: output.bus.clone(),
        subject: output.subject.clone(),
        message_id: output.message_id.clone(),
        event: codec::to_structured(&output.event),
    }
}

fn outcome(refusal: Refusal) -> Outcome {
    match refusal {
        Refusal { permanent: true, words } => Outcome::Denied(words),
        Refusal { permanent: false, words } => Outcome::Sql(words),
    }
}

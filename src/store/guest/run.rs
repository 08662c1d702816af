//! The statements of a group of deliveries, each delivery in a savepoint of one transaction.
//!
//! Invariant: after `run`, the statements of a delivery have all run or none has. Each delivery has a savepoint of its own name, and
//! what is undone is named after the delivery that was judged: an error that came for another, such as that of a cancel that was
//! late, makes undoing fail, and then the whole transaction goes. What is sent ahead is bounded by the pace at which answers
//! come, so that a slow delivery has few behind it.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::poll;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, SimpleQueryMessage};

use crate::function::sql::{Statement, TIME_MAX};
use crate::store::settle::Refusal;

use super::link::{Link, PROMPT, prompt};
use super::param::Param;
use super::trouble::Trouble;

/// Deliveries that are sent ahead on a connection whose pace is not known.
pub(super) const WINDOW_MIN: usize = 4;
/// Most deliveries that are sent ahead.
const WINDOW_MAX: usize = 256;
/// The time that what is sent ahead should take.
const WINDOW_TIME: Duration = Duration::from_millis(20);
/// How long the statements of one group may take before the rest of it is left for the next transaction.
const GROUP_TIME: Duration = Duration::from_secs(2);
/// How much longer than the server's own bound is waited for an answer before the statement is cancelled.
const SLACK: Duration = Duration::from_millis(500);

/// What became of a delivery's statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They ran.
    Done,
    /// The database refused one of them.
    Refused(Refusal),
    /// There was no time for them in this transaction.
    Left,
}

/// Answers that are on their way for one delivery: of entering its role, of each statement, of leaving.
struct Sent<'a> {
    answers: Vec<BoxFuture<'a, Result<(), Error>>>,
}

/// How a delivery of a flight failed.
struct Failed {
    trouble: Trouble,
    /// A cancel ended it that was not meant for it.
    astray: bool,
}

/// What a transaction says before and after the statements of a delivery.
struct Frame {
    role: String,
    /// What `oncue.guest_objects` said last.
    objects: i64,
}

impl Frame {
    fn enter(&self, number: usize) -> String {
        format!("savepoint e{number}; set constraints all deferred; set role {}", self.role)
    }

    fn leave(&self, number: usize) -> String {
        format!(
            "set constraints all immediate; reset all; set role none; select oncue.guest_check({}), \
             pg_catalog.pg_advisory_unlock_all(); release savepoint e{number}",
            self.objects
        )
    }
}

impl Link {
    /// Begins a transaction and runs `deliveries` in it, which is open afterwards.
    pub(super) async fn run(&mut self, deliveries: &[&[Statement]]) -> Result<Vec<Fate>, Trouble> {
        let objects = self.objects("begin; select oncue.guest_objects()").await?;
        let mut frame = Frame { role: self.role.clone(), objects };
        let began = Instant::now();
        let mut fates: Vec<Fate> = Vec::with_capacity(deliveries.len());
        while fates.len() < deliveries.len() {
            let rest = &deliveries[fates.len()..];
            if began.elapsed() > GROUP_TIME && !fates.is_empty() {
                fates.extend(rest.iter().map(|_| Fate::Left));
                break;
            }
            let known = rest.iter().take(self.window).take_while(|d| self.knows(d)).count();
            let all_done = match known {
                0 => self.step(rest[0], &frame, &mut fates).await?,
                _ => self.flight(&rest[..known], &frame, began, &mut fates).await?,
            };
            if !all_done {
                self.undo(fates.len() - 1).await?;
                // Objects that were made and undone are counted, too.
                frame.objects = self.objects("select oncue.guest_objects()").await?;
            }
        }
        Ok(fates)
    }

    fn knows(&self, delivery: &[Statement]) -> bool {
        delivery.iter().all(|statement| self.known(statement, &statement.text).is_some())
    }

    /// The number that the last statement of `text` gives.
    async fn objects(&self, text: &str) -> Result<i64, Trouble> {
        let said = prompt(self.client.simple_query(text)).await.map_err(Trouble::ours)?;
        let row = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        row.ok_or_else(|| Trouble::Lost("the server gave no count of its catalogs".to_owned()))
    }

    /// Runs one delivery whose statements are to be prepared. False if it failed and is to be undone.
    async fn step(&mut self, delivery: &[Statement], frame: &Frame, fates: &mut Vec<Fate>) -> Result<bool, Trouble> {
        let (enter, leave) = (frame.enter(fates.len()), frame.leave(fates.len()));
        let began = Instant::now();
        let ran = {
            let mut stepping = std::pin::pin!(self.prepare_and_run(delivery, &enter, &leave));
            tokio::time::timeout(TIME_MAX + SLACK, stepping.as_mut()).await
        };
        let ran = match ran {
            Ok(ran) => ran,
            Err(_) => {
                self.cancel().await;
                Err(too_slow())
            }
        };
        match ran {
            Ok(()) => {
                self.pace(1, began.elapsed());
                fates.push(Fate::Done);
                Ok(true)
            }
            Err(Trouble::Refused(refusal)) => {
                fates.push(Fate::Refused(refusal));
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// All are prepared before the first one runs: what one of them sets is in none of the others.
    async fn prepare_and_run(&mut self, delivery: &[Statement], enter: &str, leave: &str) -> Result<(), Trouble> {
        let count = delivery.len();
        let numbered = |place: usize| move |trouble: Trouble| trouble.about(&format!("statement {place} of {count}"));
        self.client.batch_execute(enter).await?;
        let mut prepared = Vec::with_capacity(count);
        for (place, statement) in (1..).zip(delivery) {
            prepared.push(self.prepare(statement, &statement.text).await.map_err(numbered(place))?);
        }
        for ((place, statement), prepared) in (1..).zip(delivery).zip(prepared) {
            let params: Vec<Param<'_>> = statement.params.iter().map(Param).collect();
            let ran = self.client.execute_raw(&prepared, params).await;
            ran.map_err(|error| numbered(place)(self.judge(error)))?;
        }
        let left = self.client.batch_execute(leave).await;
        left.map_err(|error| numbered(count)(error.into()))
    }

    /// Sends `deliveries`, whose statements are prepared, without waiting in between; adds what became of them up to the
    /// first that failed. False if there is one, which is to be undone.
    async fn flight(
        &mut self,
        deliveries: &[&[Statement]],
        frame: &Frame,
        began: Instant,
        fates: &mut Vec<Fate>,
    ) -> Result<bool, Trouble> {
        let sent_at = Instant::now();
        let frames: Vec<(String, String)> =
            (fates.len()..).take(deliveries.len()).map(|n| (frame.enter(n), frame.leave(n))).collect();
        let all_done = {
            let mut sent = Vec::with_capacity(deliveries.len());
            for (delivery, (enter, leave)) in deliveries.iter().zip(&frames) {
                sent.push(self.send(delivery, enter, leave).await);
            }
            self.answers(sent, began, fates).await?
        };
        match all_done {
            true => self.pace(deliveries.len(), sent_at.elapsed()),
            false => self.window = (self.window / 2).max(1),
        }
        Ok(all_done)
    }

    async fn send<'a>(&'a self, delivery: &'a [Statement], enter: &'a str, leave: &'a str) -> Sent<'a> {
        let mut answers: Vec<BoxFuture<'a, Result<(), Error>>> = Vec::with_capacity(delivery.len() + 2);
        answers.push(Box::pin(self.client.batch_execute(enter)));
        for statement in delivery {
            let prepared = self.known(statement, &statement.text);
            let params: Vec<Param<'a>> = statement.params.iter().map(Param).collect();
            answers.push(Box::pin(async move {
                match prepared {
                    Some(prepared) => self.client.execute_raw(&prepared, params).await.map(drop),
                    // It was looked up a moment ago, and nothing is forgotten in a flight.
                    None => self.client.execute_raw(&statement.text, params).await.map(drop),
                }
            }));
        }
        answers.push(Box::pin(self.client.batch_execute(leave)));
        for answer in &mut answers {
            send(answer).await;
        }
        Sent { answers }
    }

    /// Waits for the answers of what was `sent`. False if a delivery failed; it is the last of the fates then, and all behind it
    /// were refused because the transaction had failed.
    async fn answers(&self, sent: Vec<Sent<'_>>, began: Instant, fates: &mut Vec<Fate>) -> Result<bool, Trouble> {
        let mut sent = sent.into_iter();
        let mut cancelled = false;
        while let Some(delivery) = sent.next() {
            match self.answers_of(delivery, &mut cancelled).await {
                Ok(()) => {
                    fates.push(Fate::Done);
                    if !cancelled && began.elapsed() > GROUP_TIME && sent.len() > 0 {
                        cancelled = true;
                        self.cancel().await;
                    }
                }
                Err(Failed { trouble: Trouble::Refused(refusal), astray }) => {
                    fates.push(if astray { Fate::Left } else { Fate::Refused(refusal) });
                    for answer in sent.flat_map(|delivery| delivery.answers) {
                        refused_at_once(answer).await?;
                    }
                    return Ok(false);
                }
                Err(Failed { trouble, .. }) => return Err(trouble),
            }
        }
        Ok(true)
    }

    async fn answers_of(&self, delivery: Sent<'_>, cancelled: &mut bool) -> Result<(), Failed> {
        let count = delivery.answers.len() - 2;
        let mut until = tokio::time::Instant::now() + TIME_MAX + SLACK;
        let mut answers = delivery.answers.into_iter();
        let mut place = 0;
        while let Some(mut answer) = answers.next() {
            let failed = match tokio::time::timeout_at(until, answer.as_mut()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    let astray = *cancelled && error.code() == Some(&SqlState::QUERY_CANCELED);
                    Some(Failed { trouble: self.judge(error), astray })
                }
                Err(_) => {
                    *cancelled = true;
                    self.cancel().await;
                    until = tokio::time::Instant::now() + PROMPT;
                    match prompt(answer).await {
                        // It ended just then. The cancel may still hit whatever comes next.
                        Ok(()) => None,
                        Err(Trouble::Refused(_)) => Some(Failed { trouble: too_slow(), astray: false }),
                        Err(other) => Some(Failed { trouble: other.lost(), astray: false }),
                    }
                }
            };
            if let Some(Failed { trouble, astray }) = failed {
                let trouble = trouble.about(&format!("statement {} of {count}", place.clamp(1, count.max(1))));
                for answer in answers {
                    let ended = refused_at_once(answer).await;
                    ended.map_err(|trouble| Failed { trouble, astray: false })?;
                }
                return Err(Failed { trouble, astray });
            }
            place += 1;
        }
        Ok(())
    }

    /// Takes back the delivery of that number, which failed. Where it cannot be, nothing of the transaction may stay.
    async fn undo(&mut self, number: usize) -> Result<(), Trouble> {
        self.forget_stale();
        let text = format!(
            "rollback to savepoint e{number}; release savepoint e{number}; reset all; set role none; \
             select pg_catalog.pg_advisory_unlock_all()"
        );
        prompt(self.client.batch_execute(&text)).await.map_err(Trouble::lost)
    }

    /// Sends as many ahead as take `WINDOW_TIME`.
    fn pace(&mut self, count: usize, took: Duration) {
        let fits = match took.as_micros() / count.max(1) as u128 {
            0 => WINDOW_MAX,
            each => usize::try_from(WINDOW_TIME.as_micros() / each).unwrap_or(WINDOW_MAX),
        };
        self.window = fits.clamp(1, (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX));
    }
}

/// Has the client send what `answer` waits for. The answer is not there yet: nobody has read.
async fn send(answer: &mut BoxFuture<'_, Result<(), Error>>) {
    if let std::task::Poll::Ready(ended) = poll!(Pin::new(&mut *answer)) {
        *answer = Box::pin(std::future::ready(ended));
    }
}

/// Waits for an answer that comes at once, because the transaction has failed.
async fn refused_at_once(answer: BoxFuture<'_, Result<(), Error>>) -> Result<(), Trouble> {
    match prompt(answer).await {
        Err(lost @ (Trouble::Lost(_) | Trouble::Away(_))) => Err(lost.lost()),
        _ => Ok(()),
    }
}

fn too_slow() -> Trouble {
    let code = SqlState::QUERY_CANCELED.code();
    Trouble::refused(format!("the statements took more than {} s (SQLSTATE {code})", TIME_MAX.as_secs()))
}

//! The statements of a group of deliveries, each delivery in a savepoint of one transaction.
//!
//! Invariant: after `run`, the statements of a delivery have all run or none has. A delivery is judged by its own error,
//! never by one that an earlier delivery caused. What is sent ahead is bounded by the pace at which answers come, so that
//! a slow delivery has few behind it.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::poll;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::function::sql::{Statement, TIME_MAX};
use crate::store::settle::Refusal;

use super::link::{Link, prompt};
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

const ENTER: &str = "savepoint effects; set constraints all deferred; set role ";
const LEAVE: &str = "set constraints all immediate; reset all; set role none; select oncue.guest_check(";
const LEFT: &str = "), pg_catalog.pg_advisory_unlock_all(); release savepoint effects";
const UNDO: &str =
    "rollback to savepoint effects; release savepoint effects; select pg_catalog.pg_advisory_unlock_all()";

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

/// Answers that are on their way for one delivery: those of its statements, then that of leaving it.
struct Sent<'a> {
    answers: Vec<BoxFuture<'a, Result<(), Error>>>,
}

impl Link {
    /// Begins a transaction and runs `deliveries` in it, which is open afterwards.
    pub(super) async fn run(&mut self, deliveries: &[&[Statement]]) -> Result<Vec<Fate>, Trouble> {
        prompt(self.client.batch_execute("begin")).await?;
        let began = Instant::now();
        let mut fates: Vec<Fate> = Vec::with_capacity(deliveries.len());
        while fates.len() < deliveries.len() {
            let rest = &deliveries[fates.len()..];
            if began.elapsed() > GROUP_TIME && fates.contains(&Fate::Done) {
                fates.extend(rest.iter().map(|_| Fate::Left));
                break;
            }
            let known = rest.iter().take(self.window).take_while(|d| self.knows(d)).count();
            if known == 0 {
                fates.push(self.step(rest[0]).await?);
            } else {
                self.flight(&rest[..known], began, &mut fates).await?;
            }
        }
        Ok(fates)
    }

    fn knows(&self, delivery: &[Statement]) -> bool {
        delivery.iter().all(|statement| self.known(statement, &statement.text).is_some())
    }

    fn enter(&self) -> String {
        format!("{ENTER}{}", self.role)
    }

    async fn leave(&mut self) -> Result<String, Trouble> {
        let objects = match self.objects {
            Some(objects) => objects,
            None => {
                let row = prompt(self.client.query_one("select oncue.guest_objects()", &[])).await?;
                *self.objects.insert(row.try_get(0)?)
            }
        };
        Ok(format!("{LEAVE}{objects}{LEFT}"))
    }

    /// Runs one delivery whose statements are to be prepared: each is, after the one before it ran.
    async fn step(&mut self, delivery: &[Statement]) -> Result<Fate, Trouble> {
        let leave = self.leave().await?;
        prompt(self.client.batch_execute(&self.enter())).await?;
        let began = Instant::now();
        let ran = {
            let stepping = self.prepare_and_run(delivery, &leave);
            let mut stepping = std::pin::pin!(stepping);
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
                Ok(Fate::Done)
            }
            Err(Trouble::Refused(refusal)) => {
                self.undo().await?;
                Ok(Fate::Refused(refusal))
            }
            Err(other) => Err(other),
        }
    }

    async fn prepare_and_run(&mut self, delivery: &[Statement], leave: &str) -> Result<(), Trouble> {
        let count = delivery.len();
        for (place, statement) in (1..).zip(delivery) {
            let numbered = |trouble: Trouble| trouble.about(&format!("statement {place} of {count}"));
            let prepared = self.prepare(statement, &statement.text).await.map_err(numbered)?;
            let params = statement.params.iter().map(Param);
            let ran = self.client.execute_raw(&prepared, params.collect::<Vec<_>>()).await;
            ran.map_err(|error| numbered(error.into()))?;
        }
        let left = self.client.batch_execute(leave).await;
        left.map_err(|error| Trouble::from(error).about(&format!("statement {count} of {count}")))
    }

    /// Sends `deliveries`, whose statements are prepared, without waiting in between; adds what became of them up to the
    /// first that failed.
    async fn flight(
        &mut self,
        deliveries: &[&[Statement]],
        began: Instant,
        fates: &mut Vec<Fate>,
    ) -> Result<(), Trouble> {
        let leave = self.leave().await?;
        let sent_at = Instant::now();
        let outcome = {
            let enter = self.enter();
            let next = format!("{leave}; {enter}");
            let mut entered: BoxFuture<'_, _> = Box::pin(self.client.batch_execute(&enter));
            send(&mut entered).await;
            let mut sent = Vec::with_capacity(deliveries.len());
            for (place, delivery) in deliveries.iter().enumerate() {
                let last = place + 1 == deliveries.len();
                sent.push(self.send(delivery, if last { &leave } else { &next }).await);
            }
            entered.await?;
            self.answers(sent, began, fates).await
        };
        match outcome {
            Ok(()) => {
                self.pace(deliveries.len(), sent_at.elapsed());
                Ok(())
            }
            Err(Trouble::Refused(_)) => {
                self.window = (self.window / 2).max(1);
                self.undo().await
            }
            Err(other) => Err(other),
        }
    }

    async fn send<'a>(&'a self, delivery: &'a [Statement], leave: &'a str) -> Sent<'a> {
        let mut answers: Vec<BoxFuture<'a, Result<(), Error>>> = Vec::with_capacity(delivery.len() + 1);
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

    /// Waits for the answers of what was `sent`; a refusal stands for the one delivery that it ended, which is the last of
    /// the fates then.
    async fn answers(&self, sent: Vec<Sent<'_>>, began: Instant, fates: &mut Vec<Fate>) -> Result<(), Trouble> {
        let mut sent = sent.into_iter();
        let mut refused = None;
        let mut stopped = false;
        while let Some(delivery) = sent.next() {
            let count = delivery.answers.len() - 1;
            let until = tokio::time::Instant::now() + TIME_MAX + SLACK;
            for (place, mut answer) in (1..).zip(delivery.answers) {
                if refused.is_some() {
                    // The transaction has failed: the server refuses each of these at once.
                    prompt_end(answer).await?;
                    continue;
                }
                let ended = match tokio::time::timeout_at(until, answer.as_mut()).await {
                    Ok(ended) => ended.map_err(Trouble::from),
                    Err(_) => {
                        self.cancel().await;
                        prompt_end(answer).await.and(Err(too_slow()))
                    }
                };
                match ended {
                    Ok(()) => {}
                    Err(Trouble::Refused(refusal)) => {
                        let what = format!("statement {} of {count}", place.min(count));
                        let Trouble::Refused(refusal) = Trouble::Refused(refusal).about(&what) else { continue };
                        refused = Some(refusal);
                    }
                    Err(other) => return Err(other),
                }
            }
            if refused.is_some() {
                break;
            }
            fates.push(Fate::Done);
            if began.elapsed() > GROUP_TIME && sent.len() > 0 {
                stopped = true;
                self.cancel().await;
            }
        }
        let Some(refusal) = refused else { return Ok(()) };
        fates.push(if stopped { Fate::Left } else { Fate::Refused(refusal.clone()) });
        for answer in sent.flat_map(|delivery| delivery.answers) {
            prompt_end(answer).await?;
        }
        Err(Trouble::Refused(refusal))
    }

    /// Takes back the delivery that failed.
    async fn undo(&mut self) -> Result<(), Trouble> {
        // Objects that were made and undone are counted, too.
        self.objects = None;
        prompt(self.client.batch_execute(UNDO)).await
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

/// Waits for an answer that comes at once, whatever it is.
async fn prompt_end(answer: BoxFuture<'_, Result<(), Error>>) -> Result<(), Trouble> {
    match prompt(answer).await {
        Err(Trouble::Lost(words) | Trouble::Away(words)) => Err(Trouble::Lost(words)),
        _ => Ok(()),
    }
}

fn too_slow() -> Trouble {
    let code = SqlState::QUERY_CANCELED.code();
    Trouble::refused(format!("the statements took more than {} s (SQLSTATE {code})", TIME_MAX.as_secs()))
}

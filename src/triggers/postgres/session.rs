//! One connection of a feed: messages in, events out, in the order of the commits.
//!
//! Invariant: a change is handed over at most once in a holding of the lease, and in its order; credit is taken before
//! it is; nothing that commits behind `read_until` is handed over before that is written down. What cannot be decoded
//! is kept as a dead letter and never ends the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgwire_replication::ReplicationEvent;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::lsn::Lsn;
use crate::pattern::Fill;
use crate::telemetry;
use crate::triggers::Failure;

use self::published::{Message as Published, Seals};
use self::window::{Recent, Window};
use super::change::{Change, Op, Origin, Transaction};
use super::pgoutput::{self, Message};
use super::relations::Relations;
use super::relay::{self, Relay, Relayed, Route};
use super::snapshot::Meeting;
use super::stream::Stream;
use super::unmatched::Unmatched;
use super::{Follower, Holding, bind::Bound, position::Place, store_failure};

mod hand_over;
mod published;
mod window;

/// How far ahead `read_until` is written: at most this much WAL is looked up in the ledger after a crash.
const READ_AHEAD: u64 = 16 << 20;
/// How often the stream's own affairs are looked after: silence, counts, changed rules.
const TICK: Duration = Duration::from_secs(1);
/// Silence after which the connection is taken to be dead: the server sends a sign of life three times as often.
const SILENCE: Duration = Duration::from_secs(60);
/// How long what was handed to the relay may take to be sent when reading ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// How many messages are taken before rules are looked at again within one transaction.
const RULES_EVERY: u32 = 1_024;
/// Held without getting anywhere this often, and what was under way may be what kills nodes.
const FUTILE_MAX: u32 = 3;

/// A connection and what it knows.
struct Session<'a> {
    follower: &'a Follower,
    held: &'a Holding,
    release: mpsc::Sender<u64>,
    relations: Relations,
    origin: Origin,
    database: String,
    transaction: Option<Open>,
    read_until: Lsn,
    rules_version: i64,
    since_rules: u32,
    unmatched: Unmatched,
    received: u64,
    meeting: &'a Meeting,
    relay: Option<(Route, mpsc::Sender<Relayed>)>,
    window: Option<Window>,
    recent: Recent,
    seals: Seals,
    /// The end of what the server has sent, and when that was committed.
    sent: Lsn,
    committed_at: OffsetDateTime,
}

/// The transaction that is being received.
struct Open {
    facts: Transaction,
    next: u32,
    /// How often its events may have been sent.
    sent: u32,
    /// The seal of the published event that was believed last.
    sealed: Lsn,
}

impl Open {
    fn place(&mut self) -> Place {
        let place = (self.facts.commit_lsn, self.next);
        self.next += 1;
        place
    }
}

impl Follower {
    /// Connects and follows until stopped.
    pub(super) async fn session(&self, held: &Holding, bound: &Bound, meeting: &Meeting) -> Result<(), Failure> {
        let (relay, relaying) = self.relay();
        held.line.connected();
        // The client tells the slot at once where it starts: that must be written down, not only settled.
        let written = *held.written.borrow();
        let seals = self.seals().await?;
        let stream = Stream::new(self.connect(written).await?);
        self.context.reading().await;
        let mut session = Session {
            follower: self,
            held,
            release: held.release.clone(),
            relations: Relations::new(self.bus.clone(), self.tables()?),
            origin: Origin::new(&bound.feed.system_id, &bound.feed.database),
            database: bound.feed.database.clone(),
            transaction: None,
            read_until: bound.feed.read_until,
            rules_version: i64::MIN,
            since_rules: 0,
            unmatched: Unmatched::new(),
            received: 0,
            meeting,
            relay,
            window: None,
            recent: Recent::default(),
            seals,
            sent: held.line.settled(),
            committed_at: OffsetDateTime::now_utc(),
        };
        tokio::pin!(relaying);
        let ended = tokio::select! {
            ended = session.run(stream) => ended,
            () = &mut relaying => Err(Failure::Again("the relay ended".to_owned())),
        };
        session.unmatched.flush(&self.context.name, &self.context.dispatcher);
        if ended.is_ok() {
            tracing::info!(trigger = %self.context.name, "trigger stopped reading");
            // What was handed to the relay is sent; without the session's end of the queue it ends by itself.
            if session.relay.take().is_some() && tokio::time::timeout(FAREWELL, relaying).await.is_err() {
                tracing::warn!(trigger = %self.context.name, "the bus is away: what was not relayed comes again");
            }
        }
        ended
    }
}

impl Follower {
    /// Where events are relayed to, and the work of it; it never ends without a relay.
    fn relay(&self) -> (Option<(Route, mpsc::Sender<Relayed>)>, impl Future<Output = ()>) {
        let route = self.spec.relay().map(|(bus, prefix)| Route { bus: bus.to_owned(), prefix: prefix.to_owned() });
        let (queue, queued) = mpsc::channel(relay::QUEUE);
        let context = &self.context;
        let relay = Relay {
            trigger: Arc::clone(&context.name),
            outputs: context.dispatcher.outputs().clone(),
            dispatcher: context.dispatcher.clone(),
            health: context.health.clone(),
        };
        let wanted = route.is_some();
        let work = async move {
            match wanted {
                true => relay.run(queued).await,
                false => std::future::pending().await,
            }
        };
        (route.map(|route| (route, queue)), work)
    }
}

impl Session<'_> {
    async fn run(&mut self, mut stream: Stream) -> Result<(), Failure> {
        let stop = self.follower.context.stop.clone();
        let lost = self.held.tenure.lost.clone();
        let (stopped, lost) = (stop.cancelled(), lost.cancelled());
        tokio::pin!(stopped, lost);
        let mut written = self.held.written.clone();
        let mut tick = tokio::time::interval(TICK);
        let mut heard = Instant::now();
        stream.tell(*written.borrow_and_update());
        loop {
            let event = tokio::select! {
                biased;
                () = &mut stopped => return Ok(()),
                () = &mut lost => return Err(Failure::Again("the feed's lease was lost".to_owned())),
                Ok(()) = written.changed() => {
                    stream.tell(*written.borrow_and_update());
                    continue;
                }
                _ = tick.tick() => {
                    self.tend(heard.elapsed())?;
                    continue;
                }
                event = stream.next() => event,
            };
            heard = Instant::now();
            match event {
                Ok(Some(event)) => self.take(event).await?,
                Ok(None) => return Err(Failure::Again("the server ended the replication stream".to_owned())),
                Err(error) => return Err(self.end(&error).await),
            }
            // A stop while credit was waited for.
            if self.follower.context.stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn end(&self, error: &pgwire_replication::PgWireError) -> Failure {
        match self.follower.failure(error) {
            Failure::Gap(reason) => self.follower.gap(Some(self.held.line.settled()), None, reason).await,
            failure => failure,
        }
    }

    /// What is looked after each second.
    fn tend(&mut self, silence: Duration) -> Result<(), Failure> {
        if silence > SILENCE {
            return Err(Failure::Again(format!("the server was silent for {SILENCE:?}")));
        }
        if self.unmatched.due().is_some_and(|due| due <= Instant::now()) {
            self.unmatched.flush(&self.follower.context.name, &self.follower.context.dispatcher);
        }
        self.tell_forged();
        self.count();
        Ok(())
    }

    fn count(&mut self) {
        let name = &self.follower.context.name;
        if self.received > 0 {
            telemetry::received(name, std::mem::take(&mut self.received));
        }
        let behind = self.sent.since(self.held.line.settled());
        let age = (OffsetDateTime::now_utc() - self.committed_at).as_seconds_f64().max(0.0);
        telemetry::feed_lag(name, behind, if behind > 0 { age } else { 0.0 });
    }

    async fn take(&mut self, event: ReplicationEvent) -> Result<(), Failure> {
        match event {
            ReplicationEvent::XLogData { data, .. } => self.message(&data).await,
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                self.begin(Lsn(final_lsn.as_u64()), xid, commit_time_micros).await
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.commit(Lsn(end_lsn.as_u64()));
                Ok(())
            }
            ReplicationEvent::Message { transactional, lsn, prefix, content } => {
                match (transactional, self.transaction.as_mut()) {
                    (true, Some(open)) => {
                        let place = open.place();
                        self.published(place, Published { lsn: Lsn(lsn.as_u64()), prefix, content }).await
                    }
                    // Outside a transaction there is no commit to order it by: only transactional ones are events.
                    _ => Ok(()),
                }
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                self.held.line.idle(Lsn(wal_end.as_u64()));
                self.sent = self.sent.max(Lsn(wal_end.as_u64()));
                Ok(())
            }
            ReplicationEvent::StoppedAt { .. } => Ok(()),
        }
    }

    async fn begin(&mut self, commit_lsn: Lsn, xid: u32, commit_time_micros: i64) -> Result<(), Failure> {
        self.held.line.begin();
        self.follower.context.wait_for_store().await;
        if commit_lsn > self.read_until {
            self.read_on(commit_lsn).await?;
        }
        let sent = match commit_lsn <= self.held.resent_until {
            true if self.held.futile >= FUTILE_MAX => u32::MAX,
            true => 2,
            false => 1,
        };
        let facts = Transaction::new(xid, commit_lsn, commit_time_micros);
        self.recent.push(xid);
        self.transaction = Some(Open { facts, next: 0, sent, sealed: Lsn::ZERO });
        self.follow_rules();
        Ok(())
    }

    fn commit(&mut self, end: Lsn) {
        if let Some(open) = self.transaction.take() {
            self.committed_at = open.facts.commit_time;
        }
        self.sent = self.sent.max(end);
        self.held.line.commit(end);
    }

    /// Writes down that events up to beyond `commit_lsn` may be started.
    async fn read_on(&mut self, commit_lsn: Lsn) -> Result<(), Failure> {
        let until = Lsn(commit_lsn.0.saturating_add(READ_AHEAD));
        let name = &self.follower.context.name;
        let written = self.follower.feeds.advance(name, Lsn::ZERO, until, &self.held.tenure.fence).await;
        match written.map_err(|e| store_failure(&e))? {
            true => self.read_until = until,
            false => self.held.tenure.lost.cancel(),
        }
        Ok(())
    }

    fn follow_rules(&mut self) {
        self.since_rules = 0;
        let version = self.follower.context.dispatcher.rules().version;
        if version != self.rules_version {
            self.rules_version = version;
            self.relations.forget_listeners();
        }
    }

    async fn message(&mut self, data: &bytes::Bytes) -> Result<(), Failure> {
        self.since_rules += 1;
        if self.since_rules > RULES_EVERY {
            self.follow_rules();
        }
        let message = match pgoutput::decode(data) {
            Ok(message) => message,
            Err(error) => return self.undecodable(data, &error).await,
        };
        match message {
            Message::Insert { relation, new } => self.change(relation, Change::Insert(new), data).await,
            Message::Update { relation, old, new } => self.change(relation, Change::Update { old, new }, data).await,
            Message::Delete { relation, old } => self.change(relation, Change::Delete(old), data).await,
            Message::Truncate { relations, cascade, restart_identity } => {
                for relation in relations {
                    self.change(relation, Change::Truncate { cascade, restart_identity }, data).await?;
                }
                Ok(())
            }
            Message::Relation(relation) => self.relations.learn(&relation).await,
            // The transport tells these in its own words; the rest says nothing that is needed.
            Message::Begin(_)
            | Message::Commit(_)
            | Message::Logical(_)
            | Message::Origin { .. }
            | Message::Type { .. } => Ok(()),
        }
    }

    async fn change(&mut self, relation: u32, change: Change<'_>, data: &bytes::Bytes) -> Result<(), Failure> {
        let Some(open) = self.transaction.as_mut() else {
            return Err(Failure::Again("a change came outside a transaction".to_owned()));
        };
        let place = open.place();
        let Some(known) = self.relations.get(relation) else {
            return self.reject(place, "undecodable", format!("no relation message told of {relation}"), data).await;
        };
        if !known.wanted {
            return Ok(());
        }
        self.received += 1;
        if self.window.is_some() {
            self.note(relation, &change);
        }
        let Some(open) = self.transaction.as_mut() else { return Ok(()) };
        let Some(known) = self.relations.get(relation) else { return Ok(()) };
        let dispatcher = &self.follower.context.dispatcher;
        let trigger = &self.follower.context.name;
        let relayed = self.relay.is_some();
        let op: Op = change.op();
        let listened = relayed || known.is_listened(op, |ty| dispatcher.listens(trigger, ty));
        let table = &known.table;
        // A change that does not fit its table is rejected below.
        let wanted = || {
            let tell = |fill: &mut Fill<'_, '_>| table.tell(&change, &open.facts, place.1, &self.origin, fill);
            relayed || !table.fits(&change) || dispatcher.wants(trigger, tell)
        };
        if !(listened && wanted()) {
            if !self.held.line.pass(place) {
                return Ok(());
            }
            let sample = || known.table.event(&change, &open.facts, place.1, &self.origin);
            return match self.unmatched.count(relation, op, sample) {
                Ok(()) => Ok(()),
                Err(error) => self.reject(place, "undecodable", error.to_string(), data).await,
            };
        }
        match known.table.event(&change, &open.facts, place.1, &self.origin) {
            Ok(event) => self.hand_over(place, Arc::new(event), data).await,
            Err(error) => self.reject(place, "undecodable", error.to_string(), data).await,
        }
    }
}

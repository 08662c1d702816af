//! Consumer groups under fire: members are killed, join and leave while records come in. Nothing is committed before it is
//! settled, nothing is lost, keys keep their order, and only faults repeat an effect.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, timeout};

use crate::support::broker::{Broker, Storage};
use crate::support::kafka::Kafka;
use crate::support::node::get;
use crate::support::partitions::{Group, Produced, assert_kept, ran, settled, unacknowledged};
use crate::support::process::Process;
use crate::support::records::{Client, Record, Stored};
use crate::support::seeded::Seeded;
use crate::support::topics::{GROUP, drained_within, launch};
use crate::support::{PATIENCE, World, eventually, eventually_within, functions, progress};

/// A batch for each record: see support/broker.
const ONE_BY_ONE: [(&str, &str); 2] = [("batch.num.messages", "1"), ("linger.ms", "0")];

/// What is asked of a run.
struct Plan {
    nodes: usize,
    partitions: i32,
    keys: u64,
    records: u32,
    seed: u64,
    /// What the `n`th record asks of the function.
    what: fn(u32) -> &'static str,
    /// How long everything may take after the last fault.
    patience: Duration,
}

/// A group of processes that reads the topic `work`.
struct Storm<'a> {
    world: &'a World,
    client: Client,
    plan: Plan,
    seeded: Seeded,
    began: Instant,
    seen: Group,
    nodes: Vec<(String, Process)>,
    guest: Option<(String, Process)>,
    leaving: Vec<(String, Process)>,
    guests: u32,
    kills: u32,
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the members said last is what the reader of a failed test wants to know.
            for (name, process) in self.nodes.iter().chain(&self.leaving).chain(&self.guest) {
                self.say(&format!("{name}: {}", process.tail()));
            }
        }
    }
}

fn now() -> i64 {
    millis(OffsetDateTime::now_utc())
}

fn millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).expect("this century")
}

impl<'a> Storm<'a> {
    /// The world's trigger and rule, the records and the members, all ready.
    async fn begin(world: &'a World, client: Client, plan: Plan) -> Self {
        world.deploy("steered", &functions::steered(), &json!({ "grants": { "publish": ["k/mail.welcome"] } })).await;
        world.kafka_trigger("work", &["work"], json!({})).await;
        let rule = "insert into oncue.rules (name, match_all, run, retry_base_ms, retry_cap_ms)
            values ('work', true, 'steered', 20, 100)";
        world.sql(rule).await;
        let (seeded, began, seen) = (Seeded(plan.seed), Instant::now(), Group::default());
        let (guest, leaving, guests, kills) = (None, Vec::new(), 0, 0);
        let mut storm =
            Self { world, client, plan, seeded, began, seen, nodes: Vec::new(), guest, leaving, guests, kills };
        storm.produce().await;
        storm.say(&format!("{} records are produced", storm.plan.records));
        for n in 0..storm.plan.nodes {
            let name = format!("n{n}");
            storm.nodes.push((name.clone(), launch(world, &name, &storm.client)));
        }
        // They join one after another.
        storm.seen.faults.push(now());
        storm
    }

    fn say(&self, what: &str) {
        progress(self.began, what);
    }

    async fn produce(&mut self) {
        let mut counts: HashMap<u64, u32> = HashMap::new();
        let mut records = Vec::new();
        for n in 0..self.plan.records {
            let key = self.seeded.below(self.plan.keys);
            let count = counts.entry(key).or_default();
            records.push((n, Produced { key: format!("k{key}"), id: format!("k{key}-{count}") }));
            *count += 1;
        }
        let what = self.plan.what;
        let record = |(n, record): &(u32, Produced)| {
            let data = format!(r#"{{"do":"{}","id":"{}"}}"#, what(*n), record.id);
            Record::event(&record.id, &record.key, &data)
        };
        let places = self.client.produce_with("work", records.iter().map(record), &ONE_BY_ONE).await;
        self.seen.enter(records.into_iter().map(|(_, record)| record).zip(places));
    }

    async fn done(&self) -> u32 {
        u32::try_from(self.world.ledger("settlement = 'done'").await).expect("few")
    }

    /// Waits until a part of the records is done.
    async fn until(&self, part: f64) {
        let what = format!("a part of {part} is done");
        eventually_within(self.plan.patience, &what, async || self.is_past(part).await.then_some(())).await;
    }

    async fn is_past(&self, part: f64) -> bool {
        f64::from(self.done().await) >= f64::from(self.plan.records) * part
    }

    /// `kill -9` of a member; what the group has committed then is settled. It comes back at once.
    async fn kill(&mut self) {
        let victim = usize::try_from(self.seeded.below(u64::try_from(self.nodes.len()).expect("few"))).expect("few");
        let (name, process) = self.nodes.remove(victim);
        process.kill().await;
        self.seen.faults.push(now());
        self.kills += 1;
        self.seen.sample(self.world, &self.client, GROUP, "work", self.plan.partitions).await;
        let committed: i64 = self.seen.committed.values().sum();
        self.say(&format!("{name} is killed; {committed} committed, {} settled", self.seen.settled.len()));
        let when = format!("after kill {} (seed {})", self.kills, self.plan.seed);
        assert_kept(&self.seen.at_any_time(), &when);
        self.seen.faults.push(now());
        self.nodes.push((name.clone(), launch(self.world, &name, &self.client)));
    }

    /// A guest joins, or the one that is there leaves.
    async fn change(&mut self) {
        self.seen.faults.push(now());
        if let Some((name, process)) = self.guest.take() {
            // Before it listens to signals, one kills it.
            eventually("the guest is there", async || get(process.health, "/livez").await.is_some()).await;
            self.say(&format!("{name} leaves"));
            process.signal("TERM").await;
            self.leaving.push((name, process));
            return;
        }
        self.gone().await;
        self.guests += 1;
        let name = format!("guest{}", self.guests);
        self.say(&format!("{name} joins"));
        self.guest = Some((name.clone(), launch(self.world, &name, &self.client)));
    }

    /// Those that were told to leave have left in good order.
    async fn gone(&mut self) {
        for (name, mut process) in self.leaving.drain(..) {
            let status = timeout(PATIENCE, process.wait()).await.unwrap_or_else(|_| panic!("{name} never left"));
            assert!(status.success(), "{name}: {status}: {}", process.tail());
            self.seen.faults.push(now());
        }
    }

    /// Waits until all is committed, and checks everything.
    async fn end(mut self) {
        if self.guest.is_some() {
            self.change().await;
        }
        self.gone().await;
        self.say(&format!("the last fault: {} kills, {} guests, {} done", self.kills, self.guests, self.done().await));
        drained_within(self.plan.patience, &self.client, self.plan.partitions).await;
        let (world, seed) = (self.world, self.plan.seed);
        eventually_within(PATIENCE, "nothing is parked", async || {
            (world.number("select count(*) from oncue.parked").await == 0).then_some(())
        })
        .await;
        self.say("all is committed");
        self.seen.committed = self.client.committed(GROUP, "work", self.plan.partitions);
        (self.seen.settled, self.seen.ran) = (settled(world).await, ran(world).await);
        self.seen.effects = effects(&self.client.records("mail.welcome"));
        self.seen.unacknowledged = unacknowledged(world).await;
        let rebalances = rebalances(world);
        let counts = (self.seen.repeated(), self.seen.unacknowledged.len(), rebalances.len());
        self.seen.faults.extend(rebalances);
        self.say(&format!(
            "{} effects are there more than once, {} were late, {} rebalances",
            counts.0, counts.1, counts.2
        ));
        assert_kept(&self.seen.at_the_end(), &format!("at the end (seed {seed})"));
        let total = i64::try_from(self.seen.produced.len()).expect("few");
        assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, total);
        assert_eq!(world.ledger("settlement = 'done'").await, total);
        assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
        assert_eq!(world.number("select count(*) from oncue.gaps").await, 0);
        for (name, mut process) in self.nodes.drain(..) {
            process.signal("TERM").await;
            assert!(process.wait().await.success(), "{name}: {}", process.tail());
        }
    }
}

/// When members got or gave partitions, as their logs tell: a group takes its time to notice who is gone.
fn rebalances(world: &World) -> Vec<i64> {
    let entries = std::fs::read_dir(world.dir.path()).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let logs = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let mut times = Vec::new();
    for log in logs.map(|path| std::fs::read_to_string(path).expect("a log is text")) {
        let told =
            log.lines().filter(|line| line.contains("partitions assigned") || line.contains("partitions given up"));
        let time = |line: &str| OffsetDateTime::parse(line.split(' ').next()?, &Rfc3339).ok();
        times.extend(told.filter_map(time).map(millis));
    }
    times
}

/// When the effect of each event was produced, in the order of these times.
fn effects(records: &[Stored]) -> HashMap<String, Vec<i64>> {
    let mut effects: HashMap<String, Vec<i64>> = HashMap::new();
    for record in records {
        let data: Value = serde_json::from_str(record.value.as_deref().unwrap_or_default()).expect("JSON");
        effects.entry(data["id"].as_str().expect("an id").to_owned()).or_default().push(record.at);
    }
    effects.values_mut().for_each(|times| times.sort_unstable());
    effects
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_two_loses_nothing_while_members_come_go_and_die() {
    let (world, kafka) = (World::start().await, Kafka::start(&[("work", 4), ("mail.welcome", 1)]));
    let what = |n: u32| match n % 100 {
        0..30 => "s1",
        30..32 => "f1",
        32 => "f3",
        _ => "e0",
    };
    let (seed, patience) = (0x5EED_CAFE, Duration::from_secs(120));
    let plan = Plan { nodes: 2, partitions: 4, keys: 50, records: 4_000, seed, what, patience };
    let mut storm = Storm::begin(&world, kafka.client(), plan).await;
    storm.until(0.1).await;
    storm.change().await;
    storm.until(0.25).await;
    storm.kill().await;
    storm.until(0.5).await;
    storm.change().await;
    storm.until(0.6).await;
    storm.kill().await;
    storm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_and_kills_loses_nothing_and_keeps_the_order_of_every_key() {
    let world = World::start().await;
    let name = "3 nodes, 12 partitions, 200,000 records, a kill each 5 s";
    let Some(broker) = Broker::start(&world, Storage::Memory, name).await else { return };
    let (records, seconds, seed) = match std::env::var_os("ONCUE_TEST_LONG") {
        Some(_) => (400_000, 300, u64::from(std::process::id()) << 8 | 1),
        None => (200_000, 60, 0x5EED_CAFE),
    };
    let storm_time = Duration::from_secs(seconds);
    let client = broker.client();
    client.create_topic("work", 12).await;
    client.create_topic("mail.welcome", 12).await;
    let what = |n: u32| match n % 1_000 {
        0..4 => "s1",
        4..8 => "f1",
        _ => "e0",
    };
    let plan = Plan { nodes: 3, partitions: 12, keys: 2_000, records, seed, what, patience: Duration::from_secs(240) };
    let mut storm = Storm::begin(&world, client, plan).await;
    storm.until(0.02).await;
    let mut next_kill = Instant::now() + Duration::from_secs(5);
    // The end is calm, so that a repetition without a fault is seen.
    let calm = Instant::now() + storm_time;
    while !storm.is_past(0.8).await && Instant::now() < calm {
        tokio::time::sleep(Duration::from_millis(1_000 + storm.seeded.below(2_000))).await;
        if Instant::now() >= next_kill {
            storm.kill().await;
            next_kill = Instant::now() + Duration::from_secs(5);
        } else {
            storm.change().await;
        }
    }
    assert!(storm.kills >= 2, "{} kills", storm.kills);
    storm.end().await;
}

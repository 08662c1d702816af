//! Ways to be let in by a Kafka broker: SCRAM, TLS, and both.
//!
//! Invariant: each way is shown to work and to fail. A refusal is told in the trigger's row, in health and by `oncue doctor`
//! with its reason and without a secret; nothing is lost by it, and nothing goes over a connection that was not proven.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use oncue::bus::kafka::Mechanism;
use oncue::bus::{BusConfig, Secret, Tls};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, Storage};
use crate::support::process::{manifest, run};
use crate::support::records::{Client, Record};
use crate::support::tls::certificate;
use crate::support::topics::{GROUP, done, drained, refused, settings, start, state, workshop};
use crate::support::{Node, World, eventually};

/// The first byte of a record of TLS that holds a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// A world whose records run a function and are copied to another topic.
async fn shop() -> World {
    let world = workshop(json!({}), "trigger = 'work'").await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, publish, retry_base_ms, retry_cap_ms)
             values ('copy', 'work', true, 'k/copies', 50, 200)",
        )
        .await;
    world
}

/// The topics of that world.
async fn topics(client: &Client) {
    client.create_topic("work", 1).await;
    client.create_topic("copies", 1).await;
}

async fn produce(client: &Client, from: u32, to: u32) {
    let records = (from..to).map(|n| Record::event(&format!("e{n}"), &format!("k{n}"), r#"{"do":"o0"}"#));
    client.produce("work", records).await;
}

fn scram(bus: BusConfig, mechanism: Mechanism, user: &str, password: &str) -> BusConfig {
    let (user, password) = (Some(user.to_owned()), Some(Secret(password.to_owned())));
    BusConfig { mechanism: Some(mechanism), user, password, ..bus }
}

fn tls(bus: BusConfig, authority: Option<&str>) -> BusConfig {
    BusConfig { tls: Tls { required: true, ca: authority.map(certificate), ..Tls::default() }, ..bus }
}

/// A client of the tests that logs in as `bus` does.
fn client(bus: &BusConfig) -> Client {
    let protocol = match (bus.mechanism.is_some(), bus.tls.required) {
        (false, false) => "plaintext",
        (false, true) => "ssl",
        (true, false) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    let mut login = vec![("security.protocol", protocol.to_owned())];
    if let (Some(mechanism), Some(user), Some(password)) = (bus.mechanism, &bus.user, &bus.password) {
        login.push(("sasl.mechanism", mechanism.name().to_owned()));
        login.extend([("sasl.username", user.clone()), ("sasl.password", password.0.clone())]);
    }
    login.extend(bus.tls.ca.iter().map(|file| ("ssl.ca.location", file.display().to_string())));
    Client { servers: bus.url.clone(), login }
}

/// The bus as a manifest says it.
fn section(bus: &BusConfig) -> String {
    let mut text = format!("[bus.k]\nkind = \"kafka\"\nurl = \"{}\"\n", bus.url);
    if let (Some(mechanism), Some(user), Some(password)) = (bus.mechanism, &bus.user, &bus.password) {
        text += &format!("mechanism = \"{}\"\nuser = \"{user}\"\npassword = \"{}\"\n", mechanism.name(), password.0);
    }
    let ca = bus.tls.ca.iter().map(|file| format!(", ca = \"{}\"", file.display())).collect::<String>();
    text + &format!("tls = {{ required = {}{ca} }}\n", bus.tls.required)
}

/// A node that logs in like this takes everything in: each of `records` was run, is copied and is committed.
async fn takes_in(world: &World, name: &str, bus: &BusConfig, records: u32) {
    let node = start(world, name, bus.clone()).await;
    done(world, i64::from(2 * records)).await;
    let client = client(bus);
    drained(&client, 1).await;
    let copies = client.records("copies");
    let ids: BTreeSet<String> = copies.iter().filter_map(|copy| copy.header("ce_id").map(str::to_owned)).collect();
    assert_eq!((copies.len(), ids), (records as usize, (0..records).map(|n| format!("e{n}")).collect()));
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    eventually("the row says so", async || state(world).await == ("active".to_owned(), String::new())).await;
    node.stop().await;
}

/// A node that logs in like this says `words` everywhere and reads nothing. It goes on trying.
async fn is_refused(world: &World, name: &str, bus: &BusConfig, words: &str) -> Node {
    let node = Node::launch(settings(world, name, bus.clone()));
    let all = [words];
    let ((), doctor) = tokio::join!(refused(world, &node, &all), doctor(world, name, bus));
    assert!(doctor.contains(words), "{words}: {doctor}");
    let (_, health) = node.get("/readyz").await.expect("it answers");
    let (_, row) = state(world).await;
    let secret = bus.password.as_ref().map_or("no secret", |password| &password.0);
    assert!(![&doctor, &health, &row].iter().any(|text| text.contains(secret)), "{doctor} {health} {row}");
    assert_eq!(world.ledger("trigger = 'work'").await, 0);
    node
}

/// What `oncue doctor` says is wrong with the bus.
async fn doctor(world: &World, name: &str, bus: &BusConfig) -> String {
    let (manifest, _) = manifest(world, &format!("doctor-{name}"), &section(bus));
    let said = run(&manifest, &["doctor", "--output", "json"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let findings: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let wrong = findings.iter().filter(|finding| finding["about"] == "bus k" && finding["level"] == "error");
    wrong.map(Value::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_of_scram_let_in_to_read_to_commit_and_to_publish() {
    let world = shop().await;
    let Some(mut broker) = Broker::start(&world, Storage::Sqlite, "a login with SCRAM").await else { return };
    topics(&broker.client()).await;
    broker.require_login(&[("scram256", "ada", "open-sesame"), ("scram512", "bob", "shut-sesame")]).await;
    let logins = [(Mechanism::ScramSha256, "ada", "open-sesame"), (Mechanism::ScramSha512, "bob", "shut-sesame")];
    let mut records = 0;
    for (mechanism, user, password) in logins {
        let bus = scram(broker.bus(), mechanism, user, password);
        produce(&client(&bus), records, records + 20).await;
        records += 20;
        takes_in(&world, user, &bus, records).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_the_broker_refuses_is_named_and_costs_nothing_but_time() {
    let world = shop().await;
    world.stream("SHOP", &["shop.>"]).await;
    world.jetstream_trigger("shop", "SHOP", json!({})).await;
    world
        .sql(
            "insert into oncue.rules (name, trigger, match_all, publish, retry_base_ms, retry_cap_ms)
             values ('forward', 'shop', true, 'k/copies', 50, 200)",
        )
        .await;
    let Some(mut broker) = Broker::start(&world, Storage::Sqlite, "a login that is refused").await else { return };
    topics(&broker.client()).await;
    broker.require_login(&[("scram256", "ada", "open-sesame")]).await;
    let right = scram(broker.bus(), Mechanism::ScramSha256, "ada", "open-sesame");
    produce(&client(&right), 0, 15).await;
    const REFUSED: &str = "SASL SCRAM authentication failed";
    let wrong = [
        ("password", scram(broker.bus(), Mechanism::ScramSha256, "ada", "hush"), REFUSED),
        ("mechanism", scram(broker.bus(), Mechanism::ScramSha512, "ada", "open-sesame"), REFUSED),
        ("nobody", broker.bus(), "do the brokers want a login?"),
    ];
    for (n, (name, bus, words)) in (15..).zip(wrong) {
        // What is to be published waits with the same reason.
        world.publish_events("shop.order", [(format!("e{n}"), "{}".to_owned())]).await;
        let node = is_refused(&world, name, &bus, words).await;
        let waits = format!("select error from oncue.parked where position('e{n}' in convert_from(event, 'UTF8')) > 0");
        eventually("it is parked with the reason", async || {
            let rows = world.rows(&waits).await;
            rows.iter().any(|row| row["error"].as_str().is_some_and(|error| error.contains(words)))
        })
        .await;
        assert!(client(&right).committed(GROUP, "work", 1).is_empty(), "{name}");
        node.stop().await;
    }
    let node = start(&world, "right", right.clone()).await;
    // 15 records are run and copied, three events are forwarded.
    done(&world, 33).await;
    assert_eq!(world.number("select count(*) from oncue.parked").await, 0);
    drained(&client(&right), 1).await;
    let copies = client(&right).records("copies");
    let ids: BTreeSet<String> = copies.iter().filter_map(|copy| copy.header("ce_id").map(str::to_owned)).collect();
    assert_eq!((copies.len(), ids), (18, (0..18).map(|n| format!("e{n}")).collect()));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_lets_in_alone_and_with_a_login() {
    let world = shop().await;
    let Some((mut broker, front)) = Broker::start_behind_tls(&world, Storage::Sqlite, "a broker with TLS").await else {
        return;
    };
    let bus = tls(broker.bus(), Some("ca.pem"));
    topics(&client(&bus)).await;
    produce(&client(&bus), 0, 20).await;
    takes_in(&world, "anonymous", &bus, 20).await;
    broker.require_login(&[("scram512", "bob", "open-sesame")]).await;
    let both = scram(bus.clone(), Mechanism::ScramSha512, "bob", "open-sesame");
    produce(&client(&both), 20, 40).await;
    takes_in(&world, "bob", &both, 40).await;
    // A client that ended while it connected is the only other end.
    let fine =
        |handshake: &Result<(), String>| handshake.as_ref().map_or_else(|error| error.contains("eof"), |()| true);
    assert!(front.handshakes().iter().all(fine), "{:?}", front.handshakes());
    assert!(doctor(&world, "plaintext", &broker.bus()).await.contains("do the brokers want TLS?"));
    let wrong = scram(bus, Mechanism::ScramSha512, "bob", "hush");
    assert!(doctor(&world, "wrong", &wrong).await.contains("SASL SCRAM authentication failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_trusted_is_named_and_nothing_goes_over_its_connection() {
    let world = shop().await;
    let Some((broker, front)) = Broker::start_behind_tls(&world, Storage::Sqlite, "a strange certificate").await else {
        return;
    };
    let right = tls(broker.bus(), Some("ca.pem"));
    topics(&client(&right)).await;
    produce(&client(&right), 0, 20).await;
    // Another way to write 127.0.0.1, for which the certificate is not.
    let elsewhere = BusConfig { url: broker.servers().replacen("127.0.0.1", "127.1", 1), ..right.clone() };
    let strange = [
        ("authority", tls(broker.bus(), Some("other-ca.pem"))),
        ("system", tls(broker.bus(), None)),
        ("elsewhere", elsewhere),
    ];
    let before = front.handshakes().len();
    for (name, bus) in strange {
        is_refused(&world, name, &bus, "certificate verify failed").await.stop().await;
    }
    let handshakes = front.handshakes().split_off(before);
    // Each client said why in TLS, if it did not end before: none went on, none tried without.
    let ended = |words: &str| handshakes.iter().filter(|h| h.as_ref().is_err_and(|e| e.contains(words))).count();
    let (alerts, ends) = (ended("fatal alert"), ended("eof"));
    assert!(alerts >= 3 && alerts + ends == handshakes.len(), "{handshakes:?}");
    takes_in(&world, "right", &right, 20).await;
}

/// A plaintext port of Apache Kafka, as a client of TLS sees it: the hello is the length of a request that is far too large,
/// and the broker hangs up.
struct Plaintext {
    address: String,
    /// The first byte of each connection.
    firsts: Arc<Mutex<Vec<u8>>>,
    _accepting: JoinSet<()>,
}

impl Plaintext {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has an address").to_string();
        let firsts = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut accepting) = (Arc::clone(&firsts), JoinSet::new());
        accepting.spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.expect("it accepts");
                // One that goes away without a word has said nothing.
                let Ok(first) = client.read_u8().await else { continue };
                seen.lock().expect("nobody panicked").push(first);
            }
        });
        Self { address, firsts, _accepting: accepting }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_is_named_and_is_told_nothing_in_plaintext() {
    let world = shop().await;
    let Some(broker) = Broker::start(&world, Storage::Sqlite, "a port without TLS").await else { return };
    topics(&broker.client()).await;
    produce(&broker.client(), 0, 20).await;
    let login = |url: String| {
        let bus = scram(BusConfig::kafka(url), Mechanism::ScramSha256, "ada", "open-sesame");
        tls(bus, Some("ca.pem"))
    };
    let kafka = Plaintext::start().await;
    let hangs_up = login(kafka.address.clone());
    is_refused(&world, "hangs-up", &hangs_up, "connecting to a PLAINTEXT broker listener?").await.stop().await;
    let firsts = kafka.firsts.lock().expect("nobody panicked").clone();
    assert!(!firsts.is_empty() && firsts.iter().all(|first| *first == HANDSHAKE), "{firsts:?}");
    // This broker waits for the rest of the request instead.
    let waits = login(broker.servers());
    is_refused(&world, "waits", &waits, "Connection setup timed out in state SSL_HANDSHAKE").await.stop().await;
    takes_in(&world, "right", &broker.bus(), 20).await;
}

//! The checked list and the settings as tables; what a cluster says, against librdkafka's mock cluster.

mod inspect;
mod producer;

use std::path::PathBuf;

use rdkafka::ClientContext as _;
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;

use super::settings::{Role, settings};
use super::*;
use crate::bus::{Secret, Tls};

const BROKERS: &str = "kafka-1:9092, kafka-2:9092";

fn with_options(options: &[(&str, &str)]) -> BusConfig {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    BusConfig { options, ..BusConfig::kafka(BROKERS) }
}

fn with_tls() -> BusConfig {
    BusConfig { tls: Tls { required: true, ..Tls::default() }, ..BusConfig::kafka(BROKERS) }
}

fn with_user(mechanism: Option<Mechanism>) -> BusConfig {
    let (user, password) = (Some("me".to_owned()), Some(Secret("hush".to_owned())));
    BusConfig { user, password, mechanism, ..BusConfig::kafka(BROKERS) }
}

/// The first mistake of `config`.
fn mistake(config: &BusConfig) -> String {
    check(config).map_or_else(|m| m.to_string(), |()| "ok".to_owned())
}

#[test]
fn a_broker_is_a_host_with_a_port() {
    let form = "it looks like \"kafka-1:9092,kafka-2:9092\"; without a port it is 9092";
    let table = [
        ("kafka", "ok".to_owned()),
        ("kafka-1:9092, kafka_2.example.com:19092", "ok".to_owned()),
        ("10.0.0.1:9092,[::1]:9092,[2001:db8::1]", "ok".to_owned()),
        ("", format!("url: broker 1 of the url is no broker; {form}")),
        ("a:9092,", format!("url: broker 2 of the url is no broker; {form}")),
        ("a:0", format!("url: broker 1 of the url is no broker; {form}")),
        ("a:99999", format!("url: broker 1 of the url is no broker; {form}")),
        ("a b:1", format!("url: broker 1 of the url is no broker; {form}")),
        ("::1", format!("url: broker 1 of the url is no broker; {form}")),
        (
            "ssl://a:1",
            "url: broker 1 of the url is no broker; write host:port; TLS is `tls = { required = true }`".to_owned(),
        ),
        ("me:hush@a:1", "url: the address of a broker holds no user; use `user` and `password`".to_owned()),
    ];
    for (url, expected) in table {
        assert_eq!(mistake(&BusConfig::kafka(url)), expected, "{url}");
    }
}

#[test]
fn there_is_one_way_to_log_in_and_it_is_complete() {
    let token = |mechanism| BusConfig { token: Some(Secret("t".to_owned())), mechanism, ..BusConfig::kafka(BROKERS) };
    let file = |mechanism| BusConfig { credentials: Some(PathBuf::from("/t")), mechanism, ..BusConfig::kafka(BROKERS) };
    let only = |mechanism| BusConfig { mechanism, ..BusConfig::kafka(BROKERS) };
    let oauth = Some(Mechanism::OauthBearer);
    let table = [
        (with_user(Some(Mechanism::Plain)), "ok"),
        (with_user(Some(Mechanism::ScramSha256)), "ok"),
        (with_user(Some(Mechanism::ScramSha512)), "ok"),
        (token(oauth), "ok"),
        (file(oauth), "ok"),
        (
            with_user(None),
            "user: nothing says how to log in; add `mechanism`: \"SCRAM-SHA-512\", \"SCRAM-SHA-256\" or \"PLAIN\", as \
             the brokers have it",
        ),
        (file(None), "credentials: nothing says how to log in; add `mechanism = \"OAUTHBEARER\"`, or remove it"),
        (token(None), "token: nothing says how to log in; add `mechanism = \"OAUTHBEARER\"`, or remove it"),
        (with_user(oauth), "user: OAUTHBEARER takes a token; use `credentials` (a file with the token) or `token`"),
        (only(oauth), "mechanism: there is no token; add `credentials` (a file with the token) or `token`"),
        (only(Some(Mechanism::Plain)), "mechanism: there is no user; add `user` and `password`"),
        (
            token(Some(Mechanism::ScramSha256)),
            "token: a token needs `mechanism = \"OAUTHBEARER\"`; use `user` and `password`",
        ),
    ];
    for (config, expected) in table {
        assert_eq!(mistake(&config), expected);
    }
}

#[test]
fn an_option_is_on_the_list_or_an_error_that_says_what_to_do() {
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[("linger.ms", "20"), ("compression.type", "zstd"), ("client.rack", "a")], "ok"),
        (
            &[("enable.auto.commit", "true")],
            "options.enable.auto.commit: this is Oncue's to set; remove it: Oncue commits what is settled, and nothing else",
        ),
        (
            &[("acks", "1")],
            "options.acks: this is Oncue's to set; remove it: Oncue publishes with an idempotent producer and acks=all",
        ),
        (
            &[("auto.offset.reset", "latest")],
            "options.auto.offset.reset: this is Oncue's to set; set `start` on the trigger: where it begins; later \
             nothing is ever skipped by itself",
        ),
        (&[("group.id", "x")], "options.group.id: this is Oncue's to set; set `group` on the trigger"),
        (
            &[("sasl.kerberos.kinit.cmd", "rm -rf /")],
            "options.sasl.kerberos.kinit.cmd: this is Oncue's to set; remove it: this build has no Kerberos; \
             `mechanism` is PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        ),
        (
            &[("queue.buffering.max.ms", "1")],
            "options.queue.buffering.max.ms: this is Oncue's to set; call it `linger.ms`",
        ),
        (
            &[("lingr.ms", "1")],
            "options.lingr.ms: this is no option of a Kafka bus; did you mean `linger.ms`? docs/kafka.md lists the options",
        ),
        (&[("zzz", "1")], "options.zzz: this is no option of a Kafka bus; docs/kafka.md lists the options"),
        (&[("linger.ms", "soon")], "options.linger.ms: its value is not valid"),
        (&[("linger.ms", "99999999")], "options.linger.ms: its value is outside the allowed range 0..900000"),
        (
            &[("ssl.key.password", "hush")],
            "options.ssl.key.password: the bus uses no TLS; add `tls = { required = true }`, or remove it",
        ),
        (
            &[("session.timeout.ms", "400000")],
            "options.session.timeout.ms: `session.timeout.ms` and `max.poll.interval.ms` conflict; \
             `max.poll.interval.ms` must be at least `session.timeout.ms`",
        ),
        (
            &[("fetch.max.bytes", "1000000"), ("message.max.bytes", "2000000")],
            "options.message.max.bytes: `message.max.bytes` and `fetch.max.bytes` conflict; \
             `fetch.max.bytes` must be at least `message.max.bytes`",
        ),
    ];
    for (options, expected) in table {
        assert_eq!(mistake(&with_options(options)), *expected, "{options:?}");
    }
    for timeout in ["0", "10", "300001"] {
        let text = mistake(&with_options(&[("delivery.timeout.ms", timeout)]));
        assert!(text.starts_with("options.delivery.timeout.ms: "), "{timeout}: {text}");
    }
}

#[test]
fn librdkafka_knows_every_option_of_the_list_and_refuses_none_that_is_left_alone() {
    let is_known = |key: &str| match ClientConfig::new().set(key, "").create_native_config() {
        Err(KafkaError::ClientConfig(_, text, ..)) => !text.contains("No such configuration property"),
        _ => true,
    };
    assert!(!is_known("lingr.ms"));
    for (key, _) in options::OPTIONS {
        assert!(is_known(key), "librdkafka does not know {key}");
    }
    for (key, fix) in options::OWNED.iter().filter(|(key, _)| !key.ends_with('.')) {
        assert!(!fix.is_empty() && !options::OPTIONS.iter().any(|(known, _)| known == key), "{key} is on both");
    }
}

#[test]
fn the_list_of_options_is_in_the_docs() {
    let docs = include_str!("../../../docs/kafka.md");
    for (key, _) in options::OPTIONS {
        assert!(docs.contains(&format!("`{key}`")), "docs/kafka.md does not name {key}");
    }
}

#[test]
fn what_is_durable_and_what_is_committed_is_set_whatever_the_options_say() {
    let config =
        with_options(&[("linger.ms", "50"), ("session.timeout.ms", "6000"), ("message.max.bytes", "33554432")]);
    let producer = settings(&config, Role::Producer);
    let consumer = settings(&config, Role::Consumer);
    let probe = settings(&config, Role::Probe);
    let table = [
        (&producer, "acks", Some("all")),
        (&producer, "enable.idempotence", Some("true")),
        (&producer, "linger.ms", Some("50")),
        (&producer, "delivery.timeout.ms", Some("5000")),
        (&producer, "session.timeout.ms", None),
        (&consumer, "enable.auto.commit", Some("false")),
        (&consumer, "enable.auto.offset.store", Some("false")),
        (&consumer, "auto.offset.reset", Some("error")),
        (&consumer, "session.timeout.ms", Some("6000")),
        (&consumer, "fetch.max.bytes", Some("33554432")),
        (&consumer, "linger.ms", None),
        (&probe, "enable.idempotence", None),
        (&probe, "message.max.bytes", Some("33554432")),
        (&probe, "bootstrap.servers", Some("kafka-1:9092,kafka-2:9092")),
        (&probe, "security.protocol", Some("plaintext")),
        (&probe, "allow.auto.create.topics", Some("false")),
    ];
    for (settings, key, expected) in table {
        assert_eq!(settings.get(key).map(String::as_str), expected, "{key}");
    }
}

#[test]
fn the_protocol_follows_from_tls_and_the_way_to_log_in() {
    let tls = Tls { ca: Some(PathBuf::from("/ca.pem")), ..Tls::default() };
    let scram = with_user(Some(Mechanism::ScramSha512));
    let table = [
        (BusConfig::kafka(BROKERS), "plaintext"),
        (with_tls(), "ssl"),
        (BusConfig { tls, ..BusConfig::kafka(BROKERS) }, "ssl"),
        (scram.clone(), "sasl_plaintext"),
        (BusConfig { tls: with_tls().tls, ..scram.clone() }, "sasl_ssl"),
    ];
    for (config, expected) in table {
        assert_eq!(settings(&config, Role::Probe)["security.protocol"], expected);
    }
    let settings = settings(&scram, Role::Consumer);
    let login = ["sasl.mechanism", "sasl.username", "sasl.password"].map(|key| settings[key].as_str());
    assert_eq!(login, ["SCRAM-SHA-512", "me", "hush"]);
}

#[test]
fn librdkafka_makes_every_client_of_a_configuration_that_was_checked() {
    let oauth = BusConfig {
        token: Some(Secret("t".to_owned())),
        mechanism: Some(Mechanism::OauthBearer),
        ..BusConfig::kafka("127.0.0.1:1")
    };
    let plain = BusConfig { url: "127.0.0.1:1".to_owned(), ..with_user(Some(Mechanism::Plain)) };
    for config in [oauth, plain, BusConfig { url: "127.0.0.1:1".to_owned(), ..with_tls() }] {
        let bus = KafkaBus::new("k", &config).expect("it is right");
        for role in [Role::Producer, Role::Probe] {
            let made = Probe::new(&bus.client(role, "test"), bus.callbacks());
            assert!(made.is_ok(), "{:?}", made.err());
        }
        let consumer: Result<rdkafka::consumer::BaseConsumer, _> = bus.consumer("g", "test").create();
        assert!(consumer.is_ok(), "{:?}", consumer.err());
    }
}

#[test]
fn a_connection_that_fails_is_the_reason_why_nobody_answers() {
    let callbacks = Callbacks::new("k", &BusConfig::kafka("127.0.0.1:1"));
    let table = [
        (RDKafkaLogLevel::Info, "CONFWARN", "[thrd:app]: odd", None),
        (RDKafkaLogLevel::Debug, "FAIL", "[thrd:a:1]: a:1: Disconnected", None),
        (RDKafkaLogLevel::Info, "FAIL", "[thrd:a:1]: a:1: Disconnected", Some("a:1: Disconnected")),
        (RDKafkaLogLevel::Warning, "FAIL", "[thrd:[::1]:1]: [::1]:1: timed out", Some("[::1]:1: timed out")),
    ];
    for (level, facility, text, expected) in table {
        callbacks.log(level, facility, text);
        assert_eq!(callbacks.last_error().as_deref(), expected);
    }
    callbacks.forget_error();
    assert_eq!(callbacks.last_error(), None);
}

#[test]
fn secrets_are_shown_by_nothing() {
    let mut config = with_user(Some(Mechanism::Plain));
    config.options = [("ssl.key.password".to_owned(), "hush".to_owned())].into_iter().collect();
    config.tls = with_tls().tls;
    let bus = KafkaBus::new("k", &config).expect("it is right");
    let shown = format!("{bus:?} {config:?} {:?} {:?}", bus.callbacks(), bus.consumer("g", "c"));
    assert!(!shown.contains("hush"), "{shown}");
    let wrong = with_options(&[("ssl.keystore.password", "hush")]);
    assert!(!mistake(&BusConfig { tls: with_tls().tls, ..wrong }).contains("hush"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_says_what_topics_it_has() {
    let cluster = MockCluster::new(3).expect("it starts");
    cluster.create_topic("orders", 4, 3).expect("it is made");
    let bus = KafkaBus::new("k", &BusConfig::kafka(cluster.bootstrap_servers())).expect("it is right");
    bus.ping().await.expect("a broker answers");
    let topic = bus.topic("orders").await.expect("a broker answers").expect("it is there");
    assert_eq!(topic.partitions.iter().map(|p| p.id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(topic.partitions.iter().all(|p| p.leader.is_some() && p.replicas.len() == 3));
    assert_eq!(bus.topic("none").await.expect("a broker answers"), None);
    assert_eq!(bus.topic("none").await.expect("a broker answers"), None, "asking made none");
    let names: Vec<_> = bus.topics().await.expect("a broker answers").into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["orders"]);
    assert_eq!(bus.watermarks("orders", 0).await.expect("a broker answers"), (0, 0));
    assert!(bus.cluster_id().await.expect("a broker answers").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_named_with_the_reason() {
    let bus = KafkaBus::new("k", &BusConfig::kafka("127.0.0.1:1")).expect("it is right");
    let error = bus.ping().await.expect_err("nobody is there");
    let text = error.to_string();
    assert!(error.is_transient(), "{text}");
    assert!(text.starts_with("bus \"k\": failed to reach a broker at 127.0.0.1:1: "), "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_token_asks_its_file_for_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let credentials = Some(directory.path().join("token"));
    let mechanism = Some(Mechanism::OauthBearer);
    let config = BusConfig { credentials, mechanism, ..BusConfig::kafka("127.0.0.1:1") };
    let bus = KafkaBus::new("k", &config).expect("it is right");
    let text = bus.ping().await.expect_err("there is no token").to_string();
    assert!(text.contains("failed to read the token from "), "{text}");
}

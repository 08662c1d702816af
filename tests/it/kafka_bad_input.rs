//! Bad input from topics: what is no event is a dead letter with everything that it had, what is odd is an event, what
//! cannot be read is a clear state. No partition stops.

use oncue::bus::kafka::Mechanism;
use oncue::bus::{BusConfig, Secret};
use oncue::event::codec::kafka::Kept;
use serde_json::json;

use crate::support::batches::Batch;
use crate::support::kafka::Kafka;
use crate::support::records::Record;
use crate::support::topics::{GROUP, done, drained, refused, settings, start, workshop};
use crate::support::{Node, World, eventually};

/// What a broker and the client of these tests let through.
const LARGE: usize = 2 << 20;

fn header(name: &str, value: &[u8]) -> (String, Option<Vec<u8>>) {
    (name.to_owned(), Some(value.to_vec()))
}

fn with(headers: &[(&str, &[u8])], value: &[u8]) -> Record {
    let headers = headers.iter().map(|(name, value)| header(name, value)).collect();
    Record { key: Some(b"bad".to_vec()), value: Some(value.to_vec()), headers, ..Record::default() }
}

/// Records that are no events, with the class of their letters.
fn bad_records() -> Vec<(&'static str, Record)> {
    const STRUCTURED: (&str, &[u8]) = ("content-type", b"application/cloudevents+json");
    const WHOLE: [(&str, &[u8]); 4] =
        [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")];
    let whole_and = |name: &'static str, value: &'static [u8]| {
        let headers: Vec<(&str, &[u8])> = WHOLE.into_iter().chain([(name, value)]).collect();
        with(&headers, b"{}")
    };
    let many: Vec<_> = (0..1_000).map(|n| header(&format!("h{n}"), b"v")).collect();
    let long = vec![header("long", &vec![b'x'; 64 << 10])];
    let binary = (0..=255).collect::<Vec<u8>>();
    vec![
        ("headers", Record { headers: many, ..Record::new("bad", "1,000 headers") }),
        ("headers", Record { headers: long, ..Record::new("bad", "a header of 64 KB") }),
        ("invalid_json", with(&[STRUCTURED], b"{\"specversion\":\"1.0\",")),
        ("invalid_json", with(&[STRUCTURED], &binary)),
        ("invalid_json", Record { value: None, ..with(&[STRUCTURED], b"") }),
        ("missing_attribute", with(&[("ce_id", b"half"), ("ce_specversion", b"1.0")], b"{}")),
        ("missing_attribute", Record { headers: vec![("ce_id".to_owned(), None)], ..Record::new("bad", "null id") }),
        ("duplicate_attribute", whole_and("ce_id", b"2")),
        ("invalid_attribute", whole_and("ce_subject", b"\xff\xfe")),
        (
            "unsupported_specversion",
            with(&[("ce_specversion", b"0.3"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")], b""),
        ),
        ("batch", with(&[("content-type", b"application/cloudevents-batch+json")], b"[]")),
        ("hop_limit", whole_and("ce_oncuehops", b"17")),
        (
            "too_deep",
            with(&[("content-type", b"application/json")], &[vec![b'['; 20_000], vec![b']'; 20_000]].concat()),
        ),
        ("too_large", Record { key: Some(binary), ..with(&[("name", b"\xc3\x28")], &vec![b'y'; LARGE]) }),
    ]
}

async fn committed_and_well(world: &World, node: &Node, kafka: &Kafka) {
    drained(&kafka.client(), 1).await;
    assert!(node.is_ready().await);
    assert_eq!(world.row("select state, error from oncue.triggers").await, json!({ "state": "active", "error": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_event_is_kept_with_all_its_bytes_and_the_partition_goes_on() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let bad = bad_records();
    for (n, (_, record)) in bad.iter().enumerate() {
        let good = Record::event(&format!("good {n}"), "good", r#"{"do":"o0"}"#);
        kafka.client().produce("work", [record.clone(), good]).await;
    }
    done(&world, i64::try_from(bad.len()).expect("few")).await;
    committed_and_well(&world, &node, &kafka).await;
    let query = "select class, error, raw, headers from oncue.dead_letters where kind = 'rejected' order by id";
    let letters: Vec<(String, String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as(query).fetch_all(&world.pool).await.expect("Postgres answers");
    assert_eq!(letters.len(), bad.len());
    for (offset, (class, record)) in (0..).step_by(2).zip(&bad) {
        let kept = |(of, error, raw, headers): &(String, String, Vec<u8>, Vec<u8>)| {
            let kept = Kept::from_json(headers)?;
            let same = kept.with_record(raw, |kept| {
                let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
                kept.key == record.key.as_deref()
                    && kept.value == record.value.as_deref()
                    && kept.headers.iter().copied().eq(headers)
            });
            (kept.offset == offset && kept.topic == "work").then_some((of == class && same, format!("{of}: {error}")))
        };
        let (same, said) =
            letters.iter().find_map(kept).unwrap_or_else(|| panic!("no letter of offset {offset}, {class}"));
        assert!(same && !said.contains(['\n', '\u{1b}', '\0']), "offset {offset}, {class}: {said:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_keys_values_headers_and_times_are_events() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let plain = |key: Option<&[u8]>, value: Option<&[u8]>| Record {
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        ..Record::default()
    };
    let at = |timestamp| Record { timestamp: Some(timestamp), ..Record::new("time", r#"{"do":"o0"}"#) };
    let sixty = (0..60).map(|n| (format!("h{n}"), (n % 3 > 0).then(|| vec![b'v'; n]))).collect();
    let odd = vec![
        plain(None, None),
        plain(None, Some(b"")),
        plain(Some(b""), None),
        plain(Some(b"\xff\x00\xfe"), Some(b"\xc3\x28")),
        plain(Some(&[b'k'; 10_000]), Some(b"a long key")),
        plain(Some("ключ \u{202e} 🗝".as_bytes()), Some(b"null")),
        Record { headers: sixty, ..Record::new("headers", "{}") },
        Record {
            headers: vec![header("same", b"1"), header("same", b"2"), header("\u{1f511}", b"\xff")],
            ..Record::new("headers", "{}")
        },
        at(-1),
        at(1),
        at(4_102_444_800_000),
        at(253_402_300_800_000),
        at(i64::MAX / 2),
    ];
    let count = i64::try_from(odd.len()).expect("few");
    kafka.client().produce("work", odd).await;
    kafka.client().produce("work", [Record::event("last", "last", r#"{"do":"o0"}"#)]).await;
    done(&world, count + 1).await;
    committed_and_well(&world, &node, &kafka).await;
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    assert_eq!(world.number("select count(distinct delivery_id) from oncue.ledger").await, count + 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bombs_within_the_size_limit_are_unpacked_and_judged_by_what_is_in_them() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let node = start(&world, "one", kafka.bus()).await;
    let pad = |n: usize| format!(r#"{{"do":"o0","pad":"{}"}}"#, "0".repeat(n));
    let mut good = 0;
    for codec in ["gzip", "lz4", "zstd", "snappy"] {
        // Packed they are a few kilobytes; unpacked each is just allowed, or the double of that.
        let fits = (0..8).map(|n| Record::event(&format!("{codec} {n}"), &format!("k{n}"), &pad((1 << 20) - 100)));
        let large = [Record::event(&format!("{codec} large"), "large", &pad(LARGE))];
        kafka.client().produce_with("work", fits.chain(large), &[("compression.type", codec)]).await;
        good += 8;
        done(&world, good).await;
    }
    eventually("the large ones are kept", async || {
        world.number("select count(*) from oncue.dead_letters where class = 'too_large'").await == 4
    })
    .await;
    committed_and_well(&world, &node, &kafka).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_unpacked_stops_its_partition_alone_and_says_how_to_go_on() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 2)]));
    let client = kafka.client();
    let produce = async || {
        let record = |n| Record::new("k", r#"{"do":"o0"}"#).in_partition(n % 2);
        client.produce("work", (0..10).map(record)).await;
    };
    let node = start(&world, "one", kafka.bus()).await;
    produce().await;
    done(&world, 10).await;
    assert_eq!(Batch::broken().produce(&kafka.cluster.bootstrap_servers(), "work", 0).await, 5);
    produce().await;
    done(&world, 15).await;
    refused(&world, &node, &["message at 5", "--group oncue-work", "--to-offset", "oncue trigger resume work"]).await;
    eventually("the other partition is committed", async || client.committed(GROUP, "work", 2)[&1] == 10).await;
    assert_eq!(client.committed(GROUP, "work", 2)[&0], 5, "nothing is passed over");
    node.stop().await;
    client.commit(GROUP, "work", [(0, 6)]);
    let node = start(&world, "one", kafka.bus()).await;
    done(&world, 20).await;
    drained(&client, 2).await;
    assert!(node.is_ready().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_does_not_exist_is_a_clear_state_until_somebody_makes_it() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("other", 1)]));
    world.kafka_trigger("other", &["other"], json!({})).await;
    let node = Node::launch(settings(&world, "one", kafka.bus()));
    refused(&world, &node, &["there is no topic work", "--create --topic work"]).await;
    // The other trigger of the bus works.
    kafka.client().produce("other", [Record::event("other", "k", r#"{"do":"o0"}"#)]).await;
    done(&world, 1).await;
    kafka.topic("work", 2);
    kafka.client().produce("work", (0..10).map(|n| Record::event(&format!("e{n}"), "k", r#"{"do":"o0"}"#))).await;
    done(&world, 11).await;
    node.ready().await;
    eventually("the row says nothing any more", async || {
        world.number("select count(*) from oncue.triggers where error is not null").await == 0
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_the_brokers_refuse_is_a_clear_state() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    let login = BusConfig {
        mechanism: Some(Mechanism::ScramSha512),
        user: Some("me".to_owned()),
        password: Some(Secret("hush".to_owned())),
        ..kafka.bus()
    };
    let node = Node::launch(settings(&world, "wrong", login));
    refused(&world, &node, &["SASL"]).await;
    let (_, why) = crate::support::topics::state(&world).await;
    let (_, health) = node.get("/readyz").await.expect("it answers");
    assert!(!why.contains("hush") && !health.contains("hush"), "{why} {health}");
    node.stop().await;
    // With the right one it goes on.
    kafka.client().produce("work", [Record::event("e", "k", r#"{"do":"o0"}"#)]).await;
    let node = start(&world, "right", kafka.bus()).await;
    done(&world, 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_and_a_trigger_that_do_not_fit_are_a_clear_state() {
    let (world, kafka) = (workshop(json!({}), "").await, Kafka::start(&[("work", 1)]));
    world.sql("update oncue.triggers set bus = 'main'").await;
    let node = Node::launch(settings(&world, "one", kafka.bus()));
    refused(&world, &node, &["kafka", "\"main\""]).await;
    world.sql("update oncue.triggers set bus = 'k'").await;
    node.ready().await;
    kafka.client().produce("work", [Record::event("e", "k", r#"{"do":"o0"}"#)]).await;
    done(&world, 1).await;
    node.stop().await;
}

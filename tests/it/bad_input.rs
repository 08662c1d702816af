//! Bad input: what is no event is kept with its bytes and its reason, and holds up nobody.

use oncue::event::codec;
use serde_json::json;

use crate::support::node::{Node, config};
use crate::support::{World, eventually, functions};

async fn open_door() -> World {
    let world = World::start().await;
    world.stream("DOOR", &["door.>"]).await;
    world.stream("MAIL", &["mail.>"]).await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.jetstream_trigger("door", "DOOR", json!({})).await;
    world.sql("insert into oncue.rules (name, match_all, run) values ('all', true, 'steered')").await;
    world
}

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json");

/// Class, headers, bytes.
type Bad = (&'static str, Vec<(&'static str, &'static str)>, Vec<u8>);

fn bad_messages() -> Vec<Bad> {
    let whole = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", "t")];
    let with = |more: (&'static str, &'static str)| whole.into_iter().chain([more]).collect::<Vec<_>>();
    let deep = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    vec![
        ("invalid_json", vec![STRUCTURED], b"{\"specversion\":\"1.0\",".to_vec()),
        ("invalid_json", vec![STRUCTURED], b"\xc3\x28 no \x00 text".to_vec()),
        ("invalid_json", vec![STRUCTURED], Vec::new()),
        ("missing_attribute", vec![STRUCTURED], b"{\"specversion\":\"1.0\",\"id\":\"1\"}".to_vec()),
        ("missing_attribute", vec![("ce-id", "half"), ("ce-specversion", "1.0")], b"{}".to_vec()),
        ("duplicate_attribute", with(("ce-id", "2")), b"{}".to_vec()),
        (
            "unsupported_specversion",
            vec![("ce-specversion", "0.3"), ("ce-id", "1"), ("ce-source", "s"), ("ce-type", "t")],
            b"{}".to_vec(),
        ),
        ("unsupported_format", vec![("content-type", "application/cloudevents+avro")], b"Obj".to_vec()),
        ("batch", vec![("content-type", "application/cloudevents-batch+json")], b"[]".to_vec()),
        ("too_large", vec![], vec![b'x'; (64 << 10) + 1]),
        ("too_deep", vec![], deep(129)),
        ("too_deep", vec![], deep(20_000)),
        ("hop_limit", with(("ce-oncuehops", "17")), b"{}".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_event_is_kept_with_its_bytes_and_acknowledged() {
    let world = open_door().await;
    let mut settings = config(&world, "one");
    settings.limits.max_bytes = 64 << 10;
    let node = Node::launch(settings);
    node.ready().await;
    let bad = bad_messages();
    for (n, (_, headers, payload)) in bad.iter().enumerate() {
        world.publish(&format!("door.bad.{n}"), headers, payload).await;
        world.publish_events("door.good", [(format!("good-{n}"), r#"{"do":"o0"}"#.to_owned())]).await;
    }
    eventually("all are acknowledged", async || world.drained("DOOR", "oncue-door").await).await;
    let good = i64::try_from(bad.len()).expect("few");
    assert_eq!(world.ledger("event_id like 'good-%' and settlement = 'done'").await, good);
    assert_eq!(world.ledger("true").await, good);
    let query = "select class, error, trigger, encode(raw, 'hex') as raw, convert_from(headers, 'UTF8') as headers
        from oncue.dead_letters where kind = 'rejected'";
    let letters = world.rows(query).await;
    assert_eq!(letters.len(), bad.len());
    for (class, headers, payload) in bad {
        let raw = oncue::function::hex(&payload);
        let found = letters.iter().find(|l| {
            let kept: Vec<(String, String)> =
                serde_json::from_str(l["headers"].as_str().unwrap_or("")).unwrap_or_default();
            let has =
                |(name, value): &(&str, &str)| kept.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value);
            l["raw"].as_str() == Some(raw.as_str()) && l["class"] == class && headers.iter().all(has)
        });
        let text = String::from_utf8_lossy(&payload[..payload.len().min(40)]).into_owned();
        let letter = found.unwrap_or_else(|| panic!("no letter of class {class} with {headers:?} and {text:?}"));
        assert_eq!(letter["trigger"], "door");
        let error = letter["error"].as_str().unwrap_or_default();
        assert!(!error.is_empty() && !error.contains(['\n', '\u{1b}', '\0']), "{error:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_legal_messages_are_events() {
    let world = open_door().await;
    let node = Node::start(&world, "one").await;
    let odd: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"  ".to_vec(),
        b"null".to_vec(),
        b"\xff\xfe\x00".to_vec(),
        b"{\"a\":1}{\"b\":2}".to_vec(),
        b"\"\\ud800\"".to_vec(),
        b"{\"a\":1e400000,\"a\":\"\\u0000\"}".to_vec(),
        [vec![b'['; 128], vec![b']'; 128]].concat(),
        vec![b'7'; 10_000],
    ];
    for payload in &odd {
        world.publish("door.odd", &[], payload).await;
    }
    eventually("all are acknowledged", async || world.drained("DOOR", "oncue-door").await).await;
    let count = i64::try_from(odd.len()).expect("few");
    assert_eq!(world.ledger("settlement = 'done'").await, count);
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    let echoed: Vec<Vec<u8>> = world.messages("MAIL").await.iter().map(|m| m.payload.to_vec()).collect();
    assert!(odd.iter().all(|payload| echoed.contains(payload)), "the bytes went through as they were");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_an_event_with_odd_bytes_keeps_them() {
    let world = open_door().await;
    world.sql("update oncue.rules set retry_max_attempts = 1").await;
    let node = Node::start(&world, "one").await;
    // Rejected by the function: NUL, a lone surrogate and invalid UTF-8 must survive parking and burying.
    let tails: [&[u8]; 3] = [b"\x00", b"\\ud800", b"\xc3\x28"];
    for tail in tails {
        world.publish("door.odd", &[], &[br#"{"do":"r0","tail":""#, tail, br#""}"#].concat()).await;
    }
    eventually("all are acknowledged", async || world.drained("DOOR", "oncue-door").await).await;
    let letters = world.rows("select encode(raw, 'hex') as raw from oncue.dead_letters where class = 'reject'").await;
    assert_eq!(letters.len(), 3, "{letters:?}");
    let kept: Vec<Vec<u8>> = letters
        .iter()
        .map(|l| {
            let hex = l["raw"].as_str().unwrap_or_default();
            let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hexadecimal");
            let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
            codec::from_structured(&bytes, &codec::Limits::STORED).expect("it reads back").data.to_vec()
        })
        .collect();
    for tail in tails {
        assert!(kept.iter().any(|data| data.windows(tail.len()).any(|w| w == tail)), "{tail:?} in {kept:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_triggers_itself_stops_at_the_sixteenth_hop() {
    let world = open_door().await;
    world.jetstream_trigger("mail", "MAIL", json!({})).await;
    let node = Node::start(&world, "one").await;
    world.publish("door.start", &[], b"round and round").await;
    eventually("the loop is broken", async || {
        world.number("select count(*) from oncue.dead_letters").await == 1
            && world.drained("DOOR", "oncue-door").await
            && world.drained("MAIL", "oncue-mail").await
    })
    .await;
    assert_eq!(world.stored("MAIL").await, 16, "one for each hop");
    assert_eq!(world.ledger("settlement = 'done'").await, 16);
    let letter = world.row("select kind, class, error from oncue.dead_letters").await;
    let error = letter["error"].as_str().unwrap_or_default();
    assert!(error.contains("oncuehops") && error.contains("loop"), "{letter}");
    // Every step names the one before it.
    let chain = "select count(*) from oncue.ledger l join oncue.ledger c on c.delivery_id = l.cause where c.settlement = 'done'";
    assert_eq!(world.number(chain).await, 16, "fifteen done and the last one");
    node.stop().await;
}

/// Text that does not compress.
fn noise(length: usize, mut seed: u64) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push(char::from(b'a' + u8::try_from((seed >> 33) % 26).expect("a letter")));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn long_ids_types_sources_and_keys_are_settled_like_short_ones() {
    let world = open_door().await;
    world.sql("update oncue.rules set ordering_key = '$.data.key', retry_base_ms = 50").await;
    let node = Node::launch(config(&world, "one"));
    node.ready().await;
    let (id, ty, source, key) = (noise(8_000, 1), noise(8_000, 2), noise(8_000, 3), noise(8_000, 4));
    let headers = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-type", &ty), ("ce-source", &source)];
    for what in ["e0", "f3"] {
        let data = format!(r#"{{"do":"{what}","key":"{key}"}}"#);
        world.publish("door.long", &headers, data.as_bytes()).await;
    }
    eventually("both are done", async || world.ledger("settlement = 'done'").await == 2).await;
    assert_eq!(world.number("select count(*) from oncue.dead_letters").await, 0);
    assert_eq!(world.stored("MAIL").await, 2);
    world.sql("update oncue.rules set match_all = false, pattern = '{\"type\":[\"nothing\"]}'").await;
    eventually("the rule matches no more", async || {
        world.publish("door.long", &headers, b"{}").await;
        world.number("select count(*) from oncue.unmatched where event_type = '(other types)'").await > 0
    })
    .await;
    node.stop().await;
}

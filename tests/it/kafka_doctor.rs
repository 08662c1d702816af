//! What `oncue doctor` says of a Kafka bus. The mock cluster does not tell settings of topics: those are judged in unit tests.

use serde_json::Value;

use crate::support::kafka::Kafka;
use crate::support::process::{manifest, run};
use crate::support::{World, functions};

/// A rule and a function that publish to the bus.
const SHOP: &str = r#"
[function.welcome]
component = "welcome.wasm"
grants = { publish = ["kafka/mail.*", "kafka/gone.*"] }

[[rule]]
name = "forward"
pattern = '{"type":["a"]}'
publish = "kafka/orders"
"#;

/// What is said of `about`, level and text with the fix.
fn said(findings: &Value, about: &str) -> Vec<String> {
    let list = findings.as_array().expect("findings");
    let of = list.iter().filter(|finding| finding["about"] == about);
    of.map(|f| format!("{}: {} | {}", f["level"], f["text"], f["fix"]).replace('"', "")).collect()
}

async fn doctor(world: &World, bus: &str) -> (i32, Value) {
    std::fs::write(world.dir.path().join("welcome.wasm"), functions::welcome()).expect("the component is written");
    let (manifest, _) = manifest(world, "shop", &format!("{bus}\n{SHOP}"));
    assert_eq!(run(&manifest, &["migrate"]).await.code, 0);
    let applied = run(&manifest, &["apply"]).await;
    assert_eq!(applied.code, 0, "{applied:?}");
    let looked = run(&manifest, &["doctor", "--output", "json"]).await;
    (looked.code, serde_json::from_str(&looked.out).unwrap_or_else(|error| panic!("{error}: {looked:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_and_topics_are_looked_at_and_what_is_missing_has_its_command() {
    let (world, kafka) = (World::without_tables().await, Kafka::start(&[("mail.welcome", 3)]));
    let brokers = kafka.cluster.bootstrap_servers();
    let (_, findings) = doctor(&world, &format!("[bus.kafka]\nkind = \"kafka\"\nurl = \"{brokers}\"")).await;
    let bus = said(&findings, "bus kafka");
    assert!(bus.iter().any(|text| text.contains("3 of 3 brokers can be reached")), "{bus:?}");
    let topic = said(&findings, "topic mail.welcome");
    assert!(topic[0].starts_with("ok: 3 partitions, 3 copies"), "{topic:?}");
    let rule = said(&findings, "rule forward");
    assert!(rule[0].contains("there is no topic orders") && rule[0].contains("--create --topic orders"), "{rule:?}");
    let function = said(&findings, "function welcome");
    let missing: Vec<&String> = function.iter().filter(|text| text.contains("there is no topic")).collect();
    assert!(missing.len() == 1 && missing[0].contains("there is no topic gone.*"), "{function:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_or_want_another_login_are_told_with_the_reason() {
    let (world, kafka) = (World::without_tables().await, Kafka::start(&[]));
    let (code, findings) = doctor(&world, "[bus.kafka]\nkind = \"kafka\"\nurl = \"127.0.0.1:1\"").await;
    let bus = said(&findings, "bus kafka");
    assert!(code == 1 && bus[0].starts_with("error: ") && bus[0].contains("Connection refused"), "{bus:?}");
    let brokers = kafka.cluster.bootstrap_servers();
    let login = format!(
        "[bus.kafka]\nkind = \"kafka\"\nurl = \"{brokers}\"\nuser = \"me\"\npassword = \"hush\"\nmechanism = \"PLAIN\""
    );
    let (code, findings) = doctor(&world, &login).await;
    let bus = said(&findings, "bus kafka");
    assert!(code == 1 && bus.iter().any(|text| text.starts_with("warning: the password goes over")), "{bus:?}");
    assert!(bus.iter().any(|text| text.starts_with("error: ") && text.contains("SASL")), "{bus:?}");
    assert!(!findings.to_string().contains("hush"), "{findings}");
}

//! Ways to be let in by a NATS server: token, user and password, credentials file, TLS with and without a certificate.
//!
//! Invariant: each way is shown to work and to fail; a refused connection never shows a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_nats::jetstream::stream;
use oncue::bus::nats::{NatsBus, Reader, connect};
use oncue::bus::{BusConfig, Secret, Tls};
use oncue::dev::servers::{NatsConfig, Overrides, PrivateNats, find_nats_server};

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nats").join(file)
}

async fn server(dir: &tempfile::TempDir, extra: &str) -> PrivateNats {
    let program = find_nats_server(&Overrides::default()).expect("scripts/setup installs nats-server");
    let config = NatsConfig { extra: extra.to_owned(), ..NatsConfig::new(program, dir.path().join("nats")) };
    PrivateNats::start(config).await.expect("nats-server starts")
}

/// A stream can be made and stores what is published: the connection is whole.
async fn works(config: &BusConfig) {
    let bus = connect("events", config).await.expect("the server lets us in");
    let stream = stream::Config { name: "S".to_owned(), subjects: vec!["s".to_owned()], ..stream::Config::default() };
    bus.jetstream.get_or_create_stream(stream).await.expect("a stream");
    bus.jetstream.publish("s", "x".into()).await.expect("sent").await.expect("stored");
    // What triggers read comes another way, which is let in the same way.
    let mut reader = Reader::open(&bus, "test").await.expect("a reader is let in");
    reader.subscribe("s", Some("queue"));
    let publishing = async {
        loop {
            bus.jetstream.publish("s", "y".into()).await.expect("sent").await.expect("stored");
        }
    };
    tokio::select! {
        message = reader.next() => assert_eq!(message.expect("it reads").expect("a message").payload, "y"),
        () = publishing => {}
    }
    reader.finish();
    while reader.next().await.expect("it ends in order").is_some() {}
}

/// What a reader says that would log in by `wrong` to the server of `right`.
async fn reader_refused(right: &BusConfig, wrong: BusConfig) -> String {
    let bus = connect("events", right).await.expect("the server lets us in");
    let bus = NatsBus { config: Arc::new(wrong), ..bus };
    Reader::open(&bus, "test").await.expect_err("the server must refuse this").to_string()
}

async fn refused(config: &BusConfig) -> String {
    connect("events", config).await.expect_err("the server must refuse this").to_string()
}

#[tokio::test]
async fn a_token_lets_in_and_a_wrong_one_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let nats = server(&dir, "authorization { token: \"open-sesame\" }").await;
    let with = |token: &str| BusConfig { token: Some(Secret(token.to_owned())), ..BusConfig::nats(nats.url()) };
    works(&with("open-sesame")).await;
    let error = refused(&with("wrong-word")).await;
    assert!(error.contains("events") && !error.contains("wrong-word"), "{error}");
    let error = reader_refused(&with("open-sesame"), with("wrong-word")).await;
    assert!(error.contains("Authorization Violation") && !error.contains("wrong-word"), "{error}");
    refused(&BusConfig::nats(nats.url())).await;
}

#[tokio::test]
async fn a_user_and_a_password_let_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let nats = server(&dir, "authorization { user: oncue, password: hunter2 }").await;
    let with = |password: &str| BusConfig {
        user: Some("oncue".to_owned()),
        password: Some(Secret(password.to_owned())),
        ..BusConfig::nats(nats.url())
    };
    works(&with("hunter2")).await;
    let error = refused(&with("hunter3")).await;
    assert!(!error.contains("hunter3"), "{error}");
    let error = reader_refused(&with("hunter2"), with("hunter3")).await;
    assert!(error.contains("Authorization Violation") && !error.contains("hunter3"), "{error}");
}

#[tokio::test]
async fn a_credentials_file_lets_in_and_a_missing_one_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let accounts = std::fs::read_to_string(data("accounts.conf")).expect("the accounts of the tests");
    let nats = server(&dir, &accounts).await;
    let with = |file: &str| BusConfig { credentials: Some(data(file)), ..BusConfig::nats(nats.url()) };
    works(&with("user.creds")).await;
    let error = refused(&with("nobody.creds")).await;
    assert!(error.contains("nobody.creds"), "{error}");
    let error = reader_refused(&with("user.creds"), with("nobody.creds")).await;
    assert!(error.contains("nobody.creds"), "{error}");
    refused(&BusConfig::nats(nats.url())).await;
}

#[tokio::test]
async fn tls_is_verified_on_both_sides() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| data(name).display().to_string();
    let extra = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let nats = server(&dir, &extra).await;
    let url = nats.url().replacen("nats://", "tls://", 1);
    let tls =
        Tls { required: true, ca: Some(data("ca.pem")), cert: Some(data("client.pem")), key: Some(data("client.key")) };
    works(&BusConfig { tls: tls.clone(), ..BusConfig::nats(&url) }).await;
    let anonymous = Tls { cert: None, key: None, ..tls.clone() };
    refused(&BusConfig { tls: anonymous, ..BusConfig::nats(&url) }).await;
    let right = BusConfig { tls: tls.clone(), ..BusConfig::nats(&url) };
    let anonymous = Tls { cert: None, key: None, ..tls.clone() };
    reader_refused(&right, BusConfig { tls: anonymous, ..BusConfig::nats(&url) }).await;
    let distrusting = BusConfig { tls: Tls { ca: None, ..tls }, ..BusConfig::nats(&url) };
    refused(&distrusting).await;
    let error = reader_refused(&right, distrusting).await;
    assert!(error.contains("certificate"), "{error}");
}

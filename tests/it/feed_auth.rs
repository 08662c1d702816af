//! A change feed over TLS with a password: how a source that is not on the same machine is read.
//!
//! Invariant: what is not proven is refused, and no refusal shows a password.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use oncue::bus::BusConfig;
use serde_json::json;

use crate::support::{Node, World, eventually, functions, node};

fn data(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nats").join(file)
}

/// A server that lets the role `feeder` in with SCRAM over TLS, and in no other way.
async fn strict() -> World {
    let world = World::start().await;
    let folder = world.row("select current_setting('data_directory') as at").await;
    let folder = PathBuf::from(folder["at"].as_str().expect("a path"));
    let owner = std::fs::metadata(&folder).expect("it is there");
    for (from, to) in [("server.pem", "server.crt"), ("server.key", "server.key")] {
        let to = folder.join(to);
        std::fs::copy(data(from), &to).expect("it is copied");
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("it is closed to others");
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        chown(&to, Some(uid), Some(gid)).expect("it is the server's");
    }
    let rules = std::fs::read_to_string(folder.join("pg_hba.conf")).expect("the rules of the server");
    let strict = "hostssl all feeder 127.0.0.1/32 scram-sha-256\nhost all feeder 127.0.0.1/32 reject\n";
    std::fs::write(folder.join("pg_hba.conf"), format!("{strict}{rules}")).expect("they are written");
    world
        .sql(
            "set password_encryption = 'scram-sha-256';
             create role feeder login replication password 'open:sesame@1';
             create table users (id bigint primary key, email text);
             alter table users owner to feeder; grant usage on schema oncue to feeder;
             grant select on oncue.publish_keys to feeder",
        )
        .await;
    world.sql("alter system set ssl = on").await;
    world.sql("grant create on database postgres to feeder").await;
    world.sql("select pg_reload_conf()").await;
    eventually("the server offers TLS", async || {
        world.row("select current_setting('ssl') as ssl").await["ssl"] == "on"
    })
    .await;
    world
}

fn url(world: &World, password: &str, more: &str) -> String {
    format!("postgres://feeder:{password}@localhost:{}/postgres?{more}", world.postgres.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_read_over_verified_tls_with_scram_and_a_wrong_proof_is_told() {
    let world = strict().await;
    world.deploy("steered", &functions::steered(), &functions::spec()).await;
    world.feed("users", &["public.users"], json!({})).await;
    world.steer("all", "users", "o0").await;
    let full = format!("sslmode=verify-full&sslrootcert={}", data("ca.pem").display());
    let table = [
        (url(&world, "wrong-word", &full), "password authentication failed"),
        (url(&world, "open%3Asesame%401", "sslmode=disable"), "pg_hba.conf rejects"),
        (url(&world, "open%3Asesame%401", "sslmode=verify-full"), "certificate"),
    ];
    for (name, (url, words)) in ["a", "b", "c"].into_iter().zip(table) {
        let node = launch(&world, name, &url);
        eventually(words, async || {
            let component = node.component("trigger/users").await;
            component.is_some_and(|(_, reason)| reason.contains(words) && !reason.contains("wrong-word"))
        })
        .await;
        node.stop().await;
    }
    let node = launch(&world, "d", &url(&world, "open%3Asesame%401", &full));
    eventually("the feed is read", async || {
        node.component("trigger/users").await.is_some_and(|(state, _)| state == "active")
    })
    .await;
    world.sql("insert into users values (1, 'a@x')").await;
    eventually("the function has run", async || world.ledger("settlement = 'done'").await == 1).await;
    let sessions = world.rows(
        "select s.ssl, a.usename from pg_stat_ssl s join pg_stat_activity a using (pid) where a.backend_type = 'walsender'",
    );
    assert_eq!(sessions.await, [json!({ "ssl": true, "usename": "feeder" })]);
    node.stop().await;
}

fn launch(world: &World, name: &str, url: &str) -> Node {
    let mut config = node::config(world, name);
    config.buses.insert("app".to_owned(), BusConfig::postgres(url));
    Node::launch(config)
}

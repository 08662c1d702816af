//! The private servers of `oncue dev` accept their owner only, the node is no superuser there, and a folder of an earlier
//! version, whose servers trusted everybody, goes on with all that is in it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use oncue::dev::servers::{Overrides, PostgresConfig, PrivatePostgres, find_nats_server, find_postgres};
use sqlx::{Connection as _, PgConnection};
use tokio::process::{Child, Command};

use crate::support::eventually;
use crate::support::node::{free_address, get};

const MANIFEST: &str = r#"
[bus.events]
kind = "nats"
url = "${NATS_URL}"
"#;

/// What an earlier version left behind: everything belongs to the superuser.
const BEFORE: [&str; 7] = [
    "create table kept (id bigint generated always as identity primary key, word text)",
    "insert into kept (word) values ('one'), ('two')",
    "create view words as select word from kept",
    "create function three() returns int language sql as 'select 3'",
    "create type mood as enum ('good')",
    "create schema \"Odd one\" create table t (id serial primary key)",
    "create publication kept_feed for table kept",
];

async fn leave_a_folder(folder: &Path) {
    let bin = find_postgres(&Overrides::default()).expect("Postgres binaries");
    let server = PrivatePostgres::start(PostgresConfig::new(bin, folder.join("postgres"))).await.expect("a server");
    let mut connection = PgConnection::connect(server.url()).await.expect("everybody may connect");
    for statement in BEFORE {
        sqlx::raw_sql(statement).execute(&mut connection).await.expect("it is made");
    }
    let migrated = oncue::store::Store::connect_lazy(&oncue::store::Config::new(server.url())).expect("an address");
    migrated.migrate().await.expect("the tables of before");
    migrated.close().await;
    connection.close().await.expect("it ends");
    server.stop().await;
}

fn start(base: &Path, health: SocketAddr) -> Child {
    let manifest = format!("[node]\nhealth = \"{health}\"\n{MANIFEST}");
    std::fs::write(base.join("oncue.toml"), manifest).expect("the manifest is written");
    let log = std::fs::File::create(base.join("dev.log")).expect("a log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", env!("CARGO_BIN_EXE_oncue"), "dev"]).current_dir(base).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    command.env("ONCUE_NATS_SERVER", find_nats_server(&Overrides::default()).expect("a nats-server"));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log).kill_on_drop(true);
    command.spawn().expect("it starts")
}

fn said(base: &Path) -> String {
    std::fs::read_to_string(base.join("dev.log")).unwrap_or_default()
}

/// The variables of the file `env`, when the node runs.
async fn variables(base: &Path, health: SocketAddr, dev: &mut Child) -> HashMap<String, String> {
    eventually("it is up", async || {
        assert!(dev.try_wait().expect("it can be asked").is_none(), "it ended: {}", said(base));
        get(health, "/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    let text = std::fs::read_to_string(base.join(".oncue/env")).expect("it is there");
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

async fn stop(mut dev: Child) {
    let pid = dev.id().expect("it runs").to_string();
    let sent = Command::new("sh").args(["-c", "kill -s TERM \"$1\"", "sh", &pid]).status().await;
    assert!(sent.expect("a shell").success());
    let ended = tokio::time::timeout(Duration::from_secs(60), dev.wait()).await.expect("it ends in time");
    assert!(ended.expect("it ends").success());
}

/// Commands of another terminal take the addresses from the folder.
async fn check_the_program(base: &Path) {
    let publish = ["publish", "events/user.signup", "{}", "--id", "one"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncue"));
    command.args(publish).current_dir(base).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent");
    let said = command.output().await.expect("it runs");
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(!error.contains("uthorization"), "{error}");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// An address without user and password.
fn place(url: &str) -> &str {
    url.split_once('@').expect("it has a password").1
}

async fn truth(connection: &mut PgConnection, question: &'static str) -> bool {
    sqlx::query_scalar(question).fetch_one(connection).await.unwrap_or_else(|error| panic!("{error}: {question}"))
}

/// What the node and its user need to do, on what was there and on what is new.
const WORK: [&str; 9] = [
    "insert into kept (word) values ('three')",
    "alter table kept replica identity full",
    "alter table \"Odd one\".t add column word text",
    "alter type mood add value 'better'",
    "create table users (id bigint primary key, email text)",
    "alter publication kept_feed add table users",
    "create publication new_feed for table users",
    "select pg_create_logical_replication_slot('a_slot', 'pgoutput')",
    "select pg_drop_replication_slot('a_slot')",
];

#[tokio::test(flavor = "multi_thread")]
async fn dev_accepts_its_owner_only_and_a_folder_of_before_goes_on() {
    let permissions = std::fs::Permissions::from_mode(0o755);
    let dir = tempfile::Builder::new().permissions(permissions).tempdir().expect("a directory");
    let (base, folder) = (dir.path(), dir.path().join(".oncue"));
    std::fs::create_dir(&folder).expect("the folder of before");
    std::fs::write(folder.join("env"), "").expect("a file that all can read");
    std::fs::set_permissions(folder.join("env"), std::fs::Permissions::from_mode(0o644)).expect("it is open");
    leave_a_folder(&folder).await;
    std::fs::remove_file(folder.join("env")).expect("it ended");

    let health = free_address();
    let mut dev = start(base, health);
    let variables = variables(base, health, &mut dev).await;
    let (database, admin, nats) =
        (&variables["DATABASE_URL"], &variables["ADMIN_DATABASE_URL"], &variables["NATS_URL"]);
    for file in [folder.join("env"), folder.join("passwords"), folder.join("postgres/server.log")] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    for closed in [folder.join("postgres"), folder.join("nats")] {
        assert_eq!(mode(&closed), 0o700, "{}", closed.display());
    }
    for login in ["postgres", "postgres:postgres", "oncue_dev", "oncue_dev:x", "oncue", "root"] {
        let refused = PgConnection::connect(&format!("postgres://{login}@{}", place(database))).await;
        let error = refused.expect_err("nobody knows the password").to_string();
        assert!(error.contains("password"), "{login}: {error}");
    }
    assert!(async_nats::connect(format!("nats://{}", place(nats))).await.is_err(), "NATS wants a password, too");
    let word = nats.split_once("dev:").and_then(|(_, rest)| rest.split_once('@')).expect("user and password").0;
    let options = async_nats::ConnectOptions::with_user_and_password("dev".to_owned(), word.to_owned());
    let client = options.connect(format!("nats://{}", place(nats))).await.expect("its owner knows it");
    client.flush().await.expect("it answers");

    let mut connection = PgConnection::connect(database).await.expect("its owner knows the password");
    let node = "select rolsuper or rolcreatedb or rolbypassrls or current_user = 'oncue' from pg_roles \
                where rolname = current_user";
    assert!(!truth(&mut connection, node).await, "the node may only what it needs");
    for statement in WORK {
        let done = sqlx::raw_sql(statement).execute(&mut connection).await;
        done.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    assert!(truth(&mut connection, "select count(*) = 3 and min(word) = 'one' from words").await, "nothing is lost");
    assert!(truth(&mut connection, "select three() = 3").await);
    for statement in ["copy kept to program 'true'", "create role other superuser", "alter system set fsync = off"] {
        assert!(sqlx::raw_sql(statement).execute(&mut connection).await.is_err(), "{statement} is for superusers");
    }
    let mut superuser = PgConnection::connect(admin).await.expect("people may be superuser");
    assert!(truth(&mut superuser, "select rolsuper from pg_roles where rolname = current_user").await);
    let secrets = [database, admin, nats].map(|url| url.rsplit_once('@').expect("it has a password").0);
    let secrets = secrets.map(|login| login.rsplit_once(':').expect("it has a password").1.to_owned());
    check_the_program(base).await;
    stop(dev).await;

    let mut dev = start(base, health);
    let again = self::variables(base, health, &mut dev).await;
    assert_eq!(&again["DATABASE_URL"], database, "the address of another terminal stays good");
    let log = said(base);
    let server = std::fs::read_to_string(folder.join("postgres/server.log")).expect("the server's log");
    for secret in &secrets {
        assert!(!log.contains(secret) && !server.contains(secret), "a password is shown");
    }
    stop(dev).await;
}

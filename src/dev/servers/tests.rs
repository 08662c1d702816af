//! Real servers; nothing is skipped where a server is missing.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, ServerError, find_nats_server, find_postgres,
    process::{Signal, end_orphan, wait_until},
};

/// The variable that makes [`a_process_that_dies_with_its_servers`] start servers; it holds their directory.
const DIR: &str = "ONCUE_TEST_SERVERS_DIR";
const NATS: &str = "ONCUE_TEST_SERVERS_NATS";

/// A temporary directory that other users may enter, because Postgres does not run as root.
fn scratch() -> tempfile::TempDir {
    directory(0o755)
}

fn directory(mode: u32) -> tempfile::TempDir {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    tempfile::Builder::new().permissions(mode).tempdir().expect("a temporary directory")
}

fn postgres_in(dir: &Path) -> PostgresConfig {
    let bin = find_postgres(&Overrides::default()).expect("Postgres binaries");
    PostgresConfig { durable: false, ..PostgresConfig::new(bin, dir.join("postgres")) }
}

fn nats_in(dir: &Path) -> NatsConfig {
    let overrides = Overrides { nats_server: std::env::var_os(NATS).map(PathBuf::from), ..Overrides::default() };
    let program = find_nats_server(&overrides).expect("a nats-server");
    NatsConfig::new(program, dir.join("nats"))
}

/// What `psql` says to `sql`; nothing when there is no server.
fn query(url: &str, sql: &str) -> Option<String> {
    let psql = find_postgres(&Overrides::default()).expect("Postgres binaries").join("psql");
    let output = Command::new(psql).args(["-X", "-A", "-t", "-c", sql, url]).output().expect("psql runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first answer to a request in the protocol's own words: the tests need no client.
fn request(server: &PrivateNats, connect: &str, subject: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
    let words = format!("CONNECT {connect}\r\nSUB answer 1\r\nPUB {subject} answer {}\r\n{body}\r\n", body.len());
    stream.write_all(words.as_bytes()).expect("the request is sent");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut answer = lines.skip_while(|line| !line.starts_with("MSG") && !line.starts_with("-ERR"));
    let head = answer.next().expect("an answer");
    format!("{head} {}", answer.next().unwrap_or_default())
}

fn alive(pid: u32) -> bool {
    let status =
        Command::new("sh").args(["-c", "kill -0 \"$1\"", "sh", &pid.to_string()]).stderr(Stdio::null()).status();
    status.expect("a shell").success()
}

#[tokio::test]
async fn postgres_keeps_its_data_and_its_port_over_restarts_and_crashes() {
    let dir = scratch();
    let mut server = PrivatePostgres::start(postgres_in(dir.path())).await.expect("a server");
    let (url, first) = (server.url().to_owned(), server.pid());
    assert_eq!(query(&url, "show wal_level").as_deref(), Some("logical"));
    query(&url, "create table kept as select 'yes' as value").expect("a table");
    server.restart().await.expect("a restart");
    assert_ne!(server.pid(), first);
    server.stop_immediate().await;
    assert_eq!(query(&url, "select 1"), None, "it is stopped");
    server.restart().await.expect("a start after a crash");
    assert_eq!(query(&url, "select value from kept").as_deref(), Some("yes"));
    let pid = server.pid();
    server.stop().await;
    assert!(!alive(pid));
    let again = PrivatePostgres::start(postgres_in(dir.path())).await.expect("a second server in the directory");
    assert_eq!(query(again.url(), "select value from kept").as_deref(), Some("yes"));
    let pid = again.pid();
    drop(again);
    assert!(!alive(pid), "dropping stops it");
}

#[tokio::test]
async fn a_second_postgres_in_the_same_directory_is_refused() {
    let dir = scratch();
    let server = PrivatePostgres::start(postgres_in(dir.path())).await.expect("a server");
    let error = PrivatePostgres::start(postgres_in(dir.path())).await.expect_err("the directory is taken");
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    assert_eq!(query(server.url(), "select 'well'").as_deref(), Some("well"));
}

#[tokio::test]
async fn a_postgres_that_does_not_start_shows_its_last_words() {
    let dir = scratch();
    let mut config = postgres_in(dir.path());
    config.settings.push(("wal_level".to_owned(), "nonsense".to_owned()));
    let error = PrivatePostgres::start(config).await.expect_err("the setting is refused").to_string();
    assert!(error.contains("nonsense"), "{error}");
}

#[tokio::test]
async fn a_template_saves_the_second_initdb() {
    let dir = scratch();
    let config = |name: &str| PostgresConfig {
        template_dir: Some(dir.path().join("templates")),
        ..postgres_in(&dir.path().join(name))
    };
    let identifier = "select system_identifier from pg_control_system()";
    let first = PrivatePostgres::start(config("first")).await.expect("a server");
    let second = PrivatePostgres::start(config("second")).await.expect("a server from the template");
    let identifiers = (query(first.url(), identifier), query(second.url(), identifier));
    assert!(identifiers.0.is_some() && identifiers.0 == identifiers.1, "{identifiers:?}");
    assert_eq!(std::fs::read_dir(dir.path().join("templates")).expect("templates").count(), 1);
}

#[tokio::test]
async fn a_directory_that_the_server_cannot_enter_is_refused_to_root() {
    let dir = directory(0o700);
    let started = PrivatePostgres::start(postgres_in(dir.path())).await;
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).expect("it exists")) != 0 {
        return started.expect("an ordinary user enters its own directory").stop().await;
    }
    let error = started.expect_err("it is private to root");
    assert!(matches!(error, ServerError::Directory { .. }), "{error}");
}

#[tokio::test]
async fn a_long_path_costs_the_socket_only() {
    let dir = scratch();
    let server = PrivatePostgres::start(postgres_in(&dir.path().join("d".repeat(120)))).await.expect("a server");
    assert_eq!(query(server.url(), "show unix_socket_directories").as_deref(), Some(""));
}

#[tokio::test]
async fn nats_keeps_its_streams_and_its_port_over_restarts_and_crashes() {
    let dir = scratch();
    let mut server = PrivateNats::start(nats_in(dir.path())).await.expect("a server");
    let created = request(&server, "{}", "$JS.API.STREAM.CREATE.KEPT", r#"{"name":"KEPT"}"#);
    assert!(!created.contains("error"), "{created}");
    let url = server.url().to_owned();
    server.restart().await.expect("a restart");
    server.stop_immediate().await;
    server.restart().await.expect("a start after a kill");
    assert_eq!(server.url(), url);
    let found = request(&server, "{}", "$JS.API.STREAM.INFO.KEPT", "");
    assert!(!found.contains("error") && found.contains("KEPT"), "{found}");
    let pid = server.pid();
    server.stop().await;
    assert!(!alive(pid));
}

#[tokio::test]
async fn nats_takes_more_configuration() {
    let dir = scratch();
    let mut config = nats_in(dir.path());
    config.extra = "authorization { user: ann, password: secret }".to_owned();
    let server = PrivateNats::start(config.clone()).await.expect("a server");
    let refused = request(&server, "{}", "answer", "");
    assert!(refused.contains("Authorization Violation"), "{refused}");
    let answer = request(&server, r#"{"user":"ann","pass":"secret"}"#, "answer", "hello");
    assert!(answer.contains("hello"), "{answer}");
    server.stop().await;
    config.extra = "nonsense".to_owned();
    let error = PrivateNats::start(config).await.expect_err("the configuration is refused").to_string();
    assert!(error.contains("extra.conf"), "{error}");
}

#[tokio::test]
async fn an_orphan_is_ended_only_if_it_is_ours() {
    let sleep = |marker: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "read never", "sh", marker]).stdin(Stdio::piped());
        command.spawn().expect("a shell")
    };
    let (mut ours, mut other) = (sleep("/our/directory"), sleep("/another/one"));
    let pid = ours.id();
    end_orphan(other.id(), Path::new("/our/directory"), Signal::Quit).await;
    assert!(matches!(other.try_wait(), Ok(None)), "it is not ours");
    let reaped = tokio::task::spawn_blocking(move || ours.wait().expect("it can be awaited"));
    end_orphan(pid, Path::new("/our/directory"), Signal::Quit).await;
    assert!(!reaped.await.expect("the thread ends").success());
    other.kill().expect("it still runs");
    other.wait().expect("it can be awaited");
}

/// Not a test by itself: the two below run it as another process. It ends without any clean-up.
#[tokio::test]
async fn a_process_that_dies_with_its_servers() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let postgres = PrivatePostgres::start(postgres_in(&dir)).await.expect("a Postgres");
    let nats = PrivateNats::start(nats_in(&dir)).await.expect("a nats-server");
    std::fs::write(dir.join("pids"), format!("{} {}", postgres.pid(), nats.pid())).expect("the ids");
    std::process::abort();
}

async fn expect_no_orphans(mut command: Command, dir: &Path) {
    command.args(["--exact", "--nocapture"]).arg("dev::servers::tests::a_process_that_dies_with_its_servers");
    let status = command.env(DIR, dir).stdout(Stdio::null()).status().expect("the other process");
    assert!(!status.success(), "it aborts");
    let pids = std::fs::read_to_string(dir.join("pids")).expect("it got as far as two running servers");
    for pid in pids.split(' ').map(|pid| pid.parse().expect("a number")) {
        assert!(wait_until(Duration::from_secs(10), || !alive(pid)).await, "{pid} outlived its parent");
    }
}

#[tokio::test]
async fn servers_die_with_a_process_that_aborts() {
    let dir = scratch();
    let this = std::env::current_exe().expect("the test program");
    expect_no_orphans(Command::new(this), dir.path()).await;
}

#[tokio::test]
async fn servers_run_and_die_for_an_ordinary_user_too() {
    let dir = scratch();
    // An ordinary user may be unable to reach where these are, so they come along.
    let (this, nats) = (dir.path().join("this"), dir.path().join("nats-server"));
    std::fs::copy(std::env::current_exe().expect("the test program"), &this).expect("a copy");
    std::fs::copy(find_nats_server(&Overrides::default()).expect("a nats-server"), &nats).expect("a copy");
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&this).expect("the copy")) == 0;
    let command = if is_root {
        let owned = Command::new("chown").args(["-R", "nobody"]).arg(dir.path()).status().expect("chown");
        assert!(owned.success());
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(this);
        command
    } else {
        Command::new(this)
    };
    let mut command = command;
    command.env(NATS, nats).current_dir(dir.path());
    expect_no_orphans(command, dir.path()).await;
}

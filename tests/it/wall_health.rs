//! The health port answers while somebody holds on to it: half requests, thousands of connections, giant heads, and
//! when no file descriptor is left.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::process::{Process, manifest};
use crate::support::{Node, World, eventually};

/// Open at once on the side of the attacker, many times what the port holds.
const HELD: usize = 400;

async fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nx-slow: ").await.expect("half of it is sent");
    stream
}

/// What the port says until it closes the connection.
async fn said(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await;
    // A reset is an end, too.
    drop(read.expect("it is closed"));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_half_requests_keep_no_probe_waiting() {
    let world = World::start().await;
    let node = Node::start(&world, "one").await;
    let mut held = VecDeque::new();
    for n in 0..10_000 {
        held.push_back(half_a_request(node.health).await);
        if held.len() > HELD {
            held.pop_front();
        }
        if n % 500 == 0 {
            eventually("it answers", async || node.is_ready().await).await;
        }
    }
    let last = held.back_mut().expect("the last one");
    assert!(!said(last).await.contains("200 OK"), "half a request is no request");
    let mut giant = TcpStream::connect(node.health).await.expect("a connection");
    giant.write_all(b"GET /readyz HTTP/1.1\r\n").await.expect("the first line is sent");
    // It is closed while the header is still coming.
    let header = format!("x-giant: {}\r\n", "x".repeat(1 << 20));
    let sent = giant.write_all(header.as_bytes()).await;
    let answer = said(&mut giant).await;
    assert!(answer.contains("431") || sent.is_err() || answer.is_empty(), "{answer}");
    assert!(node.is_ready().await);
    node.stop().await;
}

/// The lowest number that a new descriptor would get.
fn lowest_free(pid: u32) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let used: BTreeSet<usize> = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|n| !used.contains(n)).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_when_every_other_descriptor_is_used_up() {
    let world = World::start().await;
    let node = Process::start(&world, "one").await;
    let limit = lowest_free(node.pid());
    let set = tokio::process::Command::new("prlimit")
        .args([format!("--pid={}", node.pid()), format!("--nofile={limit}:{limit}")])
        .status()
        .await;
    assert!(set.expect("prlimit runs").success(), "the limit is set");
    for n in 0..20 {
        let answer = tokio::time::timeout(Duration::from_secs(60), crate::support::node::get(node.health, "/readyz"));
        assert!(answer.await.is_ok_and(|answer| answer.is_some()), "question {n}");
    }
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_below_the_settings_is_a_warning_at_the_start() {
    let world = World::start().await;
    let (manifest, _) = manifest(&world, "one", "");
    let mut node = tokio::process::Command::new("prlimit")
        .args(["--nofile=160:160", "--", env!("CARGO_BIN_EXE_oncue"), "serve", "--config"])
        .arg(manifest)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    let mut lines = BufReader::new(node.stderr.take().expect("it is piped")).lines();
    let find = async {
        while let Some(line) = lines.next_line().await.expect("lines are text") {
            if line.contains("raise `ulimit -n`") {
                return line;
            }
        }
        panic!("it ended without a warning");
    };
    let line = tokio::time::timeout(Duration::from_secs(60), find).await.expect("it warns");
    assert!(line.contains("limit=160"), "{line}");
    node.kill().await.expect("it is killed");
}

//! What the suites share: private servers, nodes, functions made on the spot, and waiting for conditions.

pub mod batches;
pub mod broker;
pub mod bureau;
pub mod checker;
pub mod feeds;
pub mod functions;
pub mod history;
pub mod kafka;
pub mod node;
pub mod partitions;
pub mod process;
pub mod raw;
pub mod records;
pub mod seeded;
pub mod settlements;
pub mod tls;
pub mod topics;
pub mod world;

use std::time::Duration;

use tokio::time::Instant;

pub use node::Node;
pub use world::World;

/// Long enough for a busy machine; whatever takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// Waits until `condition` gives a value.
///
/// # Panics
/// After `within`, with `what` was waited for.
pub async fn eventually_within<T>(within: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits patiently until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, async || condition().await.then_some(())).await;
}

/// Says how far a long test is.
#[expect(clippy::print_stderr, reason = "the reader of a failed test's output wants to know when it was where")]
pub fn progress(began: Instant, what: &str) {
    eprintln!("{:6.1} s: {what}", began.elapsed().as_secs_f64());
}

/// Says that a part was not run, so that nothing is skipped silently.
#[expect(clippy::print_stderr, reason = "the reader of the test's output must see it")]
pub fn not_run(what: &str, why: &str) {
    eprintln!("NOT RUN: {what}: {why}");
}

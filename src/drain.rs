//! Cancellation and task tracking: the only way to spawn, and the order in which a node ends.
//!
//! Invariant: every task has a name and is awaited by [`Drain::finish`]; one that panics is logged with its name and
//! trips [`Drain::failed`]. Tasks are told to end, never aborted: what a task does when told is its own business.

use std::{
    collections::BTreeMap,
    fmt, io,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The phases of the end, as a task sees them. `quit` implies the two others.
#[derive(Clone, Debug)]
pub struct Token {
    /// Read nothing more; finish what is in flight, then end.
    pub stop_reading: CancellationToken,
    /// All work is finished: services that show or help the work (health, upkeep, signals) end.
    pub finished: CancellationToken,
    /// End now, whatever is in flight.
    pub quit: CancellationToken,
}

/// Tasks that had not ended when the time was over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} not finished in time: {}", if names.len() == 1 { "task" } else { "tasks" }, names.join(", "))]
pub struct Unfinished {
    /// Their names, sorted; of one that several have, how many: `delivery (12)`.
    pub names: Vec<String>,
}

/// Spawns, tells to end, awaits. Clones share everything.
#[derive(Clone, Debug)]
pub struct Drain {
    token: Token,
    work: Arc<Tasks>,
    services: Arc<Tasks>,
    failure: Arc<Failure>,
}

#[derive(Debug, Default)]
struct Tasks {
    tracker: TaskTracker,
    /// How many of each name.
    running: Mutex<BTreeMap<Arc<str>, usize>>,
}

#[derive(Debug, Default)]
struct Failure {
    seen: CancellationToken,
    name: OnceLock<Arc<str>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Nothing spawned, nothing told.
    #[must_use]
    pub fn new() -> Self {
        let quit = CancellationToken::new();
        let token = Token { stop_reading: quit.child_token(), finished: quit.child_token(), quit };
        Self { token, work: Arc::default(), services: Arc::default(), failure: Arc::default() }
    }

    /// The phases, for a task to watch.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token.clone()
    }

    /// That of `token`, for those who ask often.
    #[must_use]
    pub fn stop_reading_token(&self) -> &CancellationToken {
        &self.token.stop_reading
    }

    /// Spawns a task that works on events; it ends by itself after `stop_reading`.
    pub fn spawn<F>(&self, name: impl Into<Arc<str>>, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_in(&self.work, name.into(), future)
    }

    /// Spawns a task that goes on while others finish (health, upkeep, signals); it ends after `finished`.
    pub fn spawn_service<F>(&self, name: impl Into<Arc<str>>, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_in(&self.services, name.into(), future)
    }

    fn spawn_in<F>(&self, tasks: &Arc<Tasks>, name: Arc<str>, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let entry = Entry::new(tasks, Arc::clone(&name));
        let failure = Arc::clone(&self.failure);
        tasks.tracker.spawn(async move {
            let _entry = entry;
            // The future is dropped right after a panic, so nobody sees what it left half done in itself.
            if let Err(panic) = AssertUnwindSafe(future).catch_unwind().await {
                tracing::error!(task = %name, error = crate::telemetry::panic_text(&*panic), "task panicked");
                failure.name.get_or_init(|| name);
                failure.seen.cancel();
            }
        })
    }

    /// Begins the drain: nothing more is read.
    pub fn stop_reading(&self) {
        self.token.stop_reading.cancel();
    }

    /// Ends everything now.
    pub fn quit(&self) {
        self.token.quit.cancel();
    }

    /// Waits for the first task that panics and gives its name; for ever if none does.
    pub async fn failed(&self) -> Arc<str> {
        self.failure.seen.cancelled().await;
        self.failure.name.get().cloned().unwrap_or_default()
    }

    /// Waits until all work has ended, then tells the services, and waits for them.
    ///
    /// # Errors
    /// [`Unfinished`] when that takes longer than `timeout`. Everything that has not ended still runs then:
    /// [`quit`](Self::quit) and finish again.
    pub async fn finish(&self, timeout: Duration) -> Result<(), Unfinished> {
        let deadline = Instant::now() + timeout;
        self.work.ended(deadline).await?;
        self.token.finished.cancel();
        self.services.ended(deadline).await
    }

    /// SIGTERM or SIGINT: the first one stops reading, the second one quits. Signals are caught from this call on;
    /// the future is a service and ends when the drain is finished.
    ///
    /// # Errors
    /// The system refuses to catch a signal.
    pub fn signals(&self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        Ok(async move {
            for act in [Self::on_first_signal, Self::on_second_signal] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    () = drain.token.finished.cancelled() => return,
                }
                act(&drain);
            }
        })
    }

    fn on_first_signal(&self) {
        tracing::info!("stopping: finishing what is in flight; a second signal quits at once");
        self.stop_reading();
    }

    fn on_second_signal(&self) {
        tracing::warn!("second signal: quitting now");
        self.quit();
    }
}

impl Tasks {
    async fn ended(&self, deadline: Instant) -> Result<(), Unfinished> {
        self.tracker.close();
        let waited = timeout_at(deadline, self.tracker.wait()).await;
        waited.map_err(|_| {
            let name = |(name, count): (&Arc<str>, &usize)| match count {
                1 => name.to_string(),
                count => format!("{name} ({count})"),
            };
            Unfinished { names: self.names().iter().map(name).collect() }
        })
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task's name among the running ones, for as long as the task exists (an aborted one, too).
struct Entry {
    tasks: Arc<Tasks>,
    name: Arc<str>,
}

impl Entry {
    fn new(tasks: &Arc<Tasks>, name: Arc<str>) -> Self {
        {
            let mut names = tasks.names();
            match names.get_mut(&name) {
                Some(count) => *count += 1,
                None => drop(names.insert(Arc::clone(&name), 1)),
            }
        }
        Self { tasks: Arc::clone(tasks), name }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut names = self.tasks.names();
        if let Some(count) = names.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(&self.name);
            }
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn work_ends_before_services_do() {
        let drain = Drain::new();
        let token = drain.token();
        let (sender, mut order) = tokio::sync::mpsc::channel(2);
        let worker = sender.clone();
        drain.spawn("worker", async move {
            token.stop_reading.cancelled().await;
            assert!(!token.finished.is_cancelled());
            worker.send("work").await.expect("the test listens");
        });
        let token = drain.token();
        drain.spawn_service("service", async move {
            token.finished.cancelled().await;
            sender.send("service").await.expect("the test listens");
        });
        drain.stop_reading();
        drain.finish(LONG).await.expect("both end");
        assert_eq!((order.recv().await, order.recv().await), (Some("work"), Some("service")));
        assert!(!drain.token().quit.is_cancelled());
    }

    #[tokio::test]
    async fn tasks_that_do_not_end_are_named_and_quit_ends_them() {
        let drain = Drain::new();
        drain.spawn("short", async {}).await.expect("it ends");
        for name in ["trigger users", "settler", "delivery", "delivery"] {
            let quit = drain.token().quit;
            drain.spawn(name, async move { quit.cancelled().await });
        }
        drain.stop_reading();
        let unfinished = drain.finish(Duration::ZERO).await.expect_err("four tasks go on");
        assert_eq!(unfinished.to_string(), "tasks not finished in time: delivery (2), settler, trigger users");
        drain.quit();
        assert!(drain.token().stop_reading.is_cancelled() && drain.token().finished.is_cancelled());
        drain.finish(LONG).await.expect("they quit");
    }

    #[tokio::test]
    async fn a_panic_is_known_by_its_task_and_ends_no_other() {
        let drain = Drain::new();
        let quit = drain.token().quit;
        drain.spawn("bystander", async move { quit.cancelled().await });
        drain.spawn(format!("lane {}", 7), async { panic!("on purpose") });
        assert_eq!(&*drain.failed().await, "lane 7");
        let unfinished = drain.finish(Duration::ZERO).await.expect_err("the bystander goes on");
        assert_eq!(unfinished.names, ["bystander"]);
        drain.quit();
    }

    #[tokio::test]
    async fn an_aborted_task_is_not_waited_for() {
        let drain = Drain::new();
        let handle = drain.spawn("stuck", std::future::pending());
        handle.abort();
        drain.finish(LONG).await.expect("nothing is left");
    }

    #[tokio::test]
    async fn the_first_signal_stops_reading_and_the_second_quits() {
        let drain = Drain::new();
        drain.spawn_service("signals", drain.signals().expect("signals can be caught"));
        let raise = |name: &str| {
            let pid = std::process::id().to_string();
            let sent = std::process::Command::new("sh").args(["-c", "kill -s $1 $2", "sh", name, &pid]).status();
            assert!(sent.expect("a shell").success());
        };
        raise("TERM");
        drain.token().stop_reading.cancelled().await;
        assert!(!drain.token().quit.is_cancelled());
        raise("INT");
        drain.token().quit.cancelled().await;
        drain.finish(LONG).await.expect("the service ended");
    }

    #[tokio::test]
    async fn without_a_signal_the_service_ends_with_the_work() {
        let drain = Drain::new();
        drain.spawn_service("signals", drain.signals().expect("signals can be caught"));
        drain.finish(LONG).await.expect("it ends");
    }
}

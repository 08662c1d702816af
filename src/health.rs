//! Health: what the node depends on, and `/livez`, `/readyz`, `/metrics` over HTTP.
//!
//! Invariant: ready means that the store is up, every trigger that should run runs, and no drain has begun; whatever
//! makes it false is in the answer with its reason and since when. Reporting the same state again changes nothing.
//! Nothing is probed here: the parts report. Reasons are shown to everybody who can reach the port, so they hold no
//! secrets.

mod descriptors;
mod server;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use time::OffsetDateTime;

use crate::telemetry;

pub use self::descriptors::warn_if_few;
pub use self::server::{HealthServer, ListenError};

/// Longer than any pause of a healthy process, shorter than the patience of an orchestrator.
const BEAT_STALE: Duration = Duration::from_secs(10);

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerState {
    /// An operator paused it: as it should be.
    Paused,
    /// It reads.
    Active,
    /// Another node reads; this one waits to take over.
    Standby,
    /// It should read, messages wait, and nothing comes.
    Stalled,
    /// The source no longer has a range that was not read.
    Gap,
    /// It cannot read and tries again.
    Error,
}

impl TriggerState {
    /// As answers and logs name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Active => "active",
            Self::Standby => "standby",
            Self::Stalled => "stalled",
            Self::Gap => "gap",
            Self::Error => "error",
        }
    }

    /// As the metric shows it.
    fn code(self) -> u8 {
        match self {
            Self::Paused => 0,
            Self::Active => 1,
            Self::Stalled => 2,
            Self::Gap => 3,
            Self::Error => 4,
            Self::Standby => 5,
        }
    }

    fn is_well(self) -> bool {
        matches!(self, Self::Paused | Self::Active | Self::Standby)
    }
}

/// One thing that the node depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// `store`, `rules`, `bus/NAME` or `trigger/NAME`.
    pub component: String,
    /// `up`, `down`, `loading` or the name of a [`TriggerState`].
    pub state: &'static str,
    /// Why, when not all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is in this state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Whether this alone makes the node unready.
    pub blocks: bool,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the node does all of its work.
    pub ready: bool,
    /// Whether a drain has begun.
    pub draining: bool,
    /// All components, by name.
    pub components: Vec<Component>,
}

/// What the parts of the node report. Clones share everything.
#[derive(Clone, Debug)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    components: RwLock<BTreeMap<String, Component>>,
    draining: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the last beat.
    beat: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A node that has not reached its store yet, and so is not ready.
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            components: RwLock::default(),
            draining: AtomicBool::new(false),
            started: Instant::now(),
            beat: AtomicU64::new(0),
        };
        let health = Self { shared: Arc::new(shared) };
        health.store_down("not connected yet");
        health
    }

    /// The store answers.
    pub fn store_up(&self) {
        telemetry::store_up(true);
        self.report("store".to_owned(), "up", None, false);
    }

    /// The store does not answer.
    pub fn store_down(&self, reason: &str) {
        telemetry::store_up(false);
        self.report("store".to_owned(), "down", Some(reason), true);
    }

    /// The rules were not loaded yet: nothing is known of triggers.
    pub fn rules_loading(&self) {
        self.report("rules".to_owned(), "loading", Some("not loaded yet"), true);
    }

    /// Rules were loaded, and the triggers that they came with report for themselves.
    pub fn rules_loaded(&self) {
        self.report("rules".to_owned(), "up", None, false);
    }

    /// A bus is connected.
    pub fn bus_up(&self, bus: &str) {
        telemetry::bus_up(bus, true);
        self.report(format!("bus/{bus}"), "up", None, false);
    }

    /// A bus is not connected. It makes the node unready only through the triggers that need it: what cannot be
    /// published is parked.
    pub fn bus_down(&self, bus: &str, reason: &str) {
        telemetry::bus_up(bus, false);
        self.report(format!("bus/{bus}"), "down", Some(reason), false);
    }

    /// What a trigger does, and why if not all is well.
    pub fn trigger(&self, trigger: &str, state: TriggerState, reason: Option<&str>) {
        telemetry::trigger_state(trigger, state.code());
        self.report(format!("trigger/{trigger}"), state.name(), reason, !state.is_well());
    }

    /// A trigger does not exist any more.
    pub fn forget_trigger(&self, trigger: &str) {
        let mut components = self.shared.components.write().unwrap_or_else(PoisonError::into_inner);
        components.remove(&format!("trigger/{trigger}"));
    }

    /// A drain has begun.
    pub fn draining(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// The whole picture.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let components = self.shared.components.read().unwrap_or_else(PoisonError::into_inner);
        let components: Vec<Component> = components.values().cloned().collect();
        let draining = self.shared.draining.load(Ordering::Relaxed);
        let ready = !draining && !components.iter().any(|component| component.blocks);
        Readiness { ready, draining, components }
    }

    /// A change is logged; `since` stays as long as the state does.
    fn report(&self, component: String, state: &'static str, reason: Option<&str>, blocks: bool) {
        let mut components = self.shared.components.write().unwrap_or_else(PoisonError::into_inner);
        let before = components.get(&component);
        if before.is_some_and(|before| before.state == state && before.reason.as_deref() == reason) {
            return;
        }
        let same = before.filter(|before| before.state == state);
        let since = same.map_or_else(OffsetDateTime::now_utc, |before| before.since);
        if same.is_none() && (blocks || reason.is_some()) {
            tracing::warn!(component, state, reason, "not well");
        } else if same.is_none() {
            tracing::info!(component, state, reason, "health changed");
        }
        let reason = reason.map(str::to_owned);
        components.insert(component.clone(), Component { component, state, reason, since, blocks });
    }

    fn beat(&self) {
        let millis = self.shared.started.elapsed().as_millis();
        self.shared.beat.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_alive(&self, at: Instant) -> bool {
        let beat = self.shared.started + Duration::from_millis(self.shared.beat.load(Ordering::Relaxed));
        at.saturating_duration_since(beat) <= BEAT_STALE
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::drain::Drain;

    async fn start(health: &Health, drain: &Drain) -> SocketAddr {
        let server = HealthServer::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let addr = server.addr();
        let run = server.run(health.clone(), telemetry::install_metrics(), drain.token().finished);
        drain.spawn_service("health", run);
        addr
    }

    async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        (status, body.to_owned())
    }

    #[tokio::test]
    async fn ready_follows_the_store_the_triggers_and_the_drain() {
        let (health, drain) = (Health::new(), Drain::new());
        let addr = start(&health, &drain).await;
        let steps: [(&str, &dyn Fn(), u16, &str); 9] = [
            ("at the start", &|| {}, 503, r#""reason":"not connected yet""#),
            ("the store is up", &|| health.store_up(), 200, r#"{"component":"store","state":"up""#),
            ("a trigger fails", &|| health.trigger("a", TriggerState::Error, Some("no stream")), 503, "no stream"),
            ("a trigger runs", &|| health.trigger("a", TriggerState::Active, None), 200, "trigger/a"),
            ("a trigger is paused", &|| health.trigger("b", TriggerState::Paused, None), 200, "paused"),
            ("a bus is down", &|| health.bus_down("events", "refused"), 200, r#""reason":"refused""#),
            ("a trigger stalls", &|| health.trigger("b", TriggerState::Stalled, None), 503, "stalled"),
            ("that trigger is removed", &|| health.forget_trigger("b"), 200, r#""ready":true"#),
            ("a drain begins", &|| health.draining(), 503, r#""draining":true"#),
        ];
        for (step, act, expected, text) in steps {
            act();
            let (status, body) = get(addr, "/readyz").await;
            assert_eq!(status, expected, "{step}: {body}");
            assert!(body.contains(text), "{step}: {body}");
            let _: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        }
        drain.finish(Duration::from_secs(10)).await.expect("the server ends");
    }

    #[tokio::test]
    async fn metrics_show_what_was_reported_and_livez_is_well() {
        let (health, drain) = (Health::new(), Drain::new());
        let addr = start(&health, &drain).await;
        health.trigger("health-test", TriggerState::Gap, Some("messages were deleted"));
        let (status, body) = get(addr, "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("oncue_trigger_state{trigger=\"health-test\"} 3"), "{body}");
        assert_eq!(get(addr, "/livez").await, (200, "ok\n".to_owned()));
        assert_eq!(get(addr, "/").await.0, 404);
        drain.quit();
        drain.finish(Duration::from_secs(10)).await.expect("the server ends");
    }

    #[tokio::test]
    async fn an_idle_client_does_not_hold_up_the_end() {
        let (health, drain) = (Health::new(), Drain::new());
        let addr = start(&health, &drain).await;
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(b"GET /livez HT").await.expect("half a request is sent");
        drain.finish(Duration::from_secs(10)).await.expect("the server ends");
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_fix() {
        let server = HealthServer::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let error = HealthServer::bind(server.addr()).await.expect_err("it is taken").to_string();
        assert!(error.contains(&server.addr().to_string()) && error.contains("another address"), "{error}");
    }

    #[test]
    fn the_heartbeat_is_stale_after_ten_seconds() {
        let health = Health::new();
        let now = Instant::now();
        health.beat();
        assert!(health.is_alive(now + Duration::from_secs(9)));
        assert!(!health.is_alive(now + Duration::from_secs(12)));
    }

    #[test]
    fn since_is_when_the_state_began() {
        let health = Health::new();
        let first = health.readiness().components[0].since;
        health.store_down("connection refused");
        let second = &health.readiness().components[0];
        assert_eq!((second.since, second.reason.as_deref()), (first, Some("connection refused")));
        health.store_up();
        assert!(health.readiness().components[0].since >= first);
    }
}

//! The states of the buses in health and metrics.
//!
//! Invariant: a bus that nothing else tells about is asked, seldom: an idle node costs a source next to nothing.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::bus::kafka::KafkaBus;
use crate::bus::nats::NatsBus;
use crate::bus::postgres::PostgresBus;
use crate::drain::Drain;
use crate::health::Health;
use crate::telemetry;

/// How often a bus is asked whether it is there.
const PING: Duration = Duration::from_secs(10);

/// Shows what a connection to NATS goes through.
pub(super) fn watch_nats(name: &str, bus: &NatsBus, health: &Health, drain: &Drain) {
    let (name, mut state) = (name.to_owned(), bus.state.clone());
    let (health, finished) = (health.clone(), drain.token().finished);
    drain.spawn_service(format!("watch of bus {name}"), async move {
        let mut reconnects = 0;
        loop {
            let now = *state.borrow_and_update();
            telemetry::bus_up(&name, now.up);
            if now.up {
                health.bus_up(&name);
            } else {
                health.bus_down(&name, "not connected");
            }
            if now.reconnects > reconnects {
                reconnects = now.reconnects;
                telemetry::reconnected(&name);
            }
            tokio::select! {
                () = finished.cancelled() => return,
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    });
}

/// Asks a Postgres from time to time whether it is there: nothing tells of a connection that is idle.
pub(super) fn watch_postgres(bus: &PostgresBus, health: &Health, drain: &Drain) {
    let name = bus.name().to_owned();
    let bus = bus.clone();
    let ping = move || {
        let bus = bus.clone();
        async move { bus.ping().await.map_err(|error| error.to_string()) }
    };
    watch(name, ping, health, drain);
}

/// Asks a Kafka cluster from time to time: its clients connect again by themselves and tell nobody.
pub(super) fn watch_kafka(bus: &KafkaBus, health: &Health, drain: &Drain) {
    let name = bus.name().to_owned();
    let bus = bus.clone();
    let ping = move || {
        let bus = bus.clone();
        async move { bus.ping().await.map(drop).map_err(|error| error.to_string()) }
    };
    watch(name, ping, health, drain);
}

fn watch<P, F>(name: String, ping: P, health: &Health, drain: &Drain)
where
    P: Fn() -> F + Send + 'static,
    F: Future<Output = Result<(), String>> + Send,
{
    let (health, finished) = (health.clone(), drain.token().finished);
    drain.spawn_service(format!("watch of bus {name}"), async move {
        let mut tick = tokio::time::interval(PING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_up = true;
        loop {
            tokio::select! {
                () = finished.cancelled() => return,
                _ = tick.tick() => {}
            }
            let answer = tokio::select! {
                () = finished.cancelled() => return,
                answer = ping() => answer,
            };
            telemetry::bus_up(&name, answer.is_ok());
            match answer {
                Ok(()) => {
                    health.bus_up(&name);
                    if !std::mem::replace(&mut was_up, true) {
                        tracing::info!(bus = name, "bus connected again");
                        telemetry::reconnected(&name);
                    }
                }
                Err(error) => {
                    health.bus_down(&name, &error);
                    if std::mem::replace(&mut was_up, false) {
                        tracing::warn!(bus = name, %error, "bus is not reachable; trying again until it is");
                    }
                }
            }
        }
    });
}

//! The WAL guard: watches what the slot keeps, presses before it hurts, and says so.
//!
//! Invariant: it drops nothing and moves nothing. It tells deliveries how much the source suffers, tells the log at each
//! change of level, and ends the stream when the slot is lost, so that the gap is recorded (CONTRACT.md,
//! "Back-pressure"), or when the publication is gone, another one, or lacks a table: the stream itself says nothing of a
//! table that was renamed, and from Postgres 18 on nothing of a publication that is gone. A slot may go from `reserved` straight to `lost` (seen), so levels go by bytes.

use std::time::Duration;

use crate::bus::postgres::Slot;
use crate::dispatch::ownership::Pressure;
use crate::telemetry;
use crate::triggers::Failure;

use super::{Follower, Holding, bind::Bound};

/// How often the slot is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// The same while it is under pressure.
const EVERY_PRESSED: Duration = Duration::from_secs(2);
/// Amber where the server sets no bound.
const AMBER_UNBOUNDED: u64 = 1 << 30;
/// Red where the server sets no bound.
const RED_UNBOUNDED: u64 = 10 << 30;

/// Watches until the slot is lost, or the publication is not what it was.
pub(super) async fn watch(follower: &Follower, held: &Holding, bound: &Bound) -> Failure {
    let name = &follower.context.name;
    let slot_name = follower.spec.slot(name);
    let mut sound = bound.feed.settled_lsn;
    loop {
        // What is settled now was decoded with a publication that is only looked at after it.
        let settled = held.line.settled();
        match follower.bus.slot(&slot_name).await {
            Ok(Some(slot)) => {
                if let Some(why) = slot.lost() {
                    let reason = format!("the slot \"{slot_name}\" is invalid ({why})");
                    return follower.gap(Some(held.line.settled()), None, reason).await;
                }
                tell(follower, held, &slot);
                if let Err(failure) = follower.look_at_publication(&bound.feed, &bound.server, sound).await {
                    return failure;
                }
                sound = settled;
            }
            Ok(None) => {
                let reason = format!("the slot \"{slot_name}\" is gone");
                return follower.gap(Some(held.line.settled()), None, reason).await;
            }
            // The stream notices by itself when the server is away.
            Err(error) => tracing::debug!(trigger = %name, %error, "cannot look at the slot"),
        }
        let pressed = held.tenure.ownership.pressure() > Pressure::Green;
        tokio::time::sleep(if pressed { EVERY_PRESSED } else { EVERY }).await;
    }
}

fn tell(follower: &Follower, held: &Holding, slot: &Slot) {
    let name = &follower.context.name;
    telemetry::slot(name, slot.retained, slot.safe_wal_size);
    let now = level(slot);
    let before = held.tenure.ownership.pressure();
    if now == before {
        return;
    }
    held.tenure.ownership.press(now);
    telemetry::wal_pressure(name, now as u8);
    let (slot_name, retained) = (&slot.name, slot.retained);
    match now {
        Pressure::Green => {
            tracing::info!(trigger = %name, slot = slot_name, retained_wal_bytes = retained, "the slot's WAL is back in bounds");
        }
        Pressure::Amber => tracing::warn!(
            trigger = %name, slot = slot_name, retained_wal_bytes = retained, safe_wal_size = slot.safe_wal_size,
            "the slot keeps much WAL: failures are parked at once; see `oncue doctor`"
        ),
        Pressure::Red => tracing::error!(
            trigger = %name, slot = slot_name, retained_wal_bytes = retained, safe_wal_size = slot.safe_wal_size,
            "the slot is about to be lost: what is slow is parked unrun so that it moves; see `oncue doctor`"
        ),
    }
}

/// By what is kept and what may still be written: amber above a quarter of the bound, red above 60 % of it.
pub(super) fn level(slot: &Slot) -> Pressure {
    let retained = slot.retained;
    let Some(safe) = slot.safe_wal_size else {
        return match retained {
            n if n > RED_UNBOUNDED => Pressure::Red,
            n if n > AMBER_UNBOUNDED => Pressure::Amber,
            _ => Pressure::Green,
        };
    };
    let bound = retained.saturating_add(u64::try_from(safe).unwrap_or(0));
    match retained {
        n if n > bound / 5 * 3 => Pressure::Red,
        n if n > bound / 4 || n > AMBER_UNBOUNDED => Pressure::Amber,
        _ => Pressure::Green,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_by_bytes_and_not_by_what_the_server_calls_the_slot() {
        const GIB: u64 = 1 << 30;
        let slot = |retained: u64, safe_wal_size: Option<i64>| Slot {
            name: "s".to_owned(),
            plugin: None,
            slot_type: "logical".to_owned(),
            database: None,
            temporary: false,
            active_pid: None,
            restart_lsn: None,
            confirmed_flush: None,
            wal_status: Some("reserved".to_owned()),
            safe_wal_size,
            retained,
            failover: false,
            synced: false,
            invalidation: None,
            inactive_since: None,
        };
        let table = [
            // The bound is what is kept and what may still be written.
            (10 << 20, Some(90 << 20), Pressure::Green),
            (26 << 20, Some(74 << 20), Pressure::Amber),
            (61 << 20, Some(39 << 20), Pressure::Red),
            (100 << 20, Some(-1), Pressure::Red),
            (2 * GIB, Some(98 << 30), Pressure::Amber),
            (GIB / 2, None, Pressure::Green),
            (2 * GIB, None, Pressure::Amber),
            (11 * GIB, None, Pressure::Red),
            (0, Some(0), Pressure::Green),
        ];
        for (retained, safe, expected) in table {
            assert_eq!(level(&slot(retained, safe)), expected, "{retained} kept, {safe:?} safe");
        }
    }
}

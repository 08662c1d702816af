//! Retries: claims parked deliveries when they are due and runs them.
//!
//! Invariant: no more is claimed than there is credit for, and a claim is renewed for as long as its delivery runs
//! here. While nothing is parked, nothing is asked.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;

/// How long a claim holds without being renewed: after that another node takes over.
const LEASE: Duration = Duration::from_secs(45);
/// How often claims are renewed.
const RENEW: Duration = Duration::from_secs(15);
/// Most claims at once.
const CLAIMS: u32 = 128;
/// Least time between two questions that found nothing.
const IDLE: Duration = Duration::from_secs(1);

/// Claims and runs until reading stops.
pub(super) async fn run(shared: Shared) {
    let stop = shared.drain.token().stop_reading;
    shared.drain.spawn_service("claim renewal", renew(shared.clone()));
    let mut parked = shared.dispatcher.parked();
    let mut not_before = Instant::now();
    let mut store_up = shared.dispatcher.settler().store_up();
    loop {
        let due = *parked.borrow_and_update();
        let wait = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.max(not_before)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = parked.changed() => if changed.is_err() { return } else { continue },
            () = wait => {}
        }
        shared.dispatcher.forget_due(due);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            up = store_up.wait_for(|up| *up) => if up.is_err() { return },
        }
        let claimed = claim(&shared).await;
        if claimed == CLAIMS as usize {
            shared.dispatcher.due_in_ms(Some(0));
        }
        not_before = Instant::now() + if claimed == 0 { IDLE } else { Duration::from_millis(20) };
    }
}

async fn claim(shared: &Shared) -> usize {
    let mut credit = shared.budget.reserve(CLAIMS, u64::from(CLAIMS) << 10).await;
    let limit = u32::try_from(credit.events()).unwrap_or(CLAIMS);
    let claims = match shared.store.claim_parked(&shared.name, limit, LEASE).await {
        Ok(claims) => claims,
        Err(error) => {
            tracing::warn!(%error, "cannot claim parked deliveries");
            return 0;
        }
    };
    let count = claims.len();
    for claim in claims {
        let Some(part) = credit.split(claim.event.len() as u64) else { break };
        shared.dispatcher.retry(claim, part).await;
    }
    count
}

async fn renew(shared: Shared) {
    let finished = shared.drain.token().finished;
    let mut tick = tokio::time::interval(RENEW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = finished.cancelled() => return,
            _ = tick.tick() => {}
        }
        let claims = shared.dispatcher.claims();
        if claims.is_empty() {
            continue;
        }
        if let Err(error) = shared.store.renew_claims(&claims, LEASE).await {
            tracing::warn!(%error, claims = claims.len(), "cannot renew claims; others may take them over");
        }
    }
}

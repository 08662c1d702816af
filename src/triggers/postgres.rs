//! Postgres change feeds.

pub mod change;
pub mod pgoutput;

use crate::bus::postgres::PostgresBus;

use super::{Context, Failure, PostgresSpec};

/// Runs the trigger until it is stopped.
pub(super) async fn run(_spec: PostgresSpec, bus: PostgresBus, context: Context) {
    let failure = |what: String| async move { Err(Failure::Again(what)) };
    let reading = || {
        let bus = bus.clone();
        async move {
            bus.fit_server().await.map_err(|error| Failure::Again(error.to_string()))?;
            failure("change feeds cannot be followed by this build".to_owned()).await
        }
    };
    context.keep_reading(reading).await;
}

//! Reads events whose content is still there: what waits, what died, and one of each kind that no rule matched.
//!
//! Invariant: nothing here writes. The ledger keeps no contents, so that an event that was done is not found here.

use uuid::Uuid;

use super::{Store, StoreError};

/// Most copies of an event that are read: every delivery of it that waits has one.
const COPIES_MAX: i64 = 100;

/// An event with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Where it came in.
    pub trigger: String,
    /// In structured mode.
    pub event: Vec<u8>,
}

impl Store {
    /// The event `id`, or the one of the delivery `id`, from what is parked, dead or kept as a sample; those whose
    /// bytes contain the id, for the caller to read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn kept_events(&self, id: &str) -> Result<Vec<KeptEvent>, StoreError> {
        let delivery = Uuid::parse_str(id).ok();
        Ok(sqlx::query_as!(
            KeptEvent,
            r#"select trigger as "trigger!", event as "event!" from (
                   select trigger, event from oncue.parked
                   where delivery_id = $2
                      or delivery_id in (select delivery_id from oncue.ledger where event_id = $1)
                   union all
                   select trigger, raw from oncue.dead_letters where kind = 'failed' and (event_id = $1 or id = $2)
                   union all
                   select trigger, sample from oncue.unmatched
                   where position(convert_to($1, 'UTF8') in sample) > 0
               ) found limit $3"#,
            id,
            delivery,
            COPIES_MAX
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

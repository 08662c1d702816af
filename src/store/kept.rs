//! Reads events whose content is still there: what waits, what died, what is recorded, and one of each kind that no rule
//! matched.
//!
//! Invariant: nothing here writes. The ledger keeps no contents, so that an event that was done is found here only if its
//! trigger records it.

use sqlx::types::time::OffsetDateTime;
use uuid::Uuid;

use crate::event::Event;
use crate::event::codec::{self, DecodeError, Limits};

use super::recorded::PAGE_BYTES;
use super::{Store, StoreError};

/// Most copies of an event that are read: every delivery of it that waits has one.
const COPIES_MAX: i64 = 100;

/// An event with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Where it came in.
    pub trigger: String,
    /// Not later than this.
    pub came: OffsetDateTime,
    /// In structured mode; without the data of one that was recorded.
    event: Vec<u8>,
    /// The data of one that was recorded.
    data: Option<Vec<u8>>,
}

/// A delivery that waits or died, with its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDelivery {
    /// The delivery.
    pub delivery_id: Uuid,
    /// The key of the message at its source.
    pub transport_key: Vec<u8>,
    /// The event.
    pub kept: KeptEvent,
}

impl KeptEvent {
    /// The event.
    ///
    /// # Errors
    /// Those of the codec.
    pub fn read(self) -> Result<Event, DecodeError> {
        match self.data {
            Some(data) => codec::from_parts(&self.event, data),
            None => codec::from_structured(&self.event, &Limits::STORED),
        }
    }
}

impl Store {
    /// The event `id`, or the one of the delivery `id`, from what is recorded, parked, dead or kept as a sample; those
    /// whose bytes contain the id, for the caller to read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn kept_events(&self, id: &str) -> Result<Vec<KeptEvent>, StoreError> {
        let delivery = Uuid::parse_str(id).ok();
        Ok(sqlx::query_as!(
            KeptEvent,
            r#"with wanted as (
                   select $1::text as id union select event_id from oncue.ledger where delivery_id = $2
               )
               select trigger as "trigger!", came as "came!", event as "event!", data from (
                   select trigger, recorded_at as came, attributes as event, data from oncue.recorded r
                   join wanted w on left(r.event_id, 128) = left(w.id, 128) and r.event_id = w.id
                   union all
                   select trigger, first_at, event, null from oncue.parked
                   where delivery_id = $2
                      or delivery_id in (select delivery_id from oncue.ledger
                                         where left(event_id, 128) = left($1, 128) and event_id = $1)
                   union all
                   select trigger, dead_at, raw, null from oncue.dead_letters where kind = 'failed' and (event_id = $1 or id = $2)
                   union all
                   select trigger, last_at, sample, null from oncue.unmatched
                   where position(convert_to($1, 'UTF8') in sample) > 0
               ) found limit $3"#,
            id,
            delivery,
            COPIES_MAX
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// A page of the events of `trigger` from `since` on that wait or died, one for each delivery of them, behind the
    /// delivery `after`: at most `limit`, and no more than fit beside the first. Those of a rule with a template are not what
    /// came, and are left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn kept_since(
        &self,
        trigger: &str,
        since: OffsetDateTime,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<KeptDelivery>, StoreError> {
        let rows = sqlx::query!(
            r#"with kept as (
                   select delivery_id, rule, transport_key, first_at as came, event from oncue.parked where trigger = $1
                   union all
                   select id, rule, transport_key, dead_at, raw from oncue.dead_letters where kind = 'failed' and trigger = $1
               ), first as (
                   select * from kept
                   where delivery_id >= oncue.delivery_floor($2) and ($3::uuid is null or delivery_id > $3)
                     and exists (select from oncue.rules r where r.name = kept.rule and r.input is null)
                   order by delivery_id limit $4
               )
               select delivery_id as "delivery_id!", transport_key as "transport_key!", came as "came!", event as "event!"
               from (select *, sum(octet_length(event)) over (order by delivery_id) as bytes from first) page
               where bytes - octet_length(event) < $5 order by delivery_id"#,
            trigger,
            since,
            after,
            limit,
            PAGE_BYTES
        )
        .fetch_all(&self.pool)
        .await?;
        let rows = rows.into_iter().map(|row| KeptDelivery {
            delivery_id: row.delivery_id,
            transport_key: row.transport_key,
            kept: KeptEvent { trigger: trigger.to_owned(), came: row.came, event: row.event, data: None },
        });
        Ok(rows.collect())
    }
}

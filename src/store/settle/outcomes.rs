//! What is not done: claims given back, parked rows, dead letters, rejected messages, counts of unmatched events.
//!
//! Invariant: a delivery that came from a claim is touched only while the claim's token is still in its row.

use std::collections::HashSet;

use sqlx::types::Uuid;

use crate::store::StoreError;

use super::{Next, Record, Rejected, Tx, Unmatched, clean, clean_error, int, small};

/// Gives back the claims of `records`: rows that end are deleted, rows that wait on are updated. Gives those whose
/// token still held.
pub(super) async fn take_claims(tx: &mut Tx, records: &[&Record]) -> Result<HashSet<Uuid>, StoreError> {
    let (mut ended, mut ended_tokens) = (Vec::new(), Vec::new());
    let (mut waits, mut tokens, mut after, mut attempts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut classes, mut errors) = (Vec::new(), Vec::new());
    for record in records {
        let Some(token) = record.claim else { continue };
        match &record.next {
            Next::Park { after_ms, class, error, .. } => {
                waits.push(record.subject.id.0);
                tokens.push(token);
                after.push(int(*after_ms));
                attempts.push(small(record.attempts_total));
                classes.push((*class).to_owned());
                errors.push(error.as_deref().map(clean_error));
            }
            Next::Done | Next::Void | Next::Dead { .. } => {
                ended.push(record.subject.id.0);
                ended_tokens.push(token);
            }
        }
    }
    let mut held = HashSet::new();
    if !ended.is_empty() {
        let rows = sqlx::query_scalar!(
            "delete from oncue.parked p using unnest($1::uuid[], $2::uuid[]) as c(id, token)
             where p.delivery_id = c.id and p.token = c.token returning p.delivery_id",
            &ended,
            &ended_tokens
        )
        .fetch_all(&mut **tx)
        .await?;
        held.extend(rows);
    }
    if !waits.is_empty() {
        let rows = sqlx::query_scalar!(
            "update oncue.parked p set attempts = c.attempts, class = c.class, error = c.error, deaths = 0,
                 next_at = now() + c.after_ms * interval '1 millisecond', token = null, node = null, lease_until = null
             from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::int[], $5::text[], $6::text[])
                 as c(id, token, after_ms, attempts, class, error)
             where p.delivery_id = c.id and p.token = c.token returning p.delivery_id",
            &waits,
            &tokens,
            &after,
            &attempts,
            &classes,
            &errors as &[Option<String>]
        )
        .fetch_all(&mut **tx)
        .await?;
        held.extend(rows);
    }
    Ok(held)
}

#[derive(Default)]
struct ParkedColumns {
    id: Vec<Uuid>,
    trigger: Vec<String>,
    rule: Vec<String>,
    function: Vec<Option<String>>,
    version: Vec<Option<i32>>,
    event: Vec<Vec<u8>>,
    transport_key: Vec<Vec<u8>>,
    generation: Vec<i32>,
    ordering_key: Vec<Option<String>>,
    attempts: Vec<i32>,
    suspect: Vec<bool>,
    class: Vec<String>,
    error: Vec<Option<String>>,
    after_ms: Vec<i64>,
}

/// Parks the records that say so and were not claimed.
pub(super) async fn park(tx: &mut Tx, fresh: &[&Record]) -> Result<(), StoreError> {
    let mut c = ParkedColumns::default();
    for record in fresh.iter().filter(|r| r.claim.is_none()) {
        let Next::Park { after_ms, class, error, event, suspect } = &record.next else { continue };
        let subject = &record.subject;
        c.id.push(subject.id.0);
        c.trigger.push(subject.trigger.clone());
        c.rule.push(subject.rule.clone());
        c.function.push(subject.function.as_ref().map(|(name, _)| name.clone()));
        c.version.push(subject.function.as_ref().map(|(_, version)| small(*version)));
        c.event.push(event.clone());
        c.transport_key.push(subject.transport_key.clone());
        c.generation.push(small(subject.generation));
        c.ordering_key.push(subject.ordering_key.as_deref().map(clean));
        c.attempts.push(small(record.attempts_total));
        c.suspect.push(*suspect);
        c.class.push((*class).to_owned());
        c.error.push(error.as_deref().map(clean_error));
        c.after_ms.push(int(*after_ms));
    }
    if c.id.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into oncue.parked (delivery_id, trigger, rule, function, version, event, transport_key, generation,
             ordering_key, attempts, suspect, class, error, next_at)
         select id, trigger, rule, function, version, event, transport_key, generation, ordering_key, attempts, suspect,
             class, error, now() + after_ms * interval '1 millisecond'
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bytea[], $7::bytea[], $8::int[],
             $9::text[], $10::int[], $11::bool[], $12::text[], $13::text[], $14::bigint[]) with ordinality
             as c(id, trigger, rule, function, version, event, transport_key, generation, ordering_key, attempts,
                  suspect, class, error, after_ms, place)
         where not exists (select 1 from oncue.dead_letters d where d.id = c.id)
         order by place
         on conflict (delivery_id) do nothing",
        &c.id,
        &c.trigger,
        &c.rule,
        &c.function as &[Option<String>],
        &c.version as &[Option<i32>],
        &c.event,
        &c.transport_key,
        &c.generation,
        &c.ordering_key as &[Option<String>],
        &c.attempts,
        &c.suspect,
        &c.class,
        &c.error as &[Option<String>],
        &c.after_ms
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Writes the dead letters; their attempts are read back from the ledger rows of this very transaction.
pub(super) async fn bury(tx: &mut Tx, fresh: &[&Record]) -> Result<(), StoreError> {
    for record in fresh {
        let Next::Dead { class, error, event, digest } = &record.next else { continue };
        let subject = &record.subject;
        sqlx::query!(
            "insert into oncue.dead_letters (id, kind, trigger, rule, function, version, digest, event_id, event_type,
                 class, error, raw, transport_key, generation, ordering_key, attempts)
             select $1, 'failed', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, coalesce(
                 (select jsonb_agg(jsonb_build_object('attempt', l.attempt, 'outcome', l.outcome, 'error', l.error,
                      'started_at', l.started_at, 'micros', l.micros, 'node', l.node) order by l.attempt)
                  from oncue.ledger l where l.delivery_id = $1), '[]')
             on conflict (id) do nothing",
            subject.id.0,
            subject.trigger,
            subject.rule,
            subject.function.as_ref().map(|(name, _)| name.as_str()),
            subject.function.as_ref().map(|(_, version)| small(*version)),
            digest.as_deref(),
            clean(&subject.event_id),
            clean(&subject.event_type),
            *class,
            clean_error(error),
            event,
            subject.transport_key,
            small(subject.generation),
            subject.ordering_key.as_deref().map(clean)
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Keeps messages that could not become events.
pub(super) async fn reject(tx: &mut Tx, rejected: impl Iterator<Item = &Rejected>) -> Result<(), StoreError> {
    for message in rejected {
        sqlx::query!(
            "insert into oncue.dead_letters (id, kind, trigger, class, error, raw, headers, transport_key)
             values ($1, 'rejected', $2, $3, $4, $5, $6, $7) on conflict (id) do nothing",
            message.id.0,
            message.trigger,
            message.class,
            clean_error(&message.error),
            message.raw,
            message.headers,
            message.transport_key
        )
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// Types that are counted apart for a trigger and a day: whoever may publish names them, and could name millions. A few
/// more of them stay where several nodes meet the last one at once.
const TYPES_PER_DAY: i64 = 1_000;

/// The type under which the rest is counted.
pub const OTHER_TYPES: &str = "(other types)";

/// Adds to the counts of unmatched events; the newest sample stays.
pub(super) async fn count_unmatched(tx: &mut Tx, unmatched: &[Unmatched]) -> Result<(), StoreError> {
    if unmatched.is_empty() {
        return Ok(());
    }
    let triggers: Vec<String> = unmatched.iter().map(|u| u.trigger.clone()).collect();
    let types: Vec<String> = unmatched.iter().map(|u| clean(&u.event_type)).collect();
    let counts: Vec<i64> = unmatched.iter().map(|u| int(u.count)).collect();
    let samples: Vec<Option<Vec<u8>>> = unmatched.iter().map(|u| u.sample.clone()).collect();
    sqlx::query!(
        "with today as (select (now() at time zone 'UTC')::date as day),
         incoming as (
             select c.trigger, c.event_type, sum(c.count) as count, (array_agg(c.sample))[1] as sample,
                 exists (select from oncue.unmatched u, today t
                         where (u.day, u.trigger, u.event_type) = (t.day, c.trigger, c.event_type)) as known
             from unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) as c(trigger, event_type, count, sample)
             group by 1, 2
         ),
         room as (
             select i.trigger, $5::bigint - (select count(*) from (
                     select from oncue.unmatched u, today t where (u.day, u.trigger) = (t.day, i.trigger) limit $5
                 ) named) as types
             from incoming i where not i.known group by i.trigger
         ),
         counted as (
             select i.trigger, i.count, i.sample,
                 case when i.known or row_number() over (partition by i.trigger, i.known order by i.event_type) <= r.types
                     then i.event_type else $6 end as event_type
             from incoming i left join room r on r.trigger = i.trigger
         )
         insert into oncue.unmatched as u (day, trigger, event_type, count, sample)
         select t.day, c.trigger, c.event_type, sum(c.count), (array_agg(c.sample))[1] from counted c, today t
         group by 1, 2, 3 order by 2, 3
         on conflict (day, trigger, event_type) do update
         set count = u.count + excluded.count, sample = coalesce(excluded.sample, u.sample), last_at = now()",
        &triggers,
        &types,
        &counts,
        &samples as &[Option<Vec<u8>>],
        TYPES_PER_DAY,
        OTHER_TYPES
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

//! Settles deliveries that run statements: on a guest's connection, in the transaction of the statements.
//!
//! Invariant: what is settled is settled by `oncue.guest_settle` as the last thing before the commit, all of the group or
//! nothing. A group is taken to be new, which it nearly always is; where one of its deliveries turns out to be settled, taken
//! over or fenced, everything is undone, and it is looked which ones before the rest runs again. No lock on our own tables
//! is held while a guest's statements run.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::types::Uuid;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::delivery::DeliveryId;
use crate::function::sql::Statement;
use crate::store::StoreError;
use crate::store::settle::{Group, Record, Refusal, Tx, Verdict, fences, small};

use super::link::{Link, Owner, prompt};
use super::param::Own;
use super::rows::Rows;
use super::run::Fate;
use super::trouble::Trouble;
use super::{Guests, Inner};

/// How often a group is settled anew because somebody was faster with a part of it.
const OVERTAKEN_MAX: usize = 8;

/// What settles deliveries. It is never prepared under a name: a name could be taken from us on a connection that guests use.
const SETTLE: &str = "select oncue.guest_settle($1, $2, $3, $4, $5, $6, $7, $8)";
/// How long settling and the commit may take.
const SETTLE_TIME: Duration = Duration::from_secs(30);

/// Why a group was not settled.
enum Failed {
    /// A part of it was settled by somebody else.
    Overtaken,
    /// All of it is refused.
    Refused(Trouble),
    Store(StoreError),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(_) => Self::Refused(trouble),
            Trouble::Lost(words) => Self::Store(StoreError::interrupted(words)),
            Trouble::Away(words) => Self::Store(StoreError::away(words)),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Guests {
    /// Settles the deliveries of `group`, all of which run statements of one function under one role, for `node`. Gives
    /// what was not settled, and why.
    ///
    /// # Errors
    /// Those of the database; nothing of the group is settled then, or, if only the reply was lost, all of it.
    pub async fn settle(&self, node: &str, group: &Group) -> Result<Verdict, StoreError> {
        let Some(owner) = group.records.iter().find_map(owner) else { return Ok(Verdict::default()) };
        let _share = self.inner.effects.take(&owner.function).await;
        let began = Instant::now();
        let settled = self.settle_as(&owner, node, group).await;
        self.inner.effects.took(&owner.function, began.elapsed());
        settled
    }

    async fn settle_as(&self, owner: &Owner, node: &str, group: &Group) -> Result<Verdict, StoreError> {
        let mut seems_new = true;
        for _ in 0..OVERTAKEN_MAX {
            match self.inner.attempt(owner, node, group, seems_new).await {
                Ok(verdict) => return Ok(verdict),
                Err(Failed::Store(error)) => return Err(error),
                Err(Failed::Refused(Trouble::Refused(refusal))) => {
                    let refused = group.records.iter().map(|record| (record.subject.id, refusal.clone()));
                    return Ok(Verdict { refused: refused.collect(), ..Verdict::default() });
                }
                Err(Failed::Refused(_) | Failed::Overtaken) => seems_new = false,
            }
        }
        Err(StoreError::Overtaken)
    }
}

impl Inner {
    async fn attempt(&self, owner: &Owner, node: &str, group: &Group, seems_new: bool) -> Result<Verdict, Failed> {
        let mut verdict = Verdict::default();
        if !seems_new {
            verdict = self.look(group).await?;
        }
        let mut seen = HashSet::new();
        let mut records = Vec::with_capacity(group.records.len());
        for record in &group.records {
            let id = record.subject.id;
            if verdict.stale.contains(&id) || verdict.fenced.contains(&id) || verdict.refused.contains_key(&id) {
                continue;
            }
            match seen.insert(id) && self::owner(record).as_ref() == Some(owner) {
                true => records.push(record),
                false => drop(verdict.left.insert(id)),
            }
        }
        if records.is_empty() {
            return Ok(verdict);
        }
        let mut link = self.link(owner).await?;
        let key = self.logins.key().await?;
        let statements: Vec<&[Statement]> = records.iter().map(|record| statements(record)).collect();
        let fates = link.run(&statements).await;
        let fates = fates.map_err(|trouble| link.explain(trouble))?;
        let mut done = Vec::with_capacity(records.len());
        for (record, fate) in records.into_iter().zip(fates) {
            match fate {
                Fate::Done => done.push(record),
                Fate::Left => drop(verdict.left.insert(record.subject.id)),
                Fate::Refused(refusal) => drop(verdict.refused.insert(record.subject.id, refusal)),
            }
        }
        let ended = link.end(&key, node, &done).await;
        match &ended {
            Ok(()) | Err(Failed::Overtaken) => self.keep(link),
            // The nodes' key may be another one since the tables were restored.
            Err(Failed::Refused(_)) => self.logins.forget_key(),
            Err(Failed::Store(_)) => {}
        }
        ended.map(|()| verdict)
    }

    /// Which deliveries of `group` are settled, are somebody else's by now, or were read under a lease that has passed on.
    async fn look(&self, group: &Group) -> Result<Verdict, StoreError> {
        let firsts = group.records.iter().filter(|r| r.claim.is_none());
        let firsts = firsts.filter_map(|r| Some((r.subject.id.0, small(r.attempts.first()?.attempt))));
        let (ids, attempts): (Vec<Uuid>, Vec<i32>) = firsts.unzip();
        let claims = group.records.iter().filter_map(|r| Some((r.subject.id.0, r.claim?)));
        let (claimed, tokens): (Vec<Uuid>, Vec<Uuid>) = claims.unzip();
        let mut tx = self.store.pool.begin().await?;
        let mut verdict = Verdict::default();
        let known = sqlx::query!(
            r#"select l.delivery_id as "id!", bool_or(l.settlement = 'done') as "done!" from oncue.ledger l
               where (l.delivery_id, l.attempt) in (select * from unnest($1::uuid[], $2::int[])) group by 1"#,
            &ids,
            &attempts
        )
        .fetch_all(&mut *tx)
        .await?;
        verdict.stale.extend(known.into_iter().map(|row| DeliveryId(row.id)));
        let (again, lost) = claims_that_stand(&mut tx, &claimed, &tokens).await?;
        verdict.stale.extend(lost);
        // It ran before under that number, by a copy that was on its way then: the next one has another.
        let words = "the same attempt of this delivery was settled before by another copy of it";
        let refusal = Refusal { permanent: false, words: words.to_owned() };
        verdict.refused.extend(again.into_iter().map(|id| (id, refusal.clone())));
        verdict.fenced = fences::passed(&mut tx, group).await?.deliveries(group);
        tx.commit().await?;
        Ok(verdict)
    }
}

/// Of deliveries that were claimed: those whose attempt of that number failed before, and those that are somebody else's, or done.
/// The rows of those that are done are taken away.
async fn claims_that_stand(
    tx: &mut Tx,
    claimed: &[Uuid],
    tokens: &[Uuid],
) -> Result<(Vec<DeliveryId>, Vec<DeliveryId>), StoreError> {
    if claimed.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let rows = sqlx::query!(
        r#"with claims as (select * from unnest($1::uuid[], $2::uuid[]) as c(id, token)),
           done as (
               delete from oncue.parked p using claims c
               where p.delivery_id = c.id and p.token = c.token
                 and exists (select from oncue.ledger l where l.delivery_id = c.id and l.settlement = 'done')
               returning p.delivery_id
           )
           select c.id as "id!",
                  c.id in (select delivery_id from done)
                      or not exists (select from oncue.parked p where p.delivery_id = c.id and p.token = c.token) as "lost!",
                  exists (select from oncue.ledger l join oncue.parked p on p.delivery_id = l.delivery_id
                          where l.delivery_id = c.id and l.attempt = p.attempts + 1) as "again!"
           from claims c"#,
        claimed,
        tokens
    )
    .fetch_all(&mut **tx)
    .await?;
    let lost = rows.iter().filter(|row| row.lost).map(|row| DeliveryId(row.id)).collect();
    let again = rows.iter().filter(|row| row.again && !row.lost).map(|row| DeliveryId(row.id)).collect();
    Ok((again, lost))
}

impl Link {
    /// Settles `records`, whose statements have run, and commits; or ends a transaction in which none has.
    async fn end(&mut self, key: &[u8], node: &str, records: &[&Record]) -> Result<(), Failed> {
        if records.is_empty() {
            return Ok(prompt(self.client.batch_execute("rollback")).await.map_err(Trouble::ours)?);
        }
        let rows = Rows::of(records);
        let texts = [&rows.claims, &rows.fences, &rows.ledger, &rows.recorded, &rows.logs, &rows.outbox];
        let params = [Own::Key(key), Own::Text(Some(node))].into_iter();
        let params: Vec<Own<'_>> = params.chain(texts.map(|text| Own::Text(text.as_deref()))).collect();
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(|own| (own as _, own.ty())).collect();
        // One after the other without waiting: what failed is not committed.
        let both = async {
            let (settling, committing) =
                (self.client.execute_typed(SETTLE, &typed), self.client.batch_execute("commit"));
            tokio::join!(biased; settling, committing)
        };
        let both = tokio::time::timeout(SETTLE_TIME, both).await;
        let (settled, committed) =
            both.map_err(|_| StoreError::away(format!("the server did not commit within {SETTLE_TIME:?}")))?;
        settled.map_err(not_settled)?;
        committed.map_err(not_settled)
    }
}

/// Sorts an error of settling, which is no fault of any statement.
fn not_settled(error: tokio_postgres::Error) -> Failed {
    match error.code().map(SqlState::code) {
        // A claim or a lease is somebody else's; a row is there already.
        Some("OC001" | "OC002" | "23505") => Failed::Overtaken,
        // The statements that ran before may be the cause: they took all locks or memory, or had it cancelled.
        Some(code) if matches!(code.get(..2), Some("53" | "55" | "57")) => {
            StoreError::interrupted(Trouble::from(error).words()).into()
        }
        Some(code) if matches!(code.get(..2), Some("08" | "40" | "58")) => {
            StoreError::away(Trouble::from(error).words()).into()
        }
        Some("42501") => Failed::Refused(Trouble::refused(Trouble::from(error).words())),
        Some(_) => StoreError::refused(Trouble::from(error).words()).into(),
        None => StoreError::away(Trouble::from(error).words()).into(),
    }
}

fn owner(record: &Record) -> Option<Owner> {
    let (function, role) = record.runs_under()?;
    Some(Owner { role, function })
}

fn statements(record: &Record) -> &[Statement] {
    record.effects.as_ref().map_or(&[], |effects| &effects.statements)
}

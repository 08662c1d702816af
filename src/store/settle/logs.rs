//! Log lines: a row for each attempt that logged.

use sqlx::types::Uuid;

use crate::store::StoreError;

use super::{Record, Tx, int, small};

/// Keeps the log lines of the attempts of `fresh`. Those of an attempt that are there already stay, unless the attempts are
/// `new`: then it is not looked.
///
/// # Errors
/// Those of the database; with `new`, a violated primary key says that a row was there all the same.
pub(super) async fn insert(tx: &mut Tx, fresh: &[&Record], new: bool) -> Result<(), StoreError> {
    let mut c = Columns::default();
    for record in fresh {
        c.push(record);
    }
    if c.delivery.is_empty() {
        return Ok(());
    }
    if new {
        sqlx::query!(
            "insert into oncue.logs (delivery_id, attempt, function, lines, dropped)
             select unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]), unnest($5::bigint[])",
            &c.delivery,
            &c.attempt,
            &c.function as &[&str],
            &c.lines,
            &c.dropped
        )
        .execute(&mut **tx)
        .await?;
        return Ok(());
    }
    sqlx::query!(
        "insert into oncue.logs (delivery_id, attempt, function, lines, dropped)
         select unnest($1::uuid[]), unnest($2::int[]), unnest($3::text[]), unnest($4::text[]), unnest($5::bigint[])
         on conflict (delivery_id, attempt) do nothing",
        &c.delivery,
        &c.attempt,
        &c.function as &[&str],
        &c.lines,
        &c.dropped
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns<'a> {
    delivery: Vec<Uuid>,
    attempt: Vec<i32>,
    function: Vec<&'a str>,
    lines: Vec<String>,
    dropped: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, record: &'a Record) {
        let Some((name, _)) = &record.subject.function else { return };
        for row in record.attempts.iter().filter(|a| !a.logs.is_empty() || a.logs_dropped > 0) {
            let list: Vec<(&str, &str)> = row.logs.iter().map(|l| (l.level, l.message.as_str())).collect();
            self.delivery.push(record.subject.id.0);
            self.attempt.push(small(row.attempt));
            self.function.push(name);
            self.lines.push(serde_json::to_string(&list).unwrap_or_default());
            self.dropped.push(int(row.logs_dropped));
        }
    }
}

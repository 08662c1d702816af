//! Guests' SQL: what makes a statement run under its role, and under nothing else.
//!
//! Invariant: a guest's statement runs inside a function that is owned by the granted role and declared `security
//! definer`. `set local role` alone is no wall: any statement may call `set_config('role', 'none', …)` and go on with
//! the node's own rights. Inside such a function Postgres refuses to change the role. Statements are prepared by name, so
//! that the server's own grammar refuses everything but `select`, `insert`, `update`, `delete`, `merge` and `values`.
//!
//! The function lives in `pg_temp`: each connection makes it when it first runs something for a role.

pub mod reads;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::function::sql::{ROWS_MAX, Statement, Value};

/// The body of the function that runs a prepared statement. Values come as text and are quoted here, by the server.
const BODY: &str = "
declare
    call text := 'execute ' || statement;
begin
    if cardinality(params) > 0 then
        select call || '(' || string_agg(quote_nullable(v.param) || '::' || v.type, ', ' order by v.place) || ')'
        into call from unnest(params, types) with ordinality as v (param, type, place);
    end if;
    if mode = 'read' then
        return query execute call;
        return;
    end if;
    execute call;
    if mode = 'last' then
        set constraints all immediate;
    end if;
end ";

/// Names of prepared statements are never used twice, so that one that was left behind is in nobody's way.
static PREPARED: AtomicU64 = AtomicU64::new(0);

/// Why a statement did not run.
#[derive(Debug)]
pub(super) struct Failed {
    /// What the server or the connection said.
    pub(super) error: sqlx::Error,
    /// What was being done, and the SQL that mends it where that is known.
    pub(super) words: String,
    /// Whether it is the role that is missing.
    pub(super) role: bool,
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        let words = words(&error);
        Self { error, words, role: false }
    }
}

impl Failed {
    /// Whether the server refused it and the connection lives on. What the client could not make sense of counts too.
    pub(super) fn is_refusal(&self) -> bool {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
        let ended = |code: &str| matches!(code.get(..3), Some("57P")) || code.starts_with("08");
        match &self.error {
            sqlx::Error::Database(db) => !db.code().as_deref().is_some_and(ended),
            Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed | WorkerCrashed => false,
            _ => true,
        }
    }

    /// Whether trying again is in vain: no right, no such role, no SQL.
    pub(super) fn is_permanent(&self) -> bool {
        let code = self.error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        self.role || matches!(code.as_deref(), Some("42501" | "42601"))
    }
}

/// The error in the server's words, with its code.
pub(super) fn words(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().as_deref().unwrap_or("unknown")),
        None => error.to_string(),
    }
}

/// A connection that is in a transaction and under a role.
pub(super) struct Guest {
    /// The role's object id: it names the function.
    oid: i64,
}

impl Guest {
    /// Puts the transaction of `connection` under `role`; none if this connection has no function for it yet. Statements
    /// may take `time`, each wait for a lock included.
    pub(super) async fn enter(
        connection: &mut PgConnection,
        role: &str,
        time: Duration,
    ) -> Result<(Self, bool), Failed> {
        let millis = millis(time);
        let row: Result<(String, Option<i64>, bool), _> = sqlx::query_as(
            "select set_config('role', $1, true) || set_config('statement_timeout', $2, true)
                     || set_config('lock_timeout', $2, true),
                 r.oid::bigint,
                 exists (select 1 from pg_proc p
                         where p.pronamespace = pg_my_temp_schema() and p.proname = 'oncue_guest_' || r.oid
                           and p.proowner = r.oid and p.prosecdef and p.proconfig is null and p.prosrc = $3)
             from (select (select oid from pg_roles where rolname = $1)) as r (oid)",
        )
        .bind(role)
        .bind(millis)
        .bind(BODY)
        .fetch_one(&mut *connection)
        .await;
        let (_, oid, there) = row.map_err(|error| no_role(error, role))?;
        Ok((Self { oid: oid.unwrap_or_default() }, there))
    }

    /// Makes the function, as the role that the transaction is under.
    pub(super) async fn make(&self, connection: &mut PgConnection, role: &str) -> Result<(), Failed> {
        let text = format!(
            "create or replace function pg_temp.oncue_guest_{}(statement text, params text[], types text[], mode text)
             returns setof text language plpgsql security definer as $oncue${BODY}$oncue$",
            self.oid
        );
        let made = sqlx::query(AssertSqlSafe(text)).persistent(false).execute(connection).await;
        made.map(drop).map_err(|error| {
            let (said, role) = (words(&error), quoted(role));
            let mend = format!("grant temporary on database DATABASE to {role};");
            Failed {
                error,
                words: format!("{said}: cannot make ready for the role; mend it with: {mend}"),
                role: false,
            }
        })
    }

    /// Bounds the time of what follows to `time`.
    pub(super) async fn limit(connection: &mut PgConnection, time: Duration) -> Result<(), Failed> {
        let text = format!("set local statement_timeout = {0}; set local lock_timeout = {0}", millis(time));
        sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await?;
        Ok(())
    }

    /// Prepares `statement` and gives its name. The name outlives a transaction that is rolled back.
    pub(super) async fn prepare(connection: &mut PgConnection, statement: &Statement) -> Result<String, Failed> {
        prepare(connection, statement, &statement.text).await
    }

    /// Runs `statement`, which was prepared as `name`; after the last one of a delivery, constraints that were put off
    /// are checked.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        name: &str,
        statement: &Statement,
        last: bool,
    ) -> Result<(), Failed> {
        let call = format!("select from pg_temp.oncue_guest_{}($1, $2, $3, $4)", self.oid);
        let mode = if last { "last" } else { "write" };
        let ran = bind(&call, name, statement, mode).execute(connection).await;
        ran.map(drop).map_err(Failed::from)
    }

    /// The rows of `statement`, each a JSON object; a row is none from where they have more than `bytes` together.
    pub(super) async fn read(
        &self,
        connection: &mut PgConnection,
        statement: &Statement,
        bytes: u32,
    ) -> Result<Vec<Option<String>>, Failed> {
        let most = ROWS_MAX + 1;
        // A comment at the statement's end ends with its line. Whatever else the text does to the brackets, it stays one
        // statement, and its rows are counted and weighed outside of it.
        let text = format!("select to_jsonb(q)::text from (\n{}\n) as q limit {most}", statement.text);
        let name = prepare(connection, statement, &text).await?;
        let call = format!(
            "select case when sum(octet_length(t)) over (rows unbounded preceding) <= {bytes} then t end
             from pg_temp.oncue_guest_{}($1, $2, $3, $4) as t limit {most}",
            self.oid
        );
        let rows = bind(&call, &name, statement, "read").fetch_all(connection).await?;
        rows.into_iter().map(|row| Ok(sqlx::Row::try_get(&row, 0)?)).collect()
    }
}

type Call<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind(call: &str, name: &str, statement: &Statement, mode: &str) -> Call<'static> {
    let params: Vec<Option<String>> = statement.params.iter().map(text_of).collect();
    let types: Vec<&str> = statement.params.iter().map(type_of).collect();
    let query = sqlx::query(AssertSqlSafe(call.to_owned()));
    query
        .bind(name.to_owned())
        .bind(params)
        .bind(types.into_iter().map(str::to_owned).collect::<Vec<_>>())
        .bind(mode.to_owned())
}

/// Prepares `text` with the types of the values of `statement`. The extended protocol takes one statement only.
async fn prepare(connection: &mut PgConnection, statement: &Statement, text: &str) -> Result<String, Failed> {
    let name = format!("oncue_guest_{}", PREPARED.fetch_add(1, Ordering::Relaxed));
    let types: Vec<&str> = statement.params.iter().map(type_of).collect();
    let types = if types.is_empty() { String::new() } else { format!("({})", types.join(", ")) };
    let text = format!("prepare {name}{types} as\n{text}");
    sqlx::query(AssertSqlSafe(text)).persistent(false).execute(connection).await?;
    Ok(name)
}

/// Full names: a type of the same name in a guest's schema is another one.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "pg_catalog.unknown",
        Value::Boolean(_) => "pg_catalog.bool",
        Value::Integer(_) => "pg_catalog.int8",
        Value::Float(_) => "pg_catalog.float8",
        Value::Text(_) => "pg_catalog.text",
        Value::Bytes(_) => "pg_catalog.bytea",
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Boolean(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        // The shortest text that reads back as the same number; `inf` and `NaN` are Postgres's words too.
        Value::Float(value) => Some(value.to_string()),
        Value::Text(text) => Some(text.clone()),
        Value::Bytes(bytes) => Some(format!("\\x{}", crate::function::hex(bytes))),
    }
}

/// What a server setting of a time takes; 0 would mean no limit.
fn millis(time: Duration) -> String {
    time.as_millis().max(1).to_string()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn no_role(error: sqlx::Error, role: &str) -> Failed {
    let said = words(&error);
    let role = quoted(role);
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(String::from);
    let mend = match code.as_deref() {
        Some("22023") => format!("; mend it with: create role {role} nologin; grant {role} to CURRENT_USER;"),
        Some("42501") => format!("; mend it with: grant {role} to CURRENT_USER;"),
        _ => String::new(),
    };
    let words = format!("cannot take the granted role: {said}{mend}");
    Failed { role: !mend.is_empty(), error, words }
}

#[cfg(test)]
mod tests {
    use super::{quoted, text_of};
    use crate::function::sql::Value;

    #[test]
    fn values_are_written_as_postgres_reads_them() {
        let table = [
            (Value::Null, None),
            (Value::Boolean(true), Some("true")),
            (Value::Integer(i64::MIN), Some("-9223372036854775808")),
            (Value::Float(0.1), Some("0.1")),
            (Value::Float(f64::NEG_INFINITY), Some("-inf")),
            (Value::Float(f64::NAN), Some("NaN")),
            (Value::Text("a'b\\".to_owned()), Some("a'b\\")),
            (Value::Bytes(vec![0, 255]), Some("\\x00ff")),
        ];
        for (value, text) in table {
            assert_eq!(text_of(&value).as_deref(), text, "{value:?}");
        }
    }

    #[test]
    fn a_name_is_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}

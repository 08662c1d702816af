//! Rows of a table in the order of its key, a chunk at a time: what snapshots and backfills are made of.
//!
//! Invariant: every value is the text that its type's output function writes, in the settings of a replication
//! connection of a feed, so that a row that is read and a row that is streamed decode to the same JSON. A chunk is read
//! in one snapshot, which is told with it.

use sqlx::AssertSqlSafe;

use super::{PostgresBus, SourceError, TableName, quoted};

/// The form of values, as `triggers/postgres/connect` asks for it, and how long one chunk may take.
const SETTINGS: &str = "begin isolation level repeatable read read only; set local datestyle = 'ISO, YMD'; \
                        set local timezone = 'UTC'; set local intervalstyle = 'postgres'; \
                        set local extra_float_digits = 1; set local bytea_output = 'hex'; \
                        set local statement_timeout = '60s'";

/// The columns of a table as changes tell them: without generated ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The relation's oid.
    pub oid: u32,
    /// In the table's order.
    pub columns: Vec<ShapeColumn>,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeColumn {
    /// Its name.
    pub name: String,
    /// Its type's oid.
    pub ty: u32,
    /// Its type as SQL names it.
    pub type_name: String,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The table.
    pub table: &'a TableName,
    /// Its columns.
    pub shape: &'a Shape,
    /// The places of the key's columns in the shape, in the key's order.
    pub key: &'a [usize],
    /// The key after which to begin, each column as text; none for the beginning.
    pub after: Option<&'a [String]>,
    /// A condition in SQL.
    pub filter: Option<&'a str>,
    /// Most rows.
    pub limit: u32,
}

/// Rows, and the snapshot that they were read in.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// The values of each row, in the order of the shape.
    pub rows: Vec<Vec<Option<String>>>,
    /// Transactions whose changes the snapshot does not see although they had begun.
    pub in_progress: Vec<u64>,
}

impl Chunk<'_> {
    fn statement(&self) -> String {
        let values: Vec<String> = self
            .shape
            .columns
            .iter()
            .map(|column| {
                let name = quoted(&column.name);
                format!("case when {name} is not null then format('%s', {name}) end")
            })
            .collect();
        let keys: Vec<&ShapeColumn> = self.key.iter().filter_map(|at| self.shape.columns.get(*at)).collect();
        let names = keys.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ");
        let after = match self.after {
            Some(_) => {
                let cast = |(at, column): (usize, &&ShapeColumn)| format!("${}::text::{}", at + 1, column.type_name);
                let bounds: Vec<String> = keys.iter().enumerate().map(cast).collect();
                format!("({names}) > ({})", bounds.join(", "))
            }
            None => "true".to_owned(),
        };
        // The line break ends a comment that the condition may end with.
        let filter = self.filter.map_or_else(String::new, |filter| format!(" and ({filter}\n)"));
        format!(
            "select array[{}]::text[] from {} where {after}{filter} order by {names} limit {}",
            values.join(", "),
            self.table.quoted(),
            self.limit
        )
    }
}

impl PostgresBus {
    /// The columns of a table; none if there is no such table.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn shape(&self, table: &TableName) -> Result<Option<Shape>, SourceError> {
        const ACTION: &str = "look at the columns of a table";
        let mut connection = self.connection(ACTION).await?;
        let rows = sqlx::query!(
            r#"select a.attrelid::bigint as "oid!", a.attname::text as "name!", a.atttypid::bigint as "ty!",
                format_type(a.atttypid, a.atttypmod) as "type_name!"
            from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
            order by a.attnum"#,
            table.schema,
            table.name
        );
        let rows = rows.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        let oid = |n: i64| u32::try_from(n).unwrap_or(0);
        let Some(first) = rows.first().map(|row| oid(row.oid)) else { return Ok(None) };
        let columns =
            rows.into_iter().map(|row| ShapeColumn { name: row.name, ty: oid(row.ty), type_name: row.type_name });
        Ok(Some(Shape { oid: first, columns: columns.collect() }))
    }

    /// Reads a chunk.
    ///
    /// # Errors
    /// The server does not answer, the role may not select, or the condition is no SQL.
    pub async fn chunk(&self, chunk: &Chunk<'_>) -> Result<Rows, SourceError> {
        let action = format!("read rows of {}", chunk.table);
        let select = format!("grant select on {} to {}", chunk.table.quoted(), quoted(&self.replication().user));
        let mends = [("42501", format!("run `{select}`"))];
        let fail = |error| self.error(&action, error, &mends);
        let mut connection = self.connection(&action).await?;
        sqlx::raw_sql(SETTINGS).execute(&mut *connection).await.map_err(fail)?;
        let read = async {
            let snapshot: String =
                sqlx::query_scalar("select pg_current_snapshot()::text").fetch_one(&mut *connection).await?;
            let mut query = sqlx::query_scalar(AssertSqlSafe(chunk.statement()));
            for bound in chunk.after.unwrap_or_default() {
                query = query.bind(bound);
            }
            let rows: Vec<Vec<Option<String>>> = query.fetch_all(&mut *connection).await?;
            Ok(Rows { rows, in_progress: in_progress(&snapshot) })
        }
        .await;
        // Also after a failure: the connection goes back to the pool.
        let ended = sqlx::raw_sql("rollback").execute(&mut *connection).await;
        let rows = read.map_err(fail)?;
        ended.map_err(fail)?;
        Ok(rows)
    }
}

/// The third part of `xmin:xmax:xip,xip`.
fn in_progress(snapshot: &str) -> Vec<u64> {
    let list = snapshot.rsplit(':').next().unwrap_or_default();
    list.split(',').filter_map(|xid| xid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_reads_on_after_a_key_and_quotes_every_name() {
        let column = |name: &str, ty: &str| ShapeColumn { name: name.to_owned(), ty: 25, type_name: ty.to_owned() };
        let shape = Shape { oid: 1, columns: vec![column("a\"b", "text"), column("n", "integer")] };
        let table = TableName::new("s", "T");
        let after = ["x".to_owned(), "7".to_owned()];
        let chunk = Chunk {
            table: &table,
            shape: &shape,
            key: &[1, 0],
            after: Some(&after),
            filter: Some("n > 1 -- all"),
            limit: 9,
        };
        assert_eq!(
            chunk.statement(),
            "select array[case when \"a\"\"b\" is not null then format('%s', \"a\"\"b\") end, case when \"n\" is not null \
             then format('%s', \"n\") end]::text[] from \"s\".\"T\" where (\"n\", \"a\"\"b\") > ($1::text::integer, \
             $2::text::text) and (n > 1 -- all\n) order by \"n\", \"a\"\"b\" limit 9"
        );
    }

    #[test]
    fn a_snapshot_names_what_it_does_not_see() {
        assert_eq!(in_progress("10:20:11,15"), [11, 15]);
        assert_eq!(in_progress("10:10:"), Vec::<u64>::new());
    }
}

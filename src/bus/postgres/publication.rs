//! Publications: looked at and created, always with explicit tables.
//!
//! Invariant: a publication that somebody else made is never changed. `for all tables` is never used: it needs a
//! superuser and takes tables that nobody asked for.

use sqlx::AssertSqlSafe;

use super::{PostgresBus, SourceError, TableName, quoted};

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Its number: another one if it was dropped and made again.
    pub oid: u32,
    /// Whether it has every table, also those to come.
    pub all_tables: bool,
    /// Whether inserts are published.
    pub insert: bool,
    /// Whether updates are published.
    pub update: bool,
    /// Whether deletes are published.
    pub delete: bool,
    /// Whether truncates are published.
    pub truncate: bool,
    /// Whether changes of partitions are published as those of the partitioned table.
    pub via_root: bool,
    /// The tables as whose changes rows are published: the partitions of a partitioned table without `via_root`.
    pub tables: Vec<TableName>,
    /// Tables that it names itself.
    pub named: Vec<TableName>,
    /// Tables of which it publishes a part.
    pub restricted: Vec<Restriction>,
}

/// A part of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restriction {
    /// The table.
    pub table: TableName,
    /// The condition on rows.
    pub rows: Option<String>,
    /// The columns that it looks at.
    pub row_columns: Vec<String>,
    /// The columns; empty for all.
    pub columns: Vec<String>,
}

impl Publication {
    /// Whether it publishes the table, itself or its partitions.
    #[must_use]
    pub fn has(&self, table: &TableName) -> bool {
        self.all_tables || self.named.contains(table) || self.tables.contains(table)
    }

    /// Those of `tables` that it lacks.
    #[must_use]
    pub fn missing(&self, tables: &[TableName]) -> Vec<TableName> {
        tables.iter().filter(|table| !self.has(table)).cloned().collect()
    }
}

/// `create publication …`: what an administrator runs where the role may not.
#[must_use]
pub fn create_statement(name: &str, tables: &[TableName]) -> String {
    let list: Vec<String> = tables.iter().map(TableName::quoted).collect();
    let tables = if list.is_empty() { String::new() } else { format!(" for table {}", list.join(", ")) };
    format!("create publication {}{tables} with (publish_via_partition_root = true)", quoted(name))
}

/// `alter publication … add table …`
#[must_use]
pub fn add_statement(name: &str, tables: &[TableName]) -> String {
    let list: Vec<String> = tables.iter().map(TableName::quoted).collect();
    format!("alter publication {} add table {}", quoted(name), list.join(", "))
}

impl PostgresBus {
    /// The publication `name`; none if there is none.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn publication(&self, name: &str) -> Result<Option<Publication>, SourceError> {
        let action = format!("look at the publication {name}");
        let mut connection = self.connection(&action).await?;
        let row = sqlx::query!(
            r#"select oid::bigint as "oid!", puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot
            from pg_publication where pubname = $1::text"#,
            name
        );
        let row = row.fetch_optional(&mut *connection).await.map_err(|error| self.error(&action, error, &[]))?;
        let Some(row) = row else { return Ok(None) };
        let tables = sqlx::query!(
            r#"select schemaname::text as "schema!", tablename::text as "name!" from pg_publication_tables
            where pubname = $1::text order by 1, 2"#,
            name
        );
        let tables = tables.fetch_all(&mut *connection).await.map_err(|error| self.error(&action, error, &[]))?;
        let named = sqlx::query!(
            r#"select n.nspname::text as "schema!", c.relname::text as "name!", pg_get_expr(r.prqual, r.prrelid) as rows,
                coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                    where a.attrelid = r.prrelid and a.attnum = any (r.prattrs::int2[])), '{}') as "columns!",
                -- A column of the condition is a dependency, and so is one of the list.
                coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                    where r.prqual is not null and a.attrelid = r.prrelid and (r.prattrs is null
                            or strpos(pg_get_expr(r.prqual, r.prrelid), quote_ident(a.attname)) > 0)
                        and exists (select from pg_depend d where d.classid = 'pg_publication_rel'::regclass
                            and d.objid = r.oid and d.refobjid = r.prrelid and d.refobjsubid = a.attnum
                            and d.refobjsubid > 0)), '{}') as "row_columns!"
            from pg_publication_rel r join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace
            where r.prpubid = $1::bigint::oid order by 1, 2"#,
            row.oid
        );
        let named = named.fetch_all(&mut *connection).await.map_err(|error| self.error(&action, error, &[]))?;
        let restricted = named.iter().filter(|row| row.rows.is_some() || !row.columns.is_empty());
        let restricted = restricted.map(|row| Restriction {
            table: TableName::new(&row.schema, &row.name),
            rows: row.rows.clone(),
            row_columns: row.row_columns.clone(),
            columns: row.columns.clone(),
        });
        Ok(Some(Publication {
            name: name.to_owned(),
            // An oid has 32 bits.
            oid: u32::try_from(row.oid).unwrap_or(0),
            all_tables: row.puballtables,
            insert: row.pubinsert,
            update: row.pubupdate,
            delete: row.pubdelete,
            truncate: row.pubtruncate,
            via_root: row.pubviaroot,
            restricted: restricted.collect(),
            tables: tables.into_iter().map(|row| TableName::new(row.schema, row.name)).collect(),
            named: named.into_iter().map(|row| TableName::new(row.schema, row.name)).collect(),
        }))
    }

    /// Creates a publication of `tables`, or of nothing but messages without any. Changes of partitions are published
    /// as those of their table.
    ///
    /// # Errors
    /// There is one of that name, a table is not there, or the role may not: it must own the tables and have `create`
    /// on the database.
    pub async fn create_publication(&self, name: &str, tables: &[TableName]) -> Result<(), SourceError> {
        let action = format!("create the publication {name}");
        self.define(&action, create_statement(name, tables)).await
    }

    /// Adds tables to a publication of ours.
    ///
    /// # Errors
    /// As for creating it.
    pub async fn add_tables(&self, name: &str, tables: &[TableName]) -> Result<(), SourceError> {
        let action = format!("add tables to the publication {name}");
        self.define(&action, add_statement(name, tables)).await
    }

    async fn define(&self, action: &str, statement: String) -> Result<(), SourceError> {
        let owner = format!("have the owner of the tables, who needs `create` on the database, run `{statement}`");
        let missing = "create the table first, or take it out of the trigger's `tables`".to_owned();
        let mends = [("42501", owner), ("42P01", missing.clone()), ("3F000", missing)];
        let mut connection = self.connection(action).await?;
        let ran = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await;
        ran.map(drop).map_err(|error| self.error(action, error, &mends))
    }
}

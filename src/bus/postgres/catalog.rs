//! The source's catalogue: tables as a feed needs to know them, keys, and types.
//!
//! Invariant: reads only. Whatever is asked about may be gone by then: that is a fact and no error.

use sqlx::AssertSqlSafe;

use super::{PostgresBus, SourceError, TableName};

/// What old values a table's updates and deletes carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// A table, or what has its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// The name that was asked for.
    pub table: TableName,
    /// Its oid; none when there is no such table.
    pub oid: Option<u32>,
    /// `r` a table, `p` a partitioned one, `v` a view, … as in `pg_class.relkind`.
    pub kind: char,
    /// Whether it is neither temporary nor unlogged: those are not in the WAL.
    pub logged: bool,
    /// Its replica identity.
    pub identity: Identity,
    /// The primary key's columns in their order; empty without one.
    pub key: Vec<String>,
    /// The columns whose old values updates and deletes carry; all for `Full`.
    pub identity_columns: Vec<String>,
    /// About how many rows it has; none when it was never analysed.
    pub rows: Option<u64>,
    /// Whether this role may select from it.
    pub can_select: bool,
    /// Its owner; empty when there is no such table.
    pub owner: String,
}

impl TableFacts {
    /// Whether it can be in a publication.
    #[must_use]
    pub fn is_publishable(&self) -> bool {
        self.oid.is_some() && matches!(self.kind, 'r' | 'p') && self.logged
    }

    /// Whether updates and deletes fail, for everybody, while they are published.
    #[must_use]
    pub fn breaks_updates(&self) -> bool {
        self.identity != Identity::Full && self.identity_columns.is_empty()
    }
}

impl PostgresBus {
    /// What is known about each of `names`, in their order.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn tables(&self, names: &[TableName]) -> Result<Vec<TableFacts>, SourceError> {
        const ACTION: &str = "look at the tables";
        let schemas: Vec<String> = names.iter().map(|name| name.schema.clone()).collect();
        let tables: Vec<String> = names.iter().map(|name| name.name.clone()).collect();
        let mut connection = self.connection(ACTION).await?;
        let rows = sqlx::query!(
            r#"select c.oid::bigint as "oid?", coalesce(c.relkind::text, '') as "kind!",
                coalesce(c.relpersistence = 'p', false) as "logged!",
                coalesce(c.relreplident::text, 'd') as "identity!",
                coalesce((select array_agg(a.attname::text order by k.ord)
                    from pg_index i cross join lateral unnest(i.indkey::int2[]) with ordinality k (num, ord)
                    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num
                    where i.indrelid = c.oid and i.indisprimary), '{}') as "key!",
                coalesce((select array_agg(a.attname::text order by k.ord)
                    from pg_index i cross join lateral unnest(i.indkey::int2[]) with ordinality k (num, ord)
                    join pg_attribute a on a.attrelid = c.oid and a.attnum = k.num
                    where i.indrelid = c.oid and k.ord <= i.indnkeyatts and i.indisvalid and case c.relreplident
                        when 'd' then i.indisprimary when 'i' then i.indisreplident else false end), '{}') as "identity_columns!",
                coalesce((select array_agg(a.attname::text order by a.attnum) from pg_attribute a
                    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '{}') as "columns!",
                case c.relkind when 'p' then (select sum(greatest(l.reltuples, 0))::bigint
                    from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid where t.isleaf)
                    else nullif(c.reltuples, -1)::bigint end as "rows?",
                coalesce(has_table_privilege(c.oid, 'select'), false) as "can_select!",
                coalesce(pg_get_userbyid(c.relowner)::text, '') as "owner!"
            from unnest($1::text[], $2::text[]) with ordinality as w (schema, name, ord)
            left join pg_namespace n on n.nspname = w.schema
            left join pg_class c on c.relnamespace = n.oid and c.relname = w.name
            order by w.ord"#,
            &schemas,
            &tables
        );
        let rows = rows.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        let facts = rows.into_iter().zip(names).map(|(row, name)| TableFacts {
            table: name.clone(),
            oid: row.oid.and_then(|oid| u32::try_from(oid).ok()),
            kind: row.kind.chars().next().unwrap_or(' '),
            logged: row.logged,
            identity: match row.identity.as_str() {
                "n" => Identity::Nothing,
                "f" => Identity::Full,
                "i" => Identity::Index,
                _ => Identity::Default,
            },
            key: row.key,
            identity_columns: if row.identity == "f" { row.columns } else { row.identity_columns },
            rows: row.rows.and_then(|rows| u64::try_from(rows).ok()),
            can_select: row.can_select,
            owner: row.owner,
        });
        Ok(facts.collect())
    }

    /// The primary key's columns of a relation, in their order; empty without one, or when it is gone.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn key_columns(&self, relation: u32) -> Result<Vec<String>, SourceError> {
        const ACTION: &str = "look at a table's key";
        let mut connection = self.connection(ACTION).await?;
        let names = sqlx::query_scalar!(
            r#"select a.attname::text as "name!"
            from pg_index i cross join lateral unnest(i.indkey::int2[]) with ordinality k (num, ord)
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
            where i.indrelid = $1::bigint::oid and i.indisprimary order by k.ord"#,
            i64::from(relation)
        );
        names.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))
    }
    /// The partitioned tables that a relation is a partition of, from the nearest up; empty for any other.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn partition_ancestors(&self, relation: u32) -> Result<Vec<TableName>, SourceError> {
        const ACTION: &str = "look at a partition";
        let mut connection = self.connection(ACTION).await?;
        let rows = sqlx::query!(
            r#"select n.nspname::text as "schema!", c.relname::text as "name!"
            from pg_partition_ancestors($1::bigint::oid) with ordinality a (oid, ord)
            join pg_class c on c.oid = a.oid::oid join pg_namespace n on n.oid = c.relnamespace
            where c.oid <> $1::bigint::oid order by a.ord"#,
            i64::from(relation)
        );
        let rows = rows.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        Ok(rows.into_iter().map(|row| TableName::new(row.schema, row.name)).collect())
    }
    /// Whether `filter` is a condition on rows of `table` that this role may evaluate. It is planned and not run.
    ///
    /// # Errors
    /// The server's words about the condition.
    pub async fn check_filter(&self, table: &TableName, filter: &str) -> Result<(), SourceError> {
        let action = format!("understand the condition on {table}");
        let mut connection = self.connection(&action).await?;
        // Prepared, so that it is one statement whatever the condition holds; the line feed ends a comment in it.
        let statement = format!("explain select from {} where ({filter}\n)", table.quoted());
        let planned = sqlx::query(AssertSqlSafe(statement)).persistent(false).execute(&mut *connection).await;
        planned.map(drop).map_err(|error| self.error(&action, error, &[]))
    }
}

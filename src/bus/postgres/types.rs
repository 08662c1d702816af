//! Rows of the source's `pg_type`, for whoever decodes values.
//!
//! Invariant: what is given is closed: every type that a row mentions is among the rows, unless it is gone.

use super::{PostgresBus, SourceError};
use crate::pgtype::TypeRow;

impl PostgresBus {
    /// The types `oids` and all that they are made of.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn types(&self, oids: &[u32]) -> Result<Vec<TypeRow>, SourceError> {
        const ACTION: &str = "look at types";
        let oids: Vec<i64> = oids.iter().map(|oid| i64::from(*oid)).collect();
        let mut connection = self.connection(ACTION).await?;
        let rows = sqlx::query!(
            r#"with recursive wanted (oid) as (
                select unnest($1::bigint[])::oid
                union
                select part.oid from wanted w join pg_type t on t.oid = w.oid
                cross join lateral (
                    select t.typelem as oid where t.typsubscript = 'array_subscript_handler'::regproc
                    union all select t.typbasetype where t.typtype = 'd'
                    union all select a.atttypid from pg_attribute a
                        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
                ) part)
            select t.oid::bigint as "oid!", t.typtype::text as "kind!",
                (case when t.typsubscript = 'array_subscript_handler'::regproc then t.typelem else 0 end)::bigint as "element!",
                t.typbasetype::bigint as "base!", t.typdelim::text as "delimiter!",
                coalesce(a.names, '{}') as "names!", coalesce(a.types, '{}') as "types!"
            from wanted w join pg_type t on t.oid = w.oid
            left join lateral (
                select array_agg(a.attname::text order by a.attnum) as names,
                    array_agg(a.atttypid::bigint order by a.attnum) as types
                from pg_attribute a where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0
                    and not a.attisdropped) a on true
            order by t.oid"#,
            &oids
        );
        let rows = rows.fetch_all(&mut *connection).await.map_err(|error| self.error(ACTION, error, &[]))?;
        // An oid has 32 bits.
        let oid = |oid: i64| u32::try_from(oid).unwrap_or(0);
        let types = rows.into_iter().map(|row| TypeRow {
            oid: oid(row.oid),
            kind: row.kind.chars().next().unwrap_or('b'),
            element: oid(row.element),
            base: oid(row.base),
            delimiter: row.delimiter.chars().next().unwrap_or(','),
            attributes: row.names.into_iter().zip(row.types.into_iter().map(oid)).collect(),
        });
        Ok(types.collect())
    }
}

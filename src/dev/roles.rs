//! The roles of the private Postgres, as statements that a superuser executes before anybody can connect.
//!
//! Invariant: all roles that `oncue dev` brings are made here. Every statement may be executed again, and on a folder of
//! an earlier version, whose objects belonged to the superuser.

use super::passwords::Passwords;

/// The node's login. It owns the database, may replicate, makes the logins of functions that run SQL, and is no superuser. It has not the name of Oncue's schema,
/// which `"$user"` in a `search_path` would then stand for.
pub const NODE: &str = "oncue_dev";

/// The superuser, for people: roles for functions are made with it.
pub const ADMIN: &str = "postgres";

/// The statements, each on one line.
#[must_use]
pub fn statements(passwords: &Passwords) -> Vec<String> {
    let Passwords { admin, node, .. } = passwords;
    let statements = [
        format!("alter role {ADMIN} with password '{}'", admin.0),
        format!(
            "do $do$ begin if not exists (select from pg_roles where rolname = '{NODE}') then create role {NODE}; end \
             if; end $do$"
        ),
        format!(
            "alter role {NODE} with login replication createrole nosuperuser nocreatedb nobypassrls password '{}'",
            node.0
        ),
        format!("alter database postgres owner to {NODE}"),
        format!(
            "do $do$ declare command text; begin for command in {GIVE} loop execute command || ' owner to {NODE}'; end \
             loop; end $do$"
        ),
    ];
    statements.into_iter().map(|statement| statement.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// `alter …` for everything of a user's that belongs to the superuser. What belongs to an extension stays, and so do
/// publications that only a superuser may own; a sequence follows its column.
const GIVE: &str = r"
    with mine as (select oid, nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'),
    kept as (select classid, objid from pg_depend where deptype = 'e')
    select format('alter schema %I', nspname) from pg_namespace
        where nspowner = 10 and nspname !~ '^pg_' and nspname not in ('information_schema')
    union all
    select format('alter %s %I.%I', case relkind when 'v' then 'view' when 'm' then 'materialized view'
            when 'S' then 'sequence' when 'f' then 'foreign table' when 'c' then 'type' else 'table' end, nspname, relname)
        from pg_class c join mine n on n.oid = c.relnamespace
        where relowner = 10 and relkind in ('r', 'p', 'v', 'm', 'S', 'f', 'c')
            and not exists (select from kept where classid = 'pg_class'::regclass and objid = c.oid)
            and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid
                and relkind = 'S' and deptype in ('a', 'i'))
    union all
    select format('alter routine %s', p.oid::regprocedure) from pg_proc p join mine n on n.oid = p.pronamespace
        where proowner = 10 and not exists (select from kept where classid = 'pg_proc'::regclass and objid = p.oid)
    union all
    select format('alter type %I.%I', nspname, typname) from pg_type t join mine n on n.oid = t.typnamespace
        where typowner = 10 and typtype in ('e', 'd', 'r')
            and not exists (select from kept where classid = 'pg_type'::regclass and objid = t.oid)
    union all
    select format('alter publication %I', pubname) from pg_publication p
        where pubowner = 10 and not puballtables
            and not exists (select from pg_publication_namespace where pnpubid = p.oid)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Secret;

    #[test]
    fn every_statement_is_one_line_and_the_node_is_no_superuser() {
        let secret = |word: &str| Secret(word.to_owned());
        let passwords = Passwords { admin: secret("a"), node: secret("n"), nats: secret("x") };
        let statements = statements(&passwords);
        assert!(statements.iter().all(|statement| !statement.contains('\n')));
        assert!(statements.iter().any(|statement| statement.contains("nosuperuser")));
        assert_ne!(NODE, "oncue", "the name of the schema");
    }
}

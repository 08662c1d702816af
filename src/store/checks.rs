//! What `oncue doctor` asks the database: the server, its settings, its connections, and what waits or is stuck.
//!
//! Invariant: each question is one statement that reads, none of them slower for a large ledger; the one that writes
//! only adds empty partitions. What a finding means is decided by the doctor.

use sqlx::types::time::OffsetDateTime;

use super::{MIGRATIONS, Store, StoreError};

/// The server.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `server_version_num`: 150018.
    pub version: i32,
    /// `fsync`.
    pub fsync: String,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
    /// `full_page_writes`.
    pub full_page_writes: String,
    /// `wal_level`.
    pub wal_level: String,
    /// Whether it is a standby.
    pub standby: bool,
    /// `max_connections` less what is reserved.
    pub connections_max: i32,
    /// Connections of clients.
    pub connections: i64,
    /// Its clock.
    pub now: OffsetDateTime,
}

/// Which migrations the database has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFacts {
    /// Those of this program that are not applied.
    pub missing: Vec<i64>,
    /// Those that this program does not know.
    pub unknown: Vec<i64>,
}

/// Partitions of the ledger.
#[derive(Clone, Debug)]
pub struct PartitionFacts {
    /// Whether today's partition is there.
    pub today: bool,
    /// Whether tomorrow's is.
    pub tomorrow: bool,
    /// Rows of the default partition, counted up to 10,000.
    pub default_rows: i64,
}

/// What waits.
#[derive(Clone, Debug)]
pub struct ParkedFacts {
    /// All.
    pub total: i64,
    /// Those that are due and that no node holds.
    pub overdue: i64,
    /// How long the oldest of them has been due.
    pub overdue_seconds: f64,
    /// Claims whose lease ran out.
    pub expired_claims: i64,
}

/// A count under a name.
#[derive(Clone, Debug)]
pub struct Tally {
    /// What is counted.
    pub name: String,
    /// How many.
    pub count: i64,
}

/// A node's last sign of life.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// The node.
    pub node: String,
    /// Its version of Oncue.
    pub version: String,
    /// `starting`, `running`, `draining`, `stopped`.
    pub state: String,
    /// The rules that it matches with.
    pub ruleset_version: i64,
    /// Seconds since its last sign of life.
    pub silent_seconds: f64,
}

/// A transaction that has been open for long.
#[derive(Clone, Debug)]
pub struct LongTransaction {
    /// The backend.
    pub pid: i32,
    /// `application_name`.
    pub application: String,
    /// `active`, `idle in transaction`, ….
    pub state: String,
    /// Since its start.
    pub seconds: f64,
}

impl Store {
    /// Version, settings, connections, clock.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn server_facts(&self) -> Result<ServerFacts, StoreError> {
        Ok(sqlx::query_as!(
            ServerFacts,
            r#"select current_setting('server_version_num')::int as "version!", current_setting('fsync') as "fsync!",
                      current_setting('synchronous_commit') as "synchronous_commit!",
                      current_setting('full_page_writes') as "full_page_writes!",
                      current_setting('wal_level') as "wal_level!", pg_is_in_recovery() as "standby!",
                      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                          as "connections_max!",
                      (select count(*) from pg_stat_activity where backend_type = 'client backend') as "connections!",
                      clock_timestamp() as "now!""#
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Whether a role has the name of Oncue's schema: for that role `"$user"`, and so whatever it makes without naming a
    /// schema, is in Oncue's.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn has_namesake(&self) -> Result<bool, StoreError> {
        let query = "select exists (select from pg_catalog.pg_roles where rolname = 'oncue')";
        Ok(sqlx::query_scalar(query).fetch_one(&self.pool).await?)
    }

    /// Compares the applied migrations with those of this program. Asks without compile-time checks, as the table is
    /// made by the migrator and not by a migration.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn schema_facts(&self) -> Result<SchemaFacts, StoreError> {
        let there: Option<String> =
            sqlx::query_scalar("select to_regclass('oncue.migrations')::text").fetch_one(&self.pool).await?;
        let applied: Vec<i64> = match there {
            Some(_) => {
                sqlx::query_scalar("select version from oncue.migrations where success order by 1")
                    .fetch_all(&self.pool)
                    .await?
            }
            None => Vec::new(),
        };
        let known: Vec<i64> = MIGRATIONS.iter().map(|m| m.version).collect();
        Ok(SchemaFacts {
            missing: known.iter().filter(|v| !applied.contains(v)).copied().collect(),
            unknown: applied.iter().filter(|v| !known.contains(v)).copied().collect(),
        })
    }

    /// Whether the ledger has the partitions that the next rows need.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn partition_facts(&self) -> Result<PartitionFacts, StoreError> {
        Ok(sqlx::query_as!(
            PartitionFacts,
            r#"with d as (select (now() at time zone 'UTC')::date as day)
               select to_regclass('oncue.ledger_' || to_char(day, 'YYYYMMDD')) is not null as "today!",
                      to_regclass('oncue.ledger_' || to_char(day + 1, 'YYYYMMDD')) is not null as "tomorrow!",
                      (select count(*) from (select 1 from oncue.ledger_default limit 10000) s) as "default_rows!"
               from d"#
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Adds the partitions of today and the next two days where they are missing; false if the default partition holds
    /// rows of such a day.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_partitions(&self) -> Result<bool, StoreError> {
        let added = sqlx::query_scalar!(
            r#"select bool_and(oncue.ensure_partitions((now() at time zone 'UTC')::date + ahead)) as "added!"
               from generate_series(0, 2) as ahead"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(added)
    }

    /// What waits, and what waits for too long.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn parked_facts(&self) -> Result<ParkedFacts, StoreError> {
        Ok(sqlx::query_as!(
            ParkedFacts,
            r#"select count(*) as "total!", count(*) filter (where next_at <= now() and token is null) as "overdue!",
                      coalesce(extract(epoch from now() - min(next_at) filter (where next_at <= now() and token is null)),
                               0)::float8 as "overdue_seconds!",
                      count(*) filter (where lease_until < now()) as "expired_claims!"
               from oncue.parked"#
        )
        .fetch_one(&self.pool)
        .await?)
    }

    /// Dead letters that nobody has looked after, by class and rule, the most frequent first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn dead_letter_tally(&self, limit: i64) -> Result<Vec<Tally>, StoreError> {
        Ok(sqlx::query_as!(
            Tally,
            r#"select class || coalesce(' of rule ' || rule, ' on trigger ' || trigger) as "name!", count(*) as "count!"
               from oncue.dead_letters where state = 'dead' group by 1 order by 2 desc, 1 limit $1"#,
            limit
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Nodes that have not stopped.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_facts(&self) -> Result<Vec<NodeFacts>, StoreError> {
        Ok(sqlx::query_as!(
            NodeFacts,
            r#"select node, version, state, ruleset_version,
                      extract(epoch from now() - beat_at)::float8 as "silent_seconds!"
               from oncue.nodes where state <> 'stopped' order by node"#
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// The node that has the lease `name`; none while nobody has it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn lease_owner(&self, name: &str) -> Result<Option<String>, StoreError> {
        let owner = sqlx::query_scalar!("select owner from oncue.leases where name = $1 and expires_at > now()", name);
        Ok(owner.fetch_optional(&self.pool).await?)
    }

    /// Transactions of this database that have been open for more than five minutes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn long_transactions(&self) -> Result<Vec<LongTransaction>, StoreError> {
        Ok(sqlx::query_as!(
            LongTransaction,
            r#"select pid as "pid!", coalesce(application_name, '') as "application!", coalesce(state, '') as "state!",
                      extract(epoch from now() - xact_start)::float8 as "seconds!"
               from pg_stat_activity
               where datname = current_database() and backend_xmin is not null
                 and xact_start < now() - interval '5 minutes'
               order by xact_start limit 5"#
        )
        .fetch_all(&self.pool)
        .await?)
    }
}

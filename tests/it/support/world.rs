//! A Postgres with the tables and a nats-server with JetStream, for one test.

use std::path::{Path, PathBuf};

use async_nats::jetstream;
use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::message::StreamMessage;
use oncue::dev::servers::{
    NatsConfig, Overrides, PostgresConfig, PrivateNats, PrivatePostgres, find_nats_server, find_postgres,
};
use oncue::store::guest::Guests;
use oncue::store::{self, Store};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgPool, PgPoolOptions};

/// What lives longer than one test: the template of the clusters and the compiled components.
pub fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The servers of one test, and connections to them. Both end with it.
pub struct World {
    pub pool: PgPool,
    pub nats: async_nats::Client,
    pub jetstream: jetstream::Context,
    pub postgres: PrivatePostgres,
    pub nats_server: PrivateNats,
    pub dir: tempfile::TempDir,
}

impl World {
    /// Servers with empty streams and the tables.
    pub async fn start() -> Self {
        let world = Self::without_tables().await;
        world.store().migrate().await.expect("the migrations apply");
        world
    }

    /// Servers with nothing in them.
    pub async fn without_tables() -> Self {
        Self::with_settings(&[]).await
    }

    /// Servers with nothing in them; Postgres has these settings.
    pub async fn with_settings(settings: &[(&str, &str)]) -> Self {
        // Postgres does not run as root, so another user must be able to enter.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("oncue-it-").permissions(mode).tempdir().expect("a directory");
        let (postgres, nats_server) = tokio::join!(start_postgres(dir.path(), settings), start_nats(dir.path()));
        let pool = PgPoolOptions::new().max_connections(6).connect_lazy(postgres.url()).expect("the address is valid");
        let nats = async_nats::connect(nats_server.url()).await.expect("nats-server answers");
        let jetstream = jetstream::new(nats.clone());
        Self { pool, nats, jetstream, postgres, nats_server, dir }
    }

    /// The product's own view of the database.
    pub fn store(&self) -> Store {
        Store::connect_lazy(&store::Config::new(self.postgres.url())).expect("the address is valid")
    }

    /// The product's own connections for the statements of functions.
    pub fn guests(&self) -> Guests {
        oncue::node::NodeConfig::new("guests", self.postgres.url()).guests(&self.store())
    }

    /// Runs statements, as `psql` would.
    pub async fn sql(&self, statements: &str) {
        self.try_sql(statements).await.unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// Runs statements that may be refused.
    pub async fn try_sql(&self, statements: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.map(drop)
    }

    /// The name of the constraint that refuses `statements`, or the whole error where there is none.
    pub async fn refusal(&self, statements: &str) -> String {
        let Err(error) = self.try_sql(statements).await else { return "(accepted)".to_owned() };
        let constraint = error.as_database_error().and_then(sqlx::error::DatabaseError::constraint);
        constraint.map_or_else(|| error.to_string(), str::to_owned)
    }

    /// The rows of a query, each as a JSON object.
    pub async fn rows(&self, query: &str) -> Vec<Value> {
        self.try_rows(query).await.unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// The rows of a query while the server may be away.
    pub async fn try_rows(&self, query: &str) -> Result<Vec<Value>, sqlx::Error> {
        let text = format!("select to_jsonb(q) from ({query}) as q");
        sqlx::query_scalar(AssertSqlSafe(text)).fetch_all(&self.pool).await
    }

    /// The only row of a query.
    pub async fn row(&self, query: &str) -> Value {
        let mut rows = self.rows(query).await;
        assert_eq!(rows.len(), 1, "one row: {query}: {rows:?}");
        rows.remove(0)
    }

    /// The number that a query gives.
    pub async fn number(&self, query: &str) -> i64 {
        let text = format!("select ({query})::bigint");
        let number = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&self.pool).await;
        number.unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// Ledger rows with that condition.
    pub async fn ledger(&self, condition: &str) -> i64 {
        self.number(&format!("select count(*) from oncue.ledger where {condition}")).await
    }

    /// Adds a version of a function, which becomes its current one.
    pub async fn deploy(&self, name: &str, component: &[u8], spec: &Value) {
        let mut tx = self.pool.begin().await.expect("a transaction");
        let digest = oncue::runtime::digest(component);
        let insert = "insert into oncue.components (digest, bytes) values ($1, $2) on conflict do nothing";
        sqlx::query(insert).bind(&digest[..]).bind(component).execute(&mut *tx).await.expect("the component is stored");
        let next = "insert into oncue.functions as f (name, current_version) values ($1, 1)
             on conflict (name) do update set current_version = f.current_version + 1 returning current_version";
        let version: i32 =
            sqlx::query_scalar(next).bind(name).fetch_one(&mut *tx).await.expect("the function is stored");
        let insert = "insert into oncue.function_versions (function, version, digest, spec) values ($1, $2, $3, $4)";
        let insert = sqlx::query(insert).bind(name).bind(version).bind(&digest[..]).bind(spec);
        insert.execute(&mut *tx).await.expect("the version is stored");
        tx.commit().await.expect("the function is deployed");
    }

    /// Adds a JetStream trigger on the bus `main`; `more` are fields of its spec.
    pub async fn jetstream_trigger(&self, name: &str, stream: &str, more: Value) {
        let mut spec = serde_json::json!({ "stream": stream });
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("fields").clone());
        let insert = "insert into oncue.triggers (name, bus, kind, spec) values ($1, 'main', 'jetstream', $2)";
        sqlx::query(insert).bind(name).bind(spec).execute(&self.pool).await.expect("the trigger is stored");
    }

    /// Adds a change feed on the bus `app`, which makes what it needs; `more` are fields of its spec.
    pub async fn feed(&self, name: &str, tables: &[&str], more: Value) {
        let mut spec = serde_json::json!({ "tables": tables, "create": true });
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("fields").clone());
        let insert = "insert into oncue.triggers (name, bus, kind, spec) values ($1, 'app', 'postgres', $2)";
        sqlx::query(insert).bind(name).bind(spec).execute(&self.pool).await.expect("the trigger is stored");
    }

    /// Adds a Kafka trigger on the bus `k`; `more` are fields of its spec.
    pub async fn kafka_trigger(&self, name: &str, topics: &[&str], more: Value) {
        let mut spec = serde_json::json!({ "topics": topics });
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("fields").clone());
        let insert = "insert into oncue.triggers (name, bus, kind, spec) values ($1, 'k', 'kafka', $2)";
        sqlx::query(insert).bind(name).bind(spec).execute(&self.pool).await.expect("the trigger is stored");
    }

    /// Adds a rule that runs the steered function on every event of `trigger` with the instruction `what`.
    pub async fn steer(&self, rule: &str, trigger: &str, what: &str) {
        let insert =
            "insert into oncue.rules (name, trigger, match_all, run, input) values ($1, $2, true, 'steered', $3)";
        let input = format!(r#"{{"do":"{what}"}}"#);
        sqlx::query(insert).bind(rule).bind(trigger).bind(input).execute(&self.pool).await.expect("the rule is stored");
    }

    /// Adds a stream that stores `subjects`.
    pub async fn stream(&self, name: &str, subjects: &[&str]) {
        let subjects = subjects.iter().map(|s| (*s).to_owned()).collect();
        let config = jetstream::stream::Config { name: name.to_owned(), subjects, ..Default::default() };
        self.jetstream.create_stream(config).await.expect("the stream is created");
    }

    /// Publishes to a stream, and waits until it is stored.
    pub async fn publish(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) {
        let mut map = async_nats::HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.append(*name, *value));
        let sent = self.jetstream.publish_with_headers(subject.to_owned(), map, payload.to_vec().into()).await;
        sent.expect("it is sent").await.expect("it is stored");
    }

    /// Publishes by core NATS, and waits until the server has read it.
    pub async fn publish_core(&self, subject: &str, payload: &str) {
        let sent = self.nats.publish(subject.to_owned(), payload.to_owned().into()).await;
        sent.expect("it is sent");
        self.nats.flush().await.expect("nats-server answers");
    }

    /// Publishes many messages, and waits until all are stored.
    pub async fn publish_all(&self, subject: &str, payloads: impl IntoIterator<Item = String>) {
        let plain = |payload: String| (async_nats::HeaderMap::new(), payload);
        self.publish_many(subject, payloads.into_iter().map(plain)).await;
    }

    /// Publishes many CloudEvents in binary mode, each of an id and its data; the type is the subject.
    pub async fn publish_events(&self, subject: &str, events: impl IntoIterator<Item = (String, String)>) {
        let event = |(id, data): (String, String)| {
            let attributes = [("specversion", "1.0"), ("source", "test"), ("type", subject), ("id", id.as_str())];
            let named = attributes.map(|(name, value)| (format!("ce-{name}"), value.to_owned()));
            let mut headers = async_nats::HeaderMap::new();
            named.into_iter().for_each(|(name, value)| headers.insert(name, value));
            (headers, data)
        };
        self.publish_many(subject, events.into_iter().map(event)).await;
    }

    async fn publish_many(&self, subject: &str, messages: impl IntoIterator<Item = (async_nats::HeaderMap, String)>) {
        let mut waiting = Vec::new();
        for (headers, payload) in messages {
            let sent = self.jetstream.publish_with_headers(subject.to_owned(), headers, payload.into()).await;
            waiting.push(sent.expect("it is sent"));
            if waiting.len() == 500 {
                for stored in waiting.drain(..) {
                    stored.await.expect("it is stored");
                }
            }
        }
        for stored in waiting {
            stored.await.expect("it is stored");
        }
    }

    /// What the server says of a consumer; none while it does not answer or there is none.
    pub async fn consumer(&self, stream: &str, consumer: &str) -> Option<Info> {
        let stream = self.jetstream.get_stream(stream).await.ok()?;
        stream.consumer_info(consumer).await.ok()
    }

    /// Whether `consumer` has delivered everything and has nothing left to be acknowledged.
    pub async fn drained(&self, stream: &str, consumer: &str) -> bool {
        self.consumer(stream, consumer).await.is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    }

    /// All messages of a stream, in order.
    pub async fn messages(&self, stream: &str) -> Vec<StreamMessage> {
        let mut handle = self.jetstream.get_stream(stream).await.expect("the stream is there");
        let state = handle.info().await.expect("the stream answers").state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            messages.push(handle.get_raw_message(sequence).await.expect("the message is there"));
        }
        messages
    }

    /// How many messages a stream holds.
    pub async fn stored(&self, stream: &str) -> u64 {
        let mut handle = self.jetstream.get_stream(stream).await.expect("the stream is there");
        handle.info().await.expect("the stream answers").state.messages
    }
}

/// A Postgres for one test, with nothing in it.
pub async fn start_postgres(dir: &Path, settings: &[(&str, &str)]) -> PrivatePostgres {
    start_postgres_with(&dir.join("postgres"), settings, true).await
}

/// The same in `data_dir` with settings. Those that are `copied` have one system identifier, and start sooner.
pub async fn start_postgres_with(data_dir: &Path, settings: &[(&str, &str)], copied: bool) -> PrivatePostgres {
    // Another major version than the machine's: its template is kept apart by the version.
    let pg_bin = std::env::var_os("ONCUE_PG_BIN").map(PathBuf::from);
    let bin = find_postgres(&Overrides { pg_bin, ..Overrides::default() }).expect("Postgres binaries");
    let config = PostgresConfig {
        durable: false,
        template_dir: copied.then(|| kept("postgres-templates")),
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..PostgresConfig::new(bin, data_dir.to_owned())
    };
    PrivatePostgres::start(config).await.expect("Postgres starts")
}

async fn start_nats(dir: &Path) -> PrivateNats {
    let program = find_nats_server(&Overrides::default()).expect("a nats-server");
    PrivateNats::start(NatsConfig::new(program, dir.join("nats"))).await.expect("nats-server starts")
}

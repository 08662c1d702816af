//! A slot of a private Postgres, read by SQL and decoded as the product does.

use std::collections::HashMap;
use std::path::Path;

use oncue::bus::BusConfig;
use oncue::bus::postgres::PostgresBus;
use oncue::dev::servers::PrivatePostgres;
use oncue::event::{Event, codec};
use oncue::lsn::Lsn;
use oncue::pgtype::Types;
use oncue::triggers::postgres::change::{Change, Origin, Table, Transaction};
use oncue::triggers::postgres::pgoutput::{Message, Relation, decode};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use crate::support::world::kept;
use crate::support::world::start_postgres;

/// A publication of all tables, and a slot that has not been read.
pub struct Feed {
    session: PgConnection,
    bus: PostgresBus,
    types: Types,
    tables: HashMap<u32, Table>,
    server: Option<PrivatePostgres>,
    dir: Option<tempfile::TempDir>,
}

/// One event, taken apart.
pub struct Decoded {
    event: Event,
    members: HashMap<String, Box<serde_json::value::RawValue>>,
}

/// The settings under which values are written, as a feed's session has them.
const SETTINGS: &str = "set datestyle = 'ISO'; set intervalstyle = 'postgres'; set timezone = 'UTC';
    set extra_float_digits = 1; set bytea_output = 'hex'; set client_encoding = 'UTF8'";

impl Feed {
    pub async fn start() -> Self {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let dir = tempfile::Builder::new().prefix("oncue-it-").permissions(mode).tempdir().expect("a directory");
        let server = start_postgres(dir.path(), &[]).await;
        Self { dir: Some(dir), ..Self::connect(server.url()).await }.with(server)
    }

    /// A feed of another database of the same server, which it takes over.
    pub async fn database(self, name: &str) -> Self {
        let server = self.server.expect("it is the first");
        let url = server.url().replace("/postgres?", &format!("/{name}?"));
        Self { dir: self.dir, ..Self::connect(&url).await }.with(server)
    }

    fn with(self, server: PrivatePostgres) -> Self {
        Self { server: Some(server), ..self }
    }

    async fn connect(url: &str) -> Self {
        let session = PgConnection::connect(url).await.expect("Postgres answers");
        let bus = PostgresBus::new("source", &BusConfig::postgres(url)).expect("the address is valid");
        let mut feed = Self { session, bus, types: Types::new(), tables: HashMap::new(), server: None, dir: None };
        feed.sql(SETTINGS).await;
        feed.sql("create publication p for all tables").await;
        feed.sql("select pg_create_logical_replication_slot('feed_' || current_database(), 'pgoutput')").await;
        feed
    }

    /// Runs statements, as `psql` would.
    pub async fn sql(&mut self, statements: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut self.session).await;
        done.unwrap_or_else(|error| panic!("{error}: {statements}"));
    }

    /// The rows of a query, each as a JSON object.
    pub async fn rows(&mut self, query: &str) -> Vec<Value> {
        let query = format!("select to_jsonb(q) from ({query}) as q");
        let rows = sqlx::query_scalar(AssertSqlSafe(query.clone())).fetch_all(&mut self.session).await;
        rows.unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// The texts of a query of one column.
    pub async fn texts(&mut self, query: &str) -> Vec<String> {
        let rows = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut self.session).await;
        rows.unwrap_or_else(|error| panic!("{error}: {query}"))
    }

    /// What the slot has to tell since it was read last.
    async fn messages(&mut self) -> Vec<Vec<u8>> {
        let query = "select data from pg_logical_slot_get_binary_changes('feed_' || current_database(), null, null,
            'proto_version', '1', 'publication_names', 'p', 'messages', 'true')";
        let rows = sqlx::raw_sql(query).fetch_all(&mut self.session).await.expect("the slot is read");
        // By raw SQL, for a prepared statement would need its types from a catalogue that the test changes; so in text.
        let hex = |row: sqlx::postgres::PgRow| row.try_get_unchecked::<Vec<u8>, _>(0).expect("bytes");
        rows.into_iter().map(hex).collect()
    }

    /// The events since it was read last, types asked for as they are needed.
    pub async fn events(&mut self) -> Vec<Decoded> {
        self.decode(true).await
    }

    /// The same, with what is known.
    pub async fn events_without_asking(&mut self) -> Vec<Decoded> {
        self.decode(false).await
    }

    /// As after a restart.
    pub fn forget_types(&mut self) {
        self.types = Types::new();
    }

    async fn decode(&mut self, asking: bool) -> Vec<Decoded> {
        let origin = Origin::new("7423", "it");
        let mut events = Vec::new();
        let mut transaction = None;
        let mut ordinal = 0;
        for bytes in self.messages().await {
            let (relations, change) = match decode(&bytes).expect("a message of version 1") {
                Message::Begin(begin) => {
                    transaction = Some(Transaction::new(begin.xid, begin.commit_lsn, begin.commit_time_micros));
                    ordinal = 0;
                    continue;
                }
                Message::Relation(relation) => {
                    self.announce(&relation, asking).await;
                    continue;
                }
                Message::Insert { relation, new } => (vec![relation], Change::Insert(new)),
                Message::Update { relation, old, new } => (vec![relation], Change::Update { old, new }),
                Message::Delete { relation, old } => (vec![relation], Change::Delete(old)),
                Message::Truncate { relations, cascade, restart_identity } => {
                    (relations, Change::Truncate { cascade, restart_identity })
                }
                Message::Commit(_) | Message::Origin { .. } | Message::Type { .. } | Message::Logical(_) => continue,
            };
            let transaction = transaction.as_ref().expect("a change stands in a transaction");
            for relation in relations {
                let table = &self.tables[&relation];
                ordinal += 1;
                let event = table.event(&change, transaction, ordinal, &origin).expect("the row fits");
                events.push(Decoded::new(event, table, transaction, ordinal));
            }
        }
        events
    }

    async fn announce(&mut self, relation: &Relation<'_>, asking: bool) {
        if asking {
            self.learn(relation.columns.iter().map(|c| c.ty).collect()).await;
        }
        let primary_key = self.bus.key_columns(relation.oid).await.expect("the catalogue answers");
        self.tables.insert(relation.oid, Table::new(relation, &self.types, &primary_key));
    }

    async fn learn(&mut self, oids: Vec<u32>) {
        let missing = self.types.missing(oids);
        if !missing.is_empty() {
            self.types.learn(self.bus.types(&missing).await.expect("the catalogue answers"));
        }
    }

    /// What came, in a word each.
    pub async fn story(&mut self) -> Vec<String> {
        let word = |bytes: &Vec<u8>| match decode(bytes).expect("a message of version 1") {
            Message::Begin(begin) => {
                assert!(begin.xid > 0 && begin.commit_lsn > Lsn::ZERO && begin.commit_time_micros > 0);
                "begin".to_owned()
            }
            Message::Commit(commit) => {
                assert!(commit.end_lsn > commit.commit_lsn && commit.flags == 0);
                "commit".to_owned()
            }
            Message::Relation(relation) => format!("relation {}", relation.name),
            Message::Insert { .. } => "insert".to_owned(),
            Message::Truncate { .. } => "truncate".to_owned(),
            Message::Logical(message) => {
                assert!(message.lsn > Lsn::ZERO);
                let place = if message.transactional { " (in the transaction)" } else { "" };
                format!("message {} {}{place}", message.prefix, String::from_utf8_lossy(message.content))
            }
            other => panic!("{other:?}"),
        };
        self.messages().await.iter().map(word).collect()
    }
}

impl Decoded {
    /// Checks what is in no golden file, for it is never the same twice.
    fn new(event: Event, table: &Table, transaction: &Transaction, ordinal: u32) -> Self {
        codec::check(&event).expect("every event keeps the rules");
        assert_eq!(event.id, format!("7423-{}-{ordinal}", transaction.commit_lsn));
        assert_eq!((event.source.as_str(), event.time), ("postgres/it", Some(transaction.commit_time)));
        let members: HashMap<String, Box<serde_json::value::RawValue>> =
            serde_json::from_slice(&event.data).expect("one JSON object");
        let decoded = Self { event, members };
        let expected = [
            ("schema", serde_json::to_string(&table.schema).expect("text")),
            ("table", serde_json::to_string(&table.name).expect("text")),
            ("xid", transaction.xid.to_string()),
            ("commit_lsn", format!("\"{}\"", transaction.commit_lsn)),
            ("ordinal", ordinal.to_string()),
        ];
        for (name, value) in expected {
            assert_eq!(decoded.member(name), value);
        }
        decoded
    }

    pub fn subject(&self) -> &str {
        self.event.subject.as_deref().unwrap_or_default()
    }

    pub fn table(&self) -> String {
        serde_json::from_str(self.member("table")).expect("text")
    }

    /// A member of the payload as it stands there, empty if it is not there.
    pub fn member(&self, name: &str) -> &str {
        self.members.get(name).map(|value| value.get()).unwrap_or_default()
    }
}

/// Each event as a line: its type, its subject, and the payload but for what is never the same twice.
pub fn lines(events: &[Decoded]) -> Vec<String> {
    let line = |decoded: &Decoded| {
        let data = std::str::from_utf8(&decoded.event.data).expect("JSON is UTF-8");
        let end = data.rfind(",\"schema\":").expect("it is there");
        let [ty, subject] = [Some(&decoded.event.ty), decoded.event.subject.as_ref()]
            .map(|text| serde_json::to_string(&text).expect("text"));
        format!("[{ty},{subject},{}}}]", &data[..end])
    };
    events.iter().map(line).collect()
}

/// Compares with `tests/data/feed/<name>.jsonl`, line by line and byte by byte.
pub fn assert_golden(name: &str, lines: &[String]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/feed/{name}.jsonl"));
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let expected: Vec<&str> = golden.lines().collect();
    if lines == expected {
        return;
    }
    let seen = kept("feed").join(format!("{name}.jsonl"));
    std::fs::create_dir_all(kept("feed")).expect("a directory");
    std::fs::write(&seen, lines.join("\n") + "\n").expect("it is written");
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(
            Some(&line.as_str()),
            expected.get(at),
            "{name}.jsonl:{}; what came is in {}",
            at + 1,
            seen.display()
        );
    }
    panic!("{name}.jsonl has {} lines, {} came: {}", expected.len(), lines.len(), seen.display());
}

//! Changes of rows → events.
//!
//! Invariant: the same change of the same transaction is the same event, byte for byte, whenever and wherever it is
//! decoded with the same [`Table`]: nothing here depends on a clock, a configuration or what was decoded before. A
//! value that cannot be read never stops it; the event then carries its text and says so. Asks nothing of a server.
//!
//! `data` is one object: `op`, `before`, `after`, `changed`, `unchanged`, `undecoded` (only where there are any), of a
//! truncation `cascade` and `restart_identity`, then `schema`, `table`, `xid`, `commit_lsn`, `commit_time`, `ordinal`.
//! - `before` is what the server told of the old row: all of it under `REPLICA IDENTITY FULL`, else the columns of the
//!   replica identity, and of an update only when one of them changed; null where it told nothing.
//! - `after` lacks the columns that `unchanged` names: stored out of line, not touched, and so not sent. What `before`
//!   knows of them stands in `after` all the same.
//! - `changed` names the columns of an update that `before` knows and that are different now. So without
//!   `REPLICA IDENTITY FULL` it can only ever name columns of the key, and it is empty for all other operations.
//! - `undecoded` names the columns whose value is the server's text, or bytes in hexadecimal, because its type is not
//!   known or does not write such text.

mod data;
mod names;
mod subject;
mod tell;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::pgoutput::{Identity, Old, Relation, Tuple, Value};
use crate::event::Event;
use crate::lsn::Lsn;
use crate::pgtype::{Type, Types, json};

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// It came.
    Insert,
    /// It changed.
    Update,
    /// It went.
    Delete,
    /// All rows of the table went.
    Truncate,
    /// It was there when a snapshot was taken.
    Read,
}

/// A change, with the rows that tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A row came.
    Insert(Tuple<'a>),
    /// A row changed.
    Update {
        /// What it was, as far as the server tells.
        old: Option<Old<'a>>,
        /// What it is.
        new: Tuple<'a>,
    },
    /// A row went.
    Delete(Old<'a>),
    /// All rows of the table went.
    Truncate {
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// A row was there when a snapshot was taken.
    Read(Tuple<'a>),
}

/// A table as one relation message describes it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its number.
    pub relation: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The columns that are published, in their order.
    pub columns: Vec<Column>,
    /// Which columns are the subject of its events, in their order; see [`Table::new`].
    pub key: Vec<usize>,
    /// `REPLICA IDENTITY FULL`.
    pub full_identity: bool,
    /// By operation.
    event_types: [String; Op::ALL.len()],
    /// The members that name it.
    members: Vec<u8>,
    /// What the names of all columns take in a row.
    names_size: usize,
}

/// A column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type; `None`: it could not be found out, so values are told as text.
    pub ty: Option<Arc<Type>>,
    /// It belongs to the replica identity.
    pub identity: bool,
    /// Its name as a JSON string.
    label: Vec<u8>,
}

/// What the changes of one transaction have in common.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its number.
    pub xid: u32,
    /// Where its commit record stands.
    pub commit_lsn: Lsn,
    /// When it committed.
    pub commit_time: OffsetDateTime,
    /// The members that name it, up to the value of `ordinal`.
    members: String,
}

/// What all events of one feed have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The attribute `source`.
    pub source: String,
    /// The system identifier of the server: log positions are unique only with it.
    pub system: String,
}

/// A row that does not fit its relation: the stream is damaged, or the relation message was missed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decoding a row of {schema}.{table}: it has {values} values, its relation has {columns} columns")]
pub struct RowMismatch {
    /// The table's schema.
    pub schema: String,
    /// The table's name.
    pub table: String,
    /// How many values the row has.
    pub values: usize,
    /// How many columns the relation has.
    pub columns: usize,
}

impl Op {
    const ALL: [Self; 5] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate, Self::Read];

    /// As events name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
            Self::Read => "read",
        }
    }
}

impl<'a> Change<'a> {
    /// What happened.
    #[must_use]
    pub fn op(&self) -> Op {
        match self {
            Self::Insert(_) => Op::Insert,
            Self::Update { .. } => Op::Update,
            Self::Delete(_) => Op::Delete,
            Self::Truncate { .. } => Op::Truncate,
            Self::Read(_) => Op::Read,
        }
    }

    fn before(&self) -> Option<Old<'a>> {
        match self {
            Self::Update { old, .. } => *old,
            Self::Delete(old) => Some(*old),
            Self::Insert(_) | Self::Truncate { .. } | Self::Read(_) => None,
        }
    }

    fn after(&self) -> Option<Tuple<'a>> {
        match self {
            Self::Insert(new) | Self::Update { new, .. } | Self::Read(new) => Some(*new),
            Self::Delete(_) | Self::Truncate { .. } => None,
        }
    }
}

impl Table {
    /// The table that `relation` announces; `primary_key` names its primary key's columns, empty if it has none or it
    /// is not known.
    ///
    /// Its key is what every kind of its events can tell: the replica identity's columns if that is the default one;
    /// the primary key if the identity is full, nothing, or an index that contains it; else that index's columns. They
    /// stand in the table's order, so that the key does not depend on how it was declared.
    #[must_use]
    pub fn new(relation: &Relation<'_>, types: &Types, primary_key: &[String]) -> Self {
        let columns: Vec<Column> =
            relation.columns.iter().map(|c| Column::new(&c.name, types.get(c.ty), c.identity)).collect();
        let event_type = |op: Op| {
            let [schema, name] = [&relation.schema, &relation.name].map(|name| names::subject_token(name));
            format!("postgres.{schema}.{name}.{}", op.name())
        };
        let mut members = b"\"schema\":".to_vec();
        json::string(&mut members, &relation.schema);
        members.extend_from_slice(b",\"table\":");
        json::string(&mut members, &relation.name);
        Self {
            relation: relation.oid,
            schema: relation.schema.clone().into_owned(),
            name: relation.name.clone().into_owned(),
            key: key(&columns, relation.identity, primary_key),
            full_identity: relation.identity == Identity::Full,
            event_types: Op::ALL.map(event_type),
            members,
            names_size: columns.iter().map(|c| c.label.len() + ":null,".len()).sum(),
            columns,
        }
    }

    /// The type of its events of `op`.
    #[must_use]
    pub fn event_type(&self, op: Op) -> &str {
        &self.event_types[op as usize]
    }

    /// The event that tells of `change`, the `ordinal`th of its transaction.
    ///
    /// # Errors
    /// [`RowMismatch`] if a row has more or fewer values than the table has columns.
    pub fn event(
        &self,
        change: &Change<'_>,
        transaction: &Transaction,
        ordinal: u32,
        origin: &Origin,
    ) -> Result<Event, RowMismatch> {
        self.check(change.before().map(|old| old.tuple))?;
        self.check(change.after())?;
        Ok(Event {
            id: event_id(origin, transaction, ordinal),
            source: origin.source.clone(),
            ty: self.event_type(change.op()).to_owned(),
            subject: self.subject(change),
            time: Some(transaction.commit_time),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: Vec::new(),
            data: Bytes::from(self.data(change, transaction, ordinal)),
        })
    }

    fn check(&self, tuple: Option<Tuple<'_>>) -> Result<(), RowMismatch> {
        let columns = self.columns.len();
        match tuple.map(|tuple| tuple.len()).filter(|values| *values != columns) {
            None => Ok(()),
            Some(values) => {
                let (schema, table) = (self.schema.clone(), self.name.clone());
                Err(RowMismatch { schema, table, values, columns })
            }
        }
    }

    /// The values of the old row that the server told, null where it told nothing of a column.
    fn known<'a>(&self, old: Old<'a>) -> impl Iterator<Item = Option<Value<'a>>> {
        let told = move |(column, value): (&Column, Value<'a>)| {
            let sent = (old.is_full() || column.identity) && value != Value::Unchanged;
            sent.then_some(value)
        };
        self.columns.iter().zip(old.tuple.values()).map(told)
    }
}

fn event_id(origin: &Origin, transaction: &Transaction, ordinal: u32) -> String {
    format!("{}-{}-{ordinal}", origin.system, transaction.commit_lsn)
}

/// See [`Table::new`].
fn key(columns: &[Column], identity: Identity, primary_key: &[String]) -> Vec<usize> {
    let at = |wanted: &dyn Fn(&Column) -> bool| -> Vec<usize> {
        columns.iter().enumerate().filter(|(_, c)| wanted(c)).map(|(at, _)| at).collect()
    };
    let primary = at(&|c| primary_key.contains(&c.name));
    let whole = primary.len() == primary_key.len();
    let told = primary.iter().all(|at| columns[*at].identity);
    match identity {
        Identity::Full | Identity::Nothing if whole => primary,
        Identity::Full | Identity::Nothing => Vec::new(),
        Identity::Index if whole && told && !primary.is_empty() => primary,
        Identity::Default | Identity::Index => at(&|c| c.identity),
    }
}

impl Column {
    fn new(name: &str, ty: Option<Arc<Type>>, identity: bool) -> Self {
        let mut label = Vec::with_capacity(name.len() + 2);
        json::string(&mut label, name);
        Self { name: name.to_owned(), ty, identity, label }
    }
}

impl Transaction {
    /// A transaction that committed `commit_time_micros` after 2000-01-01 UTC, as messages tell it. What no year from
    /// 0000 to 9999 has room for becomes the nearest that one has.
    #[must_use]
    pub fn new(xid: u32, commit_lsn: Lsn, commit_time_micros: i64) -> Self {
        let epoch = time::macros::datetime!(2000-01-01 0:00 UTC);
        let (first, last) =
            (time::macros::datetime!(0000-01-01 0:00 UTC), time::macros::datetime!(9999-12-31 0:00 UTC));
        let commit_time = epoch.saturating_add(Duration::microseconds(commit_time_micros)).clamp(first, last);
        let shown = commit_time.format(&Rfc3339).unwrap_or_default();
        let members = format!("\"xid\":{xid},\"commit_lsn\":\"{commit_lsn}\",\"commit_time\":\"{shown}\",\"ordinal\":");
        Self { xid, commit_lsn, commit_time, members }
    }
}

impl Origin {
    /// A feed from `database` of the server with that system identifier.
    #[must_use]
    pub fn new(system: &str, database: &str) -> Self {
        Self { source: format!("postgres/{}", names::path_segment(database)), system: system.to_owned() }
    }
}

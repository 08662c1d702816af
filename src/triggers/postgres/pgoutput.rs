//! Messages of the pgoutput plugin, protocol version 1 (Postgres 15 to 18; "Logical Replication Message Formats").
//!
//! Invariant: no bytes make it panic, and nothing is allocated that is not paid for by bytes of the message: a tuple
//! is checked once, whole, and read where it lies. It keeps no state: whether a relation was announced, and what its
//! columns mean, is for [`change`](super::change).

mod read;
#[cfg(test)]
mod tests;
mod tuple;

use std::borrow::Cow;

use crate::lsn::Lsn;

use self::read::Reader;
pub use self::tuple::{Row, Tuple, Value, Values};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins; it has committed already.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// It came from another server by replication.
    Origin {
        /// Where it committed there.
        commit_lsn: Lsn,
        /// The replication origin's name.
        name: Cow<'a, str>,
    },
    /// What the tuples of a relation look like from here on.
    Relation(Relation<'a>),
    /// The name of a type that is not built in, before the relation that uses it.
    Type {
        /// Its number.
        oid: u32,
        /// Its schema.
        schema: Cow<'a, str>,
        /// Its name.
        name: Cow<'a, str>,
    },
    /// A row came.
    Insert {
        /// The relation's number.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// The relation's number.
        relation: u32,
        /// What it was, as far as the replica identity tells; `None`: its key did not change.
        old: Option<Old<'a>>,
        /// What it is.
        new: Tuple<'a>,
    },
    /// A row went.
    Delete {
        /// The relation's number.
        relation: u32,
        /// What it was.
        old: Old<'a>,
    },
    /// All rows of some relations went.
    Truncate {
        /// The relations' numbers.
        relations: Vec<u32>,
        /// `CASCADE` was given.
        cascade: bool,
        /// `RESTART IDENTITY` was given.
        restart_identity: bool,
    },
    /// `pg_logical_emit_message`.
    Logical(Logical<'a>),
}

/// The beginning of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where its commit record stands.
    pub commit_lsn: Lsn,
    /// When it committed, in microseconds since 2000-01-01 UTC.
    pub commit_time_micros: i64,
    /// Its number.
    pub xid: u32,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// None are defined.
    pub flags: u8,
    /// Where its commit record stands.
    pub commit_lsn: Lsn,
    /// Where that record ends: what is confirmed when the transaction is settled.
    pub end_lsn: Lsn,
    /// When it committed, in microseconds since 2000-01-01 UTC.
    pub commit_time_micros: i64,
}

/// A relation's columns, as they are at this place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Its number, by which later messages call it.
    pub oid: u32,
    /// Its schema.
    pub schema: Cow<'a, str>,
    /// Its name.
    pub name: Cow<'a, str>,
    /// What is told of rows that changed or went.
    pub identity: Identity,
    /// The columns that are published, in their order.
    pub columns: Vec<RelationColumn<'a>>,
}

/// `REPLICA IDENTITY` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key, if there is one.
    Default,
    /// Nothing: rows are neither updated nor deleted.
    Nothing,
    /// All columns.
    Full,
    /// The columns of an index.
    Index,
}

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// It belongs to the replica identity.
    pub identity: bool,
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its type's number.
    pub ty: u32,
    /// Its type's modifier, -1 for none.
    pub modifier: i32,
}

/// A row that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Old<'a> {
    /// How much of it `tuple` tells.
    pub kind: OldKind,
    /// As many values as the relation has columns.
    pub tuple: Tuple<'a>,
}

impl Old<'_> {
    /// Whether it tells of all columns.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.kind == OldKind::Full
    }
}

/// How much is known of a row that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldKind {
    /// The columns of the replica identity; the others are sent as null.
    Key,
    /// All columns.
    Full,
}

/// A message that was written to the log by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical<'a> {
    /// It belongs to the transaction around it; else it stands alone, and takes effect even if its writer rolled back.
    pub transactional: bool,
    /// Where it stands.
    pub lsn: Lsn,
    /// Whose it is.
    pub prefix: Cow<'a, str>,
    /// The message.
    pub content: &'a [u8],
}

/// Bytes that are no message of protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There are none.
    #[error("empty replication message")]
    Empty,
    /// A message that version 1 does not have.
    #[error("unknown replication message {:?}: start the slot with proto_version 1", char::from(*tag))]
    UnknownTag {
        /// The first byte.
        tag: u8,
    },
    /// It ends too early.
    #[error("{message} message ends before its {field}")]
    Truncated {
        /// Which message.
        message: &'static str,
        /// What is not there.
        field: &'static str,
    },
    /// Something in it has a value that the protocol does not know.
    #[error("{message} message has {value:#04x} as its {field}")]
    Invalid {
        /// Which message.
        message: &'static str,
        /// What is wrong.
        field: &'static str,
        /// Its value.
        value: u8,
    },
    /// It goes on after its end.
    #[error("{message} message has {bytes} bytes after its end")]
    Trailing {
        /// Which message.
        message: &'static str,
        /// How many.
        bytes: usize,
    },
}

/// Decodes one message, such as one `XLogData` carries.
///
/// # Errors
/// See [`DecodeError`]: the stream is then not one of protocol version 1, or damaged. Values are not looked into, so no
/// value of a row is ever the cause.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (&tag, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    let reader = |message| Reader::new(message, body);
    match tag {
        b'I' => reader("insert").whole(insert),
        b'U' => reader("update").whole(update),
        b'D' => reader("delete").whole(delete),
        b'B' => reader("begin").whole(begin),
        b'C' => reader("commit").whole(commit),
        b'R' => reader("relation").whole(relation),
        b'Y' => reader("type").whole(type_name),
        b'T' => reader("truncate").whole(truncate),
        b'M' => reader("logical").whole(logical),
        b'O' => reader("origin").whole(origin),
        tag => Err(DecodeError::UnknownTag { tag }),
    }
}

fn insert<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = read.u32("relation")?;
    match read.u8("new row")? {
        b'N' => Ok(Message::Insert { relation, new: read.tuple()? }),
        value => Err(read.invalid("kind of row", value)),
    }
}

fn update<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = read.u32("relation")?;
    let mut kind = read.u8("row")?;
    let mut old = None;
    if let Some(known) = old_kind(kind) {
        old = Some(Old { kind: known, tuple: read.tuple()? });
        kind = read.u8("new row")?;
    }
    match kind {
        b'N' => Ok(Message::Update { relation, old, new: read.tuple()? }),
        value => Err(read.invalid("kind of row", value)),
    }
}

fn delete<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = read.u32("relation")?;
    let kind = read.u8("old row")?;
    let kind = old_kind(kind).ok_or_else(|| read.invalid("kind of row", kind))?;
    Ok(Message::Delete { relation, old: Old { kind, tuple: read.tuple()? } })
}

fn old_kind(byte: u8) -> Option<OldKind> {
    match byte {
        b'K' => Some(OldKind::Key),
        b'O' => Some(OldKind::Full),
        _ => None,
    }
}

fn begin<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let commit_lsn = Lsn(read.u64("commit position")?);
    let commit_time_micros = read.i64("commit time")?;
    Ok(Message::Begin(Begin { commit_lsn, commit_time_micros, xid: read.u32("transaction number")? }))
}

fn commit<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let flags = read.u8("flags")?;
    let commit_lsn = Lsn(read.u64("commit position")?);
    let end_lsn = Lsn(read.u64("end position")?);
    Ok(Message::Commit(Commit { flags, commit_lsn, end_lsn, commit_time_micros: read.i64("commit time")? }))
}

fn relation<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let oid = read.u32("number")?;
    let schema = match read.text("schema")? {
        // pgoutput writes it so.
        schema if schema.is_empty() => Cow::Borrowed("pg_catalog"),
        schema => schema,
    };
    let name = read.text("name")?;
    let identity = match read.u8("replica identity")? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        value => return Err(read.invalid("replica identity", value)),
    };
    let count = usize::from(read.u16("number of columns")?);
    let mut columns = Vec::with_capacity(count.min(read.remaining() / RelationColumn::BYTES_MIN));
    for _ in 0..count {
        columns.push(column(read)?);
    }
    Ok(Message::Relation(Relation { oid, schema, name, identity, columns }))
}

impl RelationColumn<'_> {
    /// Flags, an empty name with its end, type and modifier.
    const BYTES_MIN: usize = 1 + 1 + 4 + 4;
}

fn column<'a>(read: &mut Reader<'a>) -> Result<RelationColumn<'a>, DecodeError> {
    let flags = read.u8("column's flags")?;
    let name = read.text("column's name")?;
    let ty = read.u32("column's type")?;
    Ok(RelationColumn { identity: flags & 1 == 1, name, ty, modifier: read.i32("column's type modifier")? })
}

fn type_name<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let oid = read.u32("number")?;
    let schema = read.text("schema")?;
    Ok(Message::Type { oid, schema, name: read.text("name")? })
}

fn truncate<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let count = read.u32("number of relations")?;
    let flags = read.u8("flags")?;
    let relations: Result<Vec<u32>, _> = (0..count).map(|_| read.u32("relation")).collect();
    Ok(Message::Truncate { relations: relations?, cascade: flags & 1 != 0, restart_identity: flags & 2 != 0 })
}

fn logical<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let transactional = read.u8("flags")? & 1 == 1;
    let lsn = Lsn(read.u64("position")?);
    let prefix = read.text("prefix")?;
    let length = read.u32("length")?;
    Ok(Message::Logical(Logical { transactional, lsn, prefix, content: read.bytes(length, "content")? }))
}

fn origin<'a>(read: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let commit_lsn = Lsn(read.u64("commit position")?);
    Ok(Message::Origin { commit_lsn, name: read.text("name")? })
}

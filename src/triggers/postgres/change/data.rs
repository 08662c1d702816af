//! The payload of an event, written straight into one buffer.
//!
//! Invariant: it is one JSON object whose members always stand in the same order.

use super::{Change, Column, Old, Table, Transaction, Tuple, Value};
use crate::function::hex;
use crate::pgtype::{json, write};

/// What a payload takes besides rows, names and the transaction.
const FRAME_BYTES: usize = 160;

/// Columns that a payload names in its lists.
#[derive(Default)]
struct Lists {
    changed: Vec<usize>,
    unchanged: Vec<usize>,
    undecoded: Vec<usize>,
}

impl Table {
    pub(super) fn data(&self, change: &Change<'_>, transaction: &Transaction, ordinal: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size(change, transaction));
        let mut lists = Lists::default();
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(change.op().name().as_bytes());
        out.extend_from_slice(b"\",\"before\":");
        match change.before() {
            Some(old) => self.before(&mut out, old, &mut lists),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        match change.after() {
            Some(new) => self.after(&mut out, new, change.before(), &mut lists),
            None => out.extend_from_slice(b"null"),
        }
        self.lists(&mut out, lists);
        if let Change::Truncate { cascade, restart_identity } = change {
            let flags = format!(",\"cascade\":{cascade},\"restart_identity\":{restart_identity}");
            out.extend_from_slice(flags.as_bytes());
        }
        out.push(b',');
        out.extend_from_slice(&self.members);
        out.push(b',');
        out.extend_from_slice(transaction.members.as_bytes());
        out.extend_from_slice(ordinal.to_string().as_bytes());
        out.push(b'}');
        out
    }

    /// What the payload takes, roughly: the length before each value in a message pays for its quotes and comma.
    fn size(&self, change: &Change<'_>, transaction: &Transaction) -> usize {
        let row = |tuple: Tuple<'_>| tuple.size() + self.names_size;
        let old = change.before().map_or(0, |old| if old.is_full() { row(old.tuple) } else { 2 * old.tuple.size() });
        FRAME_BYTES + self.members.len() + transaction.members.len() + old + change.after().map_or(0, row)
    }

    fn before(&self, out: &mut Vec<u8>, old: Old<'_>, lists: &mut Lists) {
        let mut object = Object::open(out);
        for (at, value) in self.known(old).enumerate() {
            if let Some(value) = value {
                object.member(&self.columns[at], value, || lists.undecoded.push(at));
            }
        }
        object.close();
    }

    fn after(&self, out: &mut Vec<u8>, new: Tuple<'_>, old: Option<Old<'_>>, lists: &mut Lists) {
        let mut object = Object::open(out);
        let mut known = old.map(|old| self.known(old));
        for (at, (column, value)) in self.columns.iter().zip(new.values()).enumerate() {
            let before = known.as_mut().and_then(Iterator::next).flatten();
            let value = match (value, before) {
                (Value::Unchanged, Some(before)) => before,
                (Value::Unchanged, None) => {
                    lists.unchanged.push(at);
                    continue;
                }
                (value, before) => {
                    if before.is_some_and(|before| before != value) {
                        lists.changed.push(at);
                    }
                    value
                }
            };
            object.member(column, value, || lists.undecoded.push(at));
        }
        object.close();
    }

    fn lists(&self, out: &mut Vec<u8>, mut lists: Lists) {
        self.list(out, b",\"changed\":[", &lists.changed);
        self.list(out, b",\"unchanged\":[", &lists.unchanged);
        if !lists.undecoded.is_empty() {
            // A column may be in both rows.
            lists.undecoded.sort_unstable();
            lists.undecoded.dedup();
            self.list(out, b",\"undecoded\":[", &lists.undecoded);
        }
    }

    fn list(&self, out: &mut Vec<u8>, opening: &[u8], columns: &[usize]) {
        out.extend_from_slice(opening);
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.columns[*column].label);
        }
        out.push(b']');
    }
}

/// A row being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    fn member(&mut self, column: &Column, value: Value<'_>, undecoded: impl FnOnce()) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(&column.label);
        self.out.push(b':');
        let decoded = match (value, &column.ty) {
            (Value::Text(text), Some(ty)) => write(self.out, ty, text),
            (Value::Text(text), None) => {
                json::string(self.out, &String::from_utf8_lossy(text));
                false
            }
            (Value::Binary(bytes), _) => {
                json::string(self.out, &hex(bytes));
                false
            }
            (Value::Null | Value::Unchanged, _) => {
                self.out.extend_from_slice(b"null");
                true
            }
        };
        if !decoded {
            undecoded();
        }
    }

    fn close(self) {
        self.out.push(b'}');
    }
}

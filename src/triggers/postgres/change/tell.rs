//! The fields of a change's event, for those who only ask whether any rule wants it.
//!
//! Invariant: what is told is what the event holds, attribute by attribute and column by column; the event is not made.
//! A column that no pattern names is not even decoded.

use time::format_description::well_known::Rfc3339;

use super::{Change, Column, Old, Origin, Table, Transaction, Tuple, Value};
use crate::function::hex;
use crate::pattern::{Fill, Place};
use crate::pgtype::{Type, write};

impl Table {
    /// Whether the rows of `change` have as many values as the table has columns. [`Table::event`] says what is wrong.
    #[must_use]
    pub fn fits(&self, change: &Change<'_>) -> bool {
        self.check(change.before().map(|old| old.tuple)).and_then(|()| self.check(change.after())).is_ok()
    }

    /// Tells the fields of the event that [`Table::event`] makes of a change that fits.
    pub fn tell(
        &self,
        change: &Change<'_>,
        transaction: &Transaction,
        ordinal: u32,
        origin: &Origin,
        fill: &mut Fill<'_, '_>,
    ) {
        let op = change.op();
        let texts = [
            ("specversion", "1.0"),
            ("source", &origin.source),
            ("type", self.event_type(op)),
            ("datacontenttype", "application/json"),
        ];
        texts.into_iter().for_each(|(name, text)| fill.text_at(name, text));
        let root = fill.root();
        if let Some(place) = fill.below(root, "id") {
            fill.text(place, &super::event_id(origin, transaction, ordinal));
        }
        if let (Some(place), Some(subject)) = (fill.below(root, "subject"), self.subject(change)) {
            fill.text(place, &subject);
        }
        if let (Some(place), Ok(time)) = (fill.below(root, "time"), transaction.commit_time.format(&Rfc3339)) {
            fill.text(place, &time);
        }
        let Some(data) = fill.below(root, "data") else { return };
        self.tell_rows(change, data, fill);
        let texts = [("op", op.name()), ("schema", &self.schema), ("table", &self.name)];
        for (name, text) in texts {
            at(fill, data, name, |fill, place| fill.text(place, text));
        }
        if let Change::Truncate { cascade, restart_identity } = change {
            at(fill, data, "cascade", |fill, place| fill.bool(place, *cascade));
            at(fill, data, "restart_identity", |fill, place| fill.bool(place, *restart_identity));
        }
        at(fill, data, "xid", |fill, place| fill.integer(place, i64::from(transaction.xid)));
        at(fill, data, "commit_lsn", |fill, place| fill.text(place, &transaction.commit_lsn.to_string()));
        at(fill, data, "commit_time", |fill, place| {
            fill.text(place, &transaction.commit_time.format(&Rfc3339).unwrap_or_default());
        });
        at(fill, data, "ordinal", |fill, place| fill.integer(place, i64::from(ordinal)));
    }

    fn tell_rows(&self, change: &Change<'_>, data: Place, fill: &mut Fill<'_, '_>) {
        let mut rows = Rows { before: None, after: None, lists: [None; 3], buffer: Vec::new() };
        rows.before = fill.below(data, "before");
        rows.after = fill.below(data, "after");
        rows.lists = ["changed", "unchanged", "undecoded"].map(|name| fill.below(data, name));
        if rows.before.is_none() && rows.after.is_none() && rows.lists.iter().all(Option::is_none) {
            return;
        }
        match (change.before(), rows.before) {
            (Some(old), _) => self.tell_before(old, &mut rows, fill),
            (None, Some(place)) => fill.null(place),
            (None, None) => {}
        }
        match (change.after(), rows.after) {
            (Some(new), _) => self.tell_after(new, change.before(), &mut rows, fill),
            (None, Some(place)) => fill.null(place),
            (None, None) => {}
        }
    }

    fn tell_before(&self, old: Old<'_>, rows: &mut Rows, fill: &mut Fill<'_, '_>) {
        for (column, value) in self.columns.iter().zip(self.known(old)) {
            if let Some(value) = value {
                rows.value(rows.before, column, value, fill);
            }
        }
    }

    fn tell_after(&self, new: Tuple<'_>, old: Option<Old<'_>>, rows: &mut Rows, fill: &mut Fill<'_, '_>) {
        let mut known = old.map(|old| self.known(old));
        let [changed, unchanged, _] = rows.lists;
        for (column, value) in self.columns.iter().zip(new.values()) {
            let before = known.as_mut().and_then(Iterator::next).flatten();
            let value = match (value, before) {
                (Value::Unchanged, Some(before)) => before,
                (Value::Unchanged, None) => {
                    unchanged.iter().for_each(|place| fill.text(*place, &column.name));
                    continue;
                }
                (value, before) => {
                    if let (Some(place), true) = (changed, before.is_some_and(|before| before != value)) {
                        fill.text(place, &column.name);
                    }
                    value
                }
            };
            rows.value(rows.after, column, value, fill);
        }
    }
}

fn at<'e>(fill: &mut Fill<'_, 'e>, data: Place, name: &str, tell: impl FnOnce(&mut Fill<'_, 'e>, Place)) {
    if let Some(place) = fill.below(data, name) {
        tell(fill, place);
    }
}

/// The places of the rows and of the lists `changed`, `unchanged` and `undecoded`, as far as they are wanted.
struct Rows {
    before: Option<Place>,
    after: Option<Place>,
    lists: [Option<Place>; 3],
    /// Room for one value as JSON.
    buffer: Vec<u8>,
}

impl Rows {
    /// Tells one value of a row.
    fn value(&mut self, row: Option<Place>, column: &Column, value: Value<'_>, fill: &mut Fill<'_, '_>) {
        let place = row.and_then(|row| fill.below(row, &column.name));
        let undecoded = self.lists[2];
        if place.is_none() && undecoded.is_none() {
            return;
        }
        let lossy = |text| String::from_utf8_lossy(text);
        let decoded = match (value, column.ty.as_deref()) {
            (Value::Text(text), Some(Type::Text)) if let Ok(text) = std::str::from_utf8(text) => {
                place.into_iter().for_each(|place| fill.text(place, text));
                true
            }
            (Value::Text(text), Some(ty)) => {
                self.buffer.clear();
                let decoded = write(&mut self.buffer, ty, text);
                // What was written is JSON.
                place.into_iter().for_each(|place| _ = fill.json(place, &self.buffer));
                decoded
            }
            (Value::Text(text), None) => {
                place.into_iter().for_each(|place| fill.text(place, &lossy(text)));
                false
            }
            (Value::Binary(bytes), _) => {
                place.into_iter().for_each(|place| fill.text(place, &hex(bytes)));
                false
            }
            (Value::Null | Value::Unchanged, _) => {
                place.into_iter().for_each(|place| fill.null(place));
                true
            }
        };
        if let (false, Some(place)) = (decoded, undecoded) {
            fill.text(place, &column.name);
        }
    }
}

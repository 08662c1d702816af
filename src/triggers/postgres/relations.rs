//! The relations of a stream: what the rows of a table look like from one message on.
//!
//! Invariant: a row is decoded with the relation message that came before it, so with the columns that it had when it
//! was written. What the stream does not tell (primary keys, types that are not built in, partitions) is asked of the
//! catalogue, which may know more or less by now.

use std::collections::HashMap;

use crate::bus::postgres::{PostgresBus, TableName};
use crate::pgtype::Types;
use crate::triggers::Failure;

use super::change::{Op, Table};
use super::pgoutput::Relation;

/// Oids below this belong to the system (`FirstNormalObjectId` of Postgres).
const FIRST_OWN_TYPE: u32 = 16_384;

/// The relations that a connection has told of.
pub(super) struct Relations {
    bus: PostgresBus,
    /// Tables that are followed; all that are published without any.
    wanted: Vec<TableName>,
    types: Types,
    known: HashMap<u32, Known>,
}

/// A relation, and what is done with its rows.
pub(super) struct Known {
    pub(super) table: Table,
    /// Its name, and those of the partitioned tables that it is a partition of.
    pub(super) family: Vec<TableName>,
    /// Whether the trigger follows it.
    pub(super) wanted: bool,
    /// By operation, whether any rule can want such an event; none before it was asked.
    listened: [Option<bool>; 5],
}

impl Known {
    /// Whether any rule can want an event of `op`; `ask` answers for its type.
    pub(super) fn is_listened(&mut self, op: Op, ask: impl FnOnce(&str) -> bool) -> bool {
        let at = op as usize;
        *self.listened[at].get_or_insert_with(|| ask(self.table.event_type(op)))
    }
}

impl Relations {
    /// None yet.
    pub(super) fn new(bus: PostgresBus, wanted: Vec<TableName>) -> Self {
        Self { bus, wanted, types: Types::new(), known: HashMap::new() }
    }

    /// Takes in a relation message.
    pub(super) async fn learn(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
        let used = relation.columns.iter().map(|column| column.ty);
        let mut missing = self.types.missing(used.clone());
        // Types that somebody made may have been altered since: a composite type gets an attribute.
        missing.extend(used.filter(|ty| *ty >= FIRST_OWN_TYPE));
        if !missing.is_empty() {
            let rows = self.bus.types(&missing).await.map_err(|e| Failure::Again(e.to_string()))?;
            self.types.learn(rows);
        }
        let key = self.bus.key_columns(relation.oid).await.map_err(|e| Failure::Again(e.to_string()))?;
        let mut family = vec![TableName::new(relation.schema.as_ref(), relation.name.as_ref())];
        family.extend(self.bus.partition_ancestors(relation.oid).await.map_err(|e| Failure::Again(e.to_string()))?);
        let holds_keys = family.iter().any(TableName::holds_keys);
        let wanted = !holds_keys && (self.wanted.is_empty() || family.iter().any(|table| self.wanted.contains(table)));
        let table = Table::new(relation, &self.types, &key);
        self.known.insert(relation.oid, Known { table, family, wanted, listened: [None; 5] });
        Ok(())
    }

    /// What is known of the relation.
    pub(super) fn get(&mut self, relation: u32) -> Option<&mut Known> {
        self.known.get_mut(&relation)
    }

    /// The rules have changed: who listens is asked again.
    pub(super) fn forget_listeners(&mut self) {
        self.known.values_mut().for_each(|known| known.listened = [None; 5]);
    }
}

//! What is known of a server's types: those that every server has, and those that it was asked for.
//!
//! Invariant: a type is given out only when everything that it is made of is known; a catalogue that goes in circles or
//! nests deeper than [`MAX_DEPTH`] leaves its types unknown.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::builtin::{BOX, INT2_VECTOR, OID_VECTOR, SCALARS};
use super::{MAX_DEPTH, Type};

/// A row of `pg_type`, as far as its values are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// `oid`.
    pub oid: u32,
    /// `typtype`: `b`ase, `c`omposite, `d`omain, `e`num, `r`ange, `m`ultirange or `p`seudo.
    pub kind: char,
    /// `typelem` of a true array (`typsubscript = 'array_subscript_handler'::regproc`), else 0.
    pub element: u32,
    /// `typbasetype` of a domain, else 0.
    pub base: u32,
    /// `typdelim`.
    pub delimiter: char,
    /// The attributes of a composite in the order of `attnum`, dropped ones left out: `attname`, `atttypid`.
    pub attributes: Vec<(String, u32)>,
}

/// The types of one server.
#[derive(Clone, Debug)]
pub struct Types {
    /// The rows learnt, from which the others are put together anew whenever one comes in.
    rows: HashMap<u32, TypeRow>,
    known: HashMap<u32, Arc<Type>>,
}

impl Default for Types {
    fn default() -> Self {
        Self { rows: HashMap::new(), known: builtin() }
    }
}

impl Types {
    /// What every server has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes rows of the catalogue in, in any order; one that came before is replaced.
    pub fn learn(&mut self, rows: impl IntoIterator<Item = TypeRow>) {
        self.rows.extend(rows.into_iter().map(|row| (row.oid, row)));
        self.known = builtin();
        let oids: Vec<u32> = self.rows.keys().copied().collect();
        for oid in oids {
            self.resolve(oid, 0);
        }
    }

    /// The type of that number, if it and all that it is made of is known.
    #[must_use]
    pub fn get(&self, oid: u32) -> Option<Arc<Type>> {
        self.known.get(&oid).cloned()
    }

    /// Which types the catalogue must be asked for so that [`Types::get`] knows all of `oids`. Empty as soon as they
    /// are known; after each [`Types::learn`] there may be others, which the new rows are made of.
    #[must_use]
    pub fn missing(&self, oids: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut due: Vec<u32> = oids.into_iter().collect();
        let mut seen = BTreeSet::new();
        let mut missing = BTreeSet::new();
        while let Some(oid) = due.pop() {
            if self.known.contains_key(&oid) || !seen.insert(oid) {
                continue;
            }
            match self.rows.get(&oid) {
                Some(row) => due.extend(row.parts()),
                None => _ = missing.insert(oid),
            }
        }
        missing.into_iter().collect()
    }

    fn resolve(&mut self, oid: u32, depth: usize) -> Option<Arc<Type>> {
        if let Some(known) = self.known.get(&oid) {
            return Some(Arc::clone(known));
        }
        if depth == MAX_DEPTH {
            return None;
        }
        let row = self.rows.get(&oid)?.clone();
        let ty = match row.kind {
            'd' => self.resolve(row.base, depth + 1)?,
            'b' if row.element != 0 => {
                let delimiter = u8::try_from(row.delimiter).ok()?;
                Arc::new(Type::Array { element: self.resolve(row.element, depth + 1)?, delimiter })
            }
            'c' => {
                let attribute = |(name, oid)| Some((name, self.resolve(oid, depth + 1)?));
                Arc::new(Type::Composite(row.attributes.into_iter().map(attribute).collect::<Option<_>>()?))
            }
            'b' | 'e' | 'r' | 'm' => Arc::new(Type::Text),
            _ => return None,
        };
        self.known.insert(oid, Arc::clone(&ty));
        Some(ty)
    }
}

impl TypeRow {
    /// The types that this one is made of.
    fn parts(&self) -> Vec<u32> {
        match self.kind {
            'd' => vec![self.base],
            'b' if self.element != 0 => vec![self.element],
            'c' => self.attributes.iter().map(|(_, oid)| *oid).collect(),
            _ => Vec::new(),
        }
    }
}

fn builtin() -> HashMap<u32, Arc<Type>> {
    let mut known = HashMap::with_capacity(2 * SCALARS.len() + 4);
    let mut add = |oid: u32, array: u32, ty: Type| {
        let element = Arc::new(ty);
        known.insert(oid, Arc::clone(&element));
        if array != 0 {
            let delimiter = if oid == BOX { b';' } else { b',' };
            known.insert(array, Arc::new(Type::Array { element, delimiter }));
        }
    };
    for (oid, array, ty) in SCALARS {
        add(*oid, *array, ty.clone());
    }
    add(INT2_VECTOR.0, INT2_VECTOR.1, Type::Vector(Arc::new(Type::Integer)));
    add(OID_VECTOR.0, OID_VECTOR.1, Type::Vector(Arc::new(Type::Text)));
    known
}

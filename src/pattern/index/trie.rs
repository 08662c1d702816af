//! The fields that any pattern of an index names, as a tree of keys with numbers.
//!
//! Invariant: a field keeps its number for as long as the tree and its copies live, and what a copy adds is not seen by
//! the one it was copied from. As in `paths`, a key with dots is the keys between them, one below the other. Looking up
//! allocates nothing.

use std::sync::Arc;

use super::hash;

/// A field's number, the same in every copy of a tree.
pub type Field = u32;

/// The root of every path.
pub const ROOT: Field = 0;

/// A tree of keys. Cheap to copy: what was there is shared, what was added since is copied.
#[derive(Clone, Debug)]
pub struct Trie {
    base: Arc<Keys>,
    recent: Arc<Keys>,
    nodes: Arc<Vec<Node>>,
}

/// What is known of a field.
#[derive(Clone, Copy, Debug, Default)]
pub struct Node {
    /// Some pattern names the field itself.
    pub named: bool,
    /// Some pattern names a field below it.
    pub parent: bool,
}

/// Keys by their parent, in an open hash table.
#[derive(Clone, Debug, Default)]
struct Keys {
    /// Places in `entries` plus one; zero where there is none.
    slots: Vec<u32>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    parent: Field,
    child: Field,
    /// The key whole if it is short, else its hash and its beginning.
    words: hash::Words,
    /// The key if it is long.
    long: Option<Arc<str>>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { base: Arc::default(), recent: Arc::default(), nodes: Arc::new(vec![Node::default()]) }
    }
}

impl Trie {
    /// The field at `key`, which may have dots, below `parent`, added if it is new.
    pub fn add(&mut self, parent: Field, key: &str) -> Field {
        key.split('.').fold(parent, |at, step| self.step(at, step.as_bytes()).unwrap_or_else(|| self.grow(at, step)))
    }

    fn grow(&mut self, parent: Field, step: &str) -> Field {
        let nodes = Arc::make_mut(&mut self.nodes);
        let child = Field::try_from(nodes.len()).expect("patterns with 2^32 fields do not fit into memory");
        nodes.push(Node::default());
        nodes[parent as usize].parent = true;
        Arc::make_mut(&mut self.recent).add(parent, step, child);
        child
    }

    /// Says that a pattern names the field itself.
    pub fn name(&mut self, field: Field) {
        if !self.nodes[field as usize].named {
            Arc::make_mut(&mut self.nodes)[field as usize].named = true;
        }
    }

    /// The field at `key`, which may have dots, below `parent`.
    pub fn find(&self, parent: Field, key: &[u8]) -> Option<Field> {
        // A key with dots is no key of the tree, so it is looked for only where nothing was found.
        if let Some(child) = self.step(parent, key) {
            return Some(child);
        }
        if !hash::words(key).may_have_dot() {
            return None;
        }
        key.split(|byte| *byte == b'.').try_fold(parent, |at, step| self.step(at, step))
    }

    fn step(&self, parent: Field, key: &[u8]) -> Option<Field> {
        let words = hash::words(key);
        let found = self.base.find(parent, words, key);
        if found.is_some() || self.recent.entries.is_empty() { found } else { self.recent.find(parent, words, key) }
    }

    /// What is known of a field.
    pub fn node(&self, field: Field) -> Node {
        self.nodes[field as usize]
    }

    /// How many fields there are, the root and those on the way included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many fields were added since the tree was last settled.
    pub fn recent(&self) -> usize {
        self.recent.entries.len()
    }

    /// The same tree, quick to look up in and to copy.
    pub fn settle(&mut self) {
        let mut all = Keys::clone(&self.base);
        for entry in &self.recent.entries {
            all.insert(entry.clone());
        }
        (self.base, self.recent) = (Arc::new(all), Arc::default());
    }
}

impl Keys {
    fn add(&mut self, parent: Field, key: &str, child: Field) {
        let words = hash::words(key.as_bytes());
        let long = (key.len() > hash::WORDS_MAX).then(|| Arc::from(key));
        self.insert(Entry { parent, child, words, long });
    }

    fn insert(&mut self, entry: Entry) {
        self.entries.push(entry);
        if self.entries.len() * 2 > self.slots.len() {
            self.slots = vec![0; (self.entries.len() * 4).next_power_of_two()];
            (0..self.entries.len()).for_each(|at| self.place(at));
        } else {
            self.place(self.entries.len() - 1);
        }
    }

    fn place(&mut self, at: usize) {
        let Entry { parent, words, .. } = &self.entries[at];
        let mask = self.slots.len() - 1;
        let mut slot = words.slot(*parent) & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = u32::try_from(at + 1).expect("as many as there are fields");
    }

    #[inline]
    fn find(&self, parent: Field, words: hash::Words, key: &[u8]) -> Option<Field> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = words.slot(parent) & mask;
        loop {
            let at = self.slots[slot].checked_sub(1)?;
            let entry = &self.entries[at as usize];
            let same = entry.words == words && entry.parent == parent;
            if same && entry.long.as_ref().is_none_or(|long| long.as_bytes() == key) {
                return Some(entry.child);
            }
            slot = (slot + 1) & mask;
        }
    }
}

//! A map by name that is copied for little and changed in the copy.
//!
//! Invariant: a copy shares every shard that neither of them has changed since; a change copies one shard, which holds a
//! 256th of the entries.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;

const SHARDS: usize = 256;

type Shard<V> = HashMap<String, V, FixedState>;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Shards<V> {
    shards: Vec<Arc<Shard<V>>>,
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self { shards: vec![Arc::default(); SHARDS] }
    }
}

impl<V: Clone> Shards<V> {
    fn place(name: &str) -> usize {
        FixedState::with_seed(1).hash_one(name) as usize % SHARDS
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.shards[Self::place(name)].get(name)
    }

    pub(super) fn insert(&mut self, name: &str, value: V) {
        Arc::make_mut(&mut self.shards[Self::place(name)]).insert(name.to_owned(), value);
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<V> {
        self.get(name)?;
        Arc::make_mut(&mut self.shards[Self::place(name)]).remove(name)
    }
}

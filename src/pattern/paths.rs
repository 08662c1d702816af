//! The fields that a pattern names, and an event cut down to them.
//!
//! Invariant: two paths are the same if they are the same once joined with dots, so that `{"a":{"b":…}}` and
//! `{"a.b":…}` name one field, in patterns and in events, as EventBridge has it. What no pattern field names costs no
//! memory. It compares no values.

use std::collections::{BTreeMap, BTreeSet};

use super::Json;
use super::value::Scalar;

/// A field's number within one pattern.
pub type FieldId = usize;

/// A set of paths, shared from the root on.
#[derive(Clone, Debug)]
pub struct Paths {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// By key, in its order: most patterns have few, and there may be many patterns.
    children: Vec<(Box<str>, FieldId)>,
}

impl Node {
    fn child(&self, key: &str) -> Result<FieldId, usize> {
        self.children.binary_search_by(|(known, _)| (**known).cmp(key)).map(|at| self.children[at].1)
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self::new()
    }
}

/// The root of every path.
pub const ROOT: FieldId = 0;

/// An object, or an element of an array, with what it holds outside any further array.
#[derive(Debug, Default)]
pub struct Element<'a> {
    /// The scalars, by field; the scalars of an array count as values of whatever holds the array.
    pub values: BTreeMap<FieldId, Vec<Scalar<'a>>>,
    /// The arrays, by field; arrays of one path (from duplicate keys) are one array.
    pub arrays: BTreeMap<FieldId, Elements<'a>>,
}

/// The elements of an array that are objects or arrays themselves.
#[derive(Debug, Default)]
pub struct Elements<'a> {
    /// In order, without those that hold nothing that the pattern names.
    pub elements: Vec<Element<'a>>,
    /// The fields that have a scalar somewhere below.
    pub fields: BTreeSet<FieldId>,
}

impl Paths {
    /// Only the root.
    pub fn new() -> Paths {
        Paths { nodes: vec![Node::default()] }
    }

    /// The field at `key` below `parent`, added if it is new.
    pub fn add(&mut self, parent: FieldId, key: &str) -> FieldId {
        let mut at = parent;
        for step in key.split('.') {
            at = self.nodes[at].child(step).unwrap_or_else(|place| self.grow(at, step, place));
        }
        at
    }

    fn grow(&mut self, parent: FieldId, step: &str, place: usize) -> FieldId {
        let child = self.nodes.len();
        self.nodes.push(Node::default());
        self.nodes[parent].children.insert(place, (step.into(), child));
        child
    }

    fn find(&self, parent: FieldId, key: &str) -> Option<FieldId> {
        key.split('.').try_fold(parent, |at, step| self.nodes[at].child(step).ok())
    }

    /// The field `key` at the top, if the pattern names it.
    pub fn top(&self, key: &str) -> Option<FieldId> {
        self.find(ROOT, key)
    }

    /// The keys of the field on the way from the root, joined with dots.
    pub fn name(&self, field: FieldId) -> Option<String> {
        let mut names = vec![String::new(); self.nodes.len()];
        for (parent, key, child) in self.steps() {
            names[child] = if parent == ROOT { key.to_owned() } else { format!("{}.{key}", names[parent]) };
        }
        names.into_iter().nth(field)
    }

    /// Every step from a field to one below it: the field, the key, the one below. A field's own comes before those
    /// from it.
    pub fn steps(&self) -> impl Iterator<Item = (FieldId, &str, FieldId)> {
        self.nodes
            .iter()
            .enumerate()
            .flat_map(|(parent, node)| node.children.iter().map(move |(key, child)| (parent, &**key, *child)))
    }

    /// How many fields and objects on the way to them there are.
    pub fn below_root(&self) -> usize {
        self.nodes.len() - 1
    }

    /// What `event` holds at these paths.
    pub fn project<'a>(&self, event: &'a Json) -> Element<'a> {
        let mut root = Element::default();
        self.collect(ROOT, event, &mut root);
        root
    }

    /// Puts what is at and below `value`, which is at path `at`, into `element`.
    fn collect<'a>(&self, at: FieldId, value: &'a Json, element: &mut Element<'a>) {
        match value {
            Json::Object(members) => {
                for (key, member) in members {
                    if let Some(child) = self.find(at, key) {
                        self.collect(child, member, element);
                    }
                }
            }
            Json::Array(items) => {
                for item in items {
                    self.collect_item(at, item, element);
                }
            }
            scalar => element.values.entry(at).or_default().extend(scalar.scalar()),
        }
    }

    fn collect_item<'a>(&self, at: FieldId, item: &'a Json, element: &mut Element<'a>) {
        if !matches!(item, Json::Object(_) | Json::Array(_)) {
            return self.collect(at, item, element);
        }
        let mut below = Element::default();
        self.collect(at, item, &mut below);
        element.put(at, below);
    }
}

impl<'a> Element<'a> {
    /// Adds an element of the array at `array`, unless it holds nothing.
    pub fn put(&mut self, array: FieldId, below: Element<'a>) {
        if below.values.is_empty() && below.arrays.is_empty() {
            return;
        }
        let array = self.arrays.entry(array).or_default();
        array.fields.extend(below.values.keys());
        array.fields.extend(below.arrays.values().flat_map(|deeper| &deeper.fields));
        array.elements.push(below);
    }
}

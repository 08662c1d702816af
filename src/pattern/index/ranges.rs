//! Ranges of numbers, and which of them a number is in.
//!
//! Invariant: finding those that a number is in takes the logarithm of how many there are, and a step for each of them.
//! Between two neighbouring ends all numbers are in the same ranges, so there is one place for each end and one for each
//! gap; a tree over the places holds a range in the few nodes that make it up.

use super::super::Decimal;
use super::super::value::{Bound, Range};

/// Ranges of one field.
#[derive(Debug, Default)]
pub struct Ranges {
    ends: Vec<Decimal>,
    /// Where the conjunctions of each node of the tree begin, and where those of the last one end.
    starts: Vec<u32>,
    conjunctions: Vec<u32>,
}

impl Ranges {
    /// These ranges, each with its conjunction.
    pub fn new(ranges: &[(&Range, u32)]) -> Self {
        let bounds = ranges.iter().flat_map(|(range, _)| range.lower.iter().chain(&range.upper));
        let mut ends: Vec<Decimal> = bounds.map(|bound| bound.at.clone()).collect();
        ends.sort_unstable();
        ends.dedup();
        let places = ends.len() * 2 + 1;
        let mut nodes = Vec::new();
        for (range, conjunction) in ranges {
            let (first, last) = span(&ends, range);
            let (mut left, mut right) = (first + places, last + places + 1);
            while left < right {
                if left % 2 == 1 {
                    nodes.push((left, *conjunction));
                    left += 1;
                }
                if right % 2 == 1 {
                    right -= 1;
                    nodes.push((right, *conjunction));
                }
                (left, right) = (left / 2, right / 2);
            }
        }
        nodes.sort_unstable();
        let starts = (0..=places * 2).map(|node| nodes.partition_point(|(at, _)| *at < node) as u32).collect();
        Self { ends, starts, conjunctions: nodes.into_iter().map(|(_, conjunction)| conjunction).collect() }
    }

    /// The conjunctions whose range `number` is in.
    pub fn find(&self, number: &Decimal) -> impl Iterator<Item = u32> {
        let places = self.ends.len() * 2 + 1;
        let place = match self.ends.binary_search(number) {
            Ok(end) => end * 2 + 1,
            Err(gap) => gap * 2,
        };
        let nodes = std::iter::successors(Some(place + places), |node| (*node > 1).then_some(node / 2));
        nodes.flat_map(|node| {
            let (start, end) = (self.starts[node] as usize, self.starts[node + 1] as usize);
            self.conjunctions[start..end].iter().copied()
        })
    }
}

/// The first and the last place of a range.
fn span(ends: &[Decimal], range: &Range) -> (usize, usize) {
    let end = |bound: &Bound| ends.partition_point(|end| *end < bound.at) * 2 + 1;
    let first = range.lower.as_ref().map_or(0, |bound| end(bound) + usize::from(!bound.inclusive));
    let last = range.upper.as_ref().map_or(ends.len() * 2, |bound| end(bound) - usize::from(!bound.inclusive));
    (first, last)
}

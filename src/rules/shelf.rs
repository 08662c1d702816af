//! The rules of a set by number and by name.
//!
//! Invariant: a rule has one number for as long as it is there, and no two have the same. A copy shares all but what was
//! changed in it.

use std::sync::Arc;

use super::CompiledRule;
use super::shards::Shards;

/// Rules that are copied together.
const BOARD: usize = 256;

type Board = Vec<Option<Arc<CompiledRule>>>;

/// The rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    boards: Vec<Arc<Board>>,
    numbers: Shards<u32>,
    free: Arc<Vec<u32>>,
    len: u32,
}

impl Shelf {
    pub(super) fn get(&self, number: u32) -> Option<&Arc<CompiledRule>> {
        self.boards.get(number as usize / BOARD)?.get(number as usize % BOARD)?.as_ref()
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// In no certain order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.boards.iter().flat_map(|board| board.iter()).flatten()
    }

    /// Puts in a rule, in the place of the one of its name if there is one. Gives its number.
    pub(super) fn put(&mut self, rule: Arc<CompiledRule>) -> u32 {
        let name = &rule.rule.name;
        let number = self.number(name).unwrap_or_else(|| {
            let number = Arc::make_mut(&mut self.free).pop().unwrap_or(self.len);
            self.numbers.insert(name, number);
            self.len += 1;
            number
        });
        let (board, place) = (number as usize / BOARD, number as usize % BOARD);
        if board == self.boards.len() {
            self.boards.push(Arc::default());
        }
        let board = Arc::make_mut(&mut self.boards[board]);
        if place == board.len() {
            board.push(None);
        }
        board[place] = Some(rule);
        number
    }

    /// Takes out the rule of this name. Gives its number and the rule.
    pub(super) fn take(&mut self, name: &str) -> Option<(u32, Arc<CompiledRule>)> {
        let number = self.numbers.remove(name)?;
        let board = Arc::make_mut(self.boards.get_mut(number as usize / BOARD)?);
        let rule = board.get_mut(number as usize % BOARD)?.take()?;
        Arc::make_mut(&mut self.free).push(number);
        self.len -= 1;
        Some((number, rule))
    }
}

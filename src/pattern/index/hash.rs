//! Hashes of keys and values: fast for the short ones that events are made of.
//!
//! Invariant: nothing is decided by a hash: what has the same one is compared. So it need not withstand anybody, and it
//! is the same on every machine of one byte order.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;

/// The longest text that [`Words`] hold whole.
pub const WORDS_MAX: usize = 16;

const SEED: u64 = 0x243F_6A88_85A3_08D3;
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A short text whole, or a long one's hash; texts of at most [`WORDS_MAX`] bytes are equal if their words are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    first: u64,
    last: u64,
    len: u32,
}

/// The words of a text.
#[inline]
pub fn words(text: &[u8]) -> Words {
    // A length beyond 2^32 is only compared with other such lengths, before the text itself is.
    let (len, all) = (text.len() as u32, text);
    let (first, last) = match text.len() {
        8..=WORDS_MAX => (whole(all.first_chunk()), whole(all.last_chunk())),
        4..8 => (half(all.first_chunk()), half(all.last_chunk())),
        0 => (0, 0),
        short @ 1..4 => (u64::from(all[0]), u64::from(all[short / 2]) << 8 | u64::from(all[short - 1])),
        _ => (bytes(all), 0),
    };
    Words { first, last, len }
}

fn whole(chunk: Option<&[u8; 8]>) -> u64 {
    chunk.map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn half(chunk: Option<&[u8; 4]>) -> u64 {
    chunk.map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

impl Words {
    /// A place in a table of a power of two.
    #[inline]
    pub fn slot(self, parent: u32) -> usize {
        fold(self.first ^ u64::from(parent).wrapping_mul(ODD), self.last ^ SEED ^ u64::from(self.len)) as usize
    }

    #[inline]
    fn hash(self) -> u64 {
        fold(self.first ^ ODD, self.last ^ SEED ^ u64::from(self.len))
    }
}

/// The hash of a text.
#[inline]
pub fn text(text: &[u8]) -> u64 {
    if text.len() <= WORDS_MAX { words(text).hash() } else { bytes(text) }
}

fn bytes(text: &[u8]) -> u64 {
    FixedState::with_seed(SEED).hash_one(text)
}

/// The hash of any other value.
pub fn value(value: &impl Hash) -> u64 {
    FixedState::with_seed(ODD).hash_one(value)
}

/// One hash of two, in their order.
#[inline]
pub fn join(left: u64, right: u64) -> u64 {
    fold(left ^ SEED, right ^ ODD)
}

/// The product of two words, its halves folded into one.
#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ ((product >> 64) as u64)
}

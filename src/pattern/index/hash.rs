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
    first: [u32; 2],
    last: [u32; 2],
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
    Words { first: split(first), last: split(last), len }
}

/// In halves, so that words need no more room than what they say.
#[inline]
fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[inline]
fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn whole(chunk: Option<&[u8; 8]>) -> u64 {
    chunk.map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn half(chunk: Option<&[u8; 4]>) -> u64 {
    chunk.map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

impl Words {
    /// The text's length.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// The text, if it is short.
    pub fn text(self) -> String {
        let (first, last, len) = (joined(self.first).to_le_bytes(), joined(self.last).to_le_bytes(), self.len());
        let mut text = match len {
            8..=WORDS_MAX => [&first[..len - 8], &last].concat(),
            4..8 => [&first[..len - 4], &last[..4]].concat(),
            3 => [first[0], last[1], last[0]].to_vec(),
            2 => [first[0], last[0]].to_vec(),
            _ => first.to_vec(),
        };
        text.truncate(len);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// A place in a table of a power of two.
    #[inline]
    pub fn slot(self, parent: u32) -> usize {
        fold(joined(self.first) ^ u64::from(parent).wrapping_mul(ODD), joined(self.last) ^ SEED ^ u64::from(self.len))
            as usize
    }

    /// Whether a short text has a dot; a long one may have.
    #[inline]
    pub fn may_have_dot(self) -> bool {
        const EACH: u64 = 0x0101_0101_0101_0101;
        let dot = |word: u64| {
            let other = word ^ (EACH * b'.' as u64);
            other.wrapping_sub(EACH) & !other & (EACH << 7) != 0
        };
        self.len as usize > WORDS_MAX || dot(joined(self.first)) || dot(joined(self.last))
    }

    #[inline]
    fn hash(self) -> u64 {
        fold(joined(self.first) ^ ODD, joined(self.last) ^ SEED ^ u64::from(self.len))
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

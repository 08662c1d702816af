//! JSON, 64 bytes at once: where a string may end, and where a run of digits does.
//!
//! Invariant: the answers are those of looking at one byte after the other. Beyond the last byte there are zeros, which
//! end strings and runs of digits.

use wide::u8x16;

/// Bytes that are looked at together: a bit of a word for each.
const BLOCK: usize = 64;

/// The bytes of a text, and what is known of the block of them that was looked at last.
#[derive(Debug)]
pub struct Lanes<'b> {
    bytes: &'b [u8],
    block: usize,
    special: u64,
    no_digit: u64,
}

impl<'b> Lanes<'b> {
    /// The bytes of a text.
    pub fn new(bytes: &'b [u8]) -> Self {
        let mut lanes = Self { bytes, block: 0, special: 0, no_digit: 0 };
        lanes.look(0);
        lanes
    }

    /// The bytes.
    #[inline(always)]
    pub fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// The byte at `at`; zero beyond the last.
    #[inline(always)]
    pub fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The place of the first byte from `at` on that a string cannot hold as it is: a quote, a backslash, one below a
    /// space.
    #[inline(always)]
    pub fn special(&mut self, at: usize) -> usize {
        self.first(at, |lanes| lanes.special)
    }

    /// The place of the first byte from `at` on that is no digit.
    #[inline(always)]
    pub fn digits(&mut self, at: usize) -> usize {
        self.first(at, |lanes| lanes.no_digit)
    }

    /// The place of the first bit of `bits` from `at` on.
    #[inline(always)]
    fn first(&mut self, mut at: usize, bits: impl Fn(&Self) -> u64) -> usize {
        loop {
            let within = at.wrapping_sub(self.block);
            if within < BLOCK {
                let found = bits(self) >> within;
                if found != 0 {
                    return at + found.trailing_zeros() as usize;
                }
                at = self.block + BLOCK;
            }
            self.look(at);
        }
    }

    /// Looks at the block of `at`.
    fn look(&mut self, at: usize) {
        self.block = at - at % BLOCK;
        let rest = self.bytes.get(self.block..).unwrap_or_default();
        match rest.first_chunk() {
            Some(block) => (self.special, self.no_digit) = look(block),
            None => {
                let mut block = [0; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                (self.special, self.no_digit) = look(&block);
            }
        }
    }
}

/// The bits of the bytes that no string holds as they are, and of those that are no digits.
#[inline(always)]
fn look(block: &[u8; BLOCK]) -> (u64, u64) {
    let (mut special, mut no_digit) = (0, 0);
    let (chunks, _) = block.as_chunks::<16>();
    for (at, chunk) in chunks.iter().enumerate() {
        let bytes = u8x16::from(*chunk);
        let control = bytes.min(u8x16::splat(0x1F)).simd_eq(bytes);
        let ends = control | bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'));
        special |= u64::from(ends.to_bitmask()) << (at * 16);
        let above = bytes - u8x16::splat(b'0');
        let digits = above.min(u8x16::splat(9)).simd_eq(above);
        no_digit |= u64::from(!digits.to_bitmask() & 0xFFFF) << (at * 16);
    }
    (special, no_digit)
}

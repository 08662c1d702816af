//! Sixteen bytes of JSON at once: where a string may end, and where a run of digits does.
//!
//! Invariant: the answers are those of looking at one byte after the other.

/// The place of the first byte from `at` on that a string cannot hold as it is: a quote, a backslash, one below a space.
#[inline]
pub fn special(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, lanes::special, |byte| byte < 0x20 || byte == b'"' || byte == b'\\')
}

/// The place of the first byte from `at` on that is no digit.
#[inline]
pub fn digits(bytes: &[u8], at: usize) -> usize {
    first(bytes, at, lanes::no_digit, |byte| !byte.is_ascii_digit())
}

/// The place of the first byte from `at` on that `one` holds for; `many` has a bit for each of sixteen.
#[inline]
fn first(bytes: &[u8], mut at: usize, many: impl Fn(&[u8; 16]) -> u32, one: impl Fn(u8) -> bool) -> usize {
    let mut rest = bytes.get(at..).unwrap_or_default();
    while let Some((chunk, after)) = rest.split_first_chunk() {
        let found = many(chunk);
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        (at, rest) = (at + 16, after);
    }
    at + rest.iter().position(|byte| one(*byte)).unwrap_or(rest.len())
}

mod lanes {
    use wide::u8x16;

    #[inline]
    pub(super) fn special(chunk: &[u8; 16]) -> u32 {
        let bytes = u8x16::from(*chunk);
        let control = bytes.min(u8x16::splat(0x1F)).simd_eq(bytes);
        (control | bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
    }

    #[inline]
    pub(super) fn no_digit(chunk: &[u8; 16]) -> u32 {
        let above = u8x16::from(*chunk) - u8x16::splat(b'0');
        !above.min(u8x16::splat(9)).simd_eq(above).to_bitmask() & 0xFFFF
    }
}

//! JSON numbers as exact decimals, compared without expanding them.
//!
//! Invariant: equal numbers have one form (35 = 35.0 = 3.5e1, -0 = 0), so that comparing is sign, then magnitude, then
//! digits; memory is that of the text, whatever its exponent, and none but its own for all but the longest. It never rounds.

use std::cmp::Ordering;

/// Exponents of more digits than this count as one and the same: far beyond any number that means something, and the
/// most that leaves room to add a digit count in an `i128`.
const EXPONENT_DIGITS_MAX: usize = 36;

/// The digits that stand in a number of a fixed size; what is longer is rare and has its rest in a text.
const HEAD_DIGITS: u32 = 38;

/// A decimal number: `0.d₁d₂…dₙ × 10^magnitude`, `d₁` and `dₙ` not zero; zero has no digits, no sign, magnitude 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    negative: bool,
    magnitude: i128,
    /// The first [`HEAD_DIGITS`] digits, filled up with zeros.
    head: u128,
    /// The digits after them.
    tail: String,
}

impl Decimal {
    /// Reads the text of a JSON number, as the parser accepted it.
    pub fn parse(text: &str) -> Decimal {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let integer = mantissa.find('.').unwrap_or(mantissa.len());
        let (mut head, mut digits, mut leading_zeros, mut tail) = (0_u128, 0, 0, String::new());
        for byte in mantissa.bytes().filter(u8::is_ascii_digit) {
            match byte {
                b'0' if digits == 0 => leading_zeros += 1,
                _ if digits < HEAD_DIGITS => {
                    head = head * 10 + u128::from(byte - b'0');
                    digits += 1;
                }
                _ => tail.push(char::from(byte)),
            }
        }
        if head == 0 {
            return Decimal { negative: false, magnitude: 0, head, tail };
        }
        tail.truncate(tail.trim_end_matches('0').len());
        let magnitude = parse_exponent(exponent) + count(integer) - count(leading_zeros);
        Decimal { negative, magnitude, head: head * 10_u128.pow(HEAD_DIGITS - digits), tail }
    }

    /// The power of ten of the first digit: 2 for 350, -3 for 0.0035; `None` for zero.
    pub fn exponent(&self) -> Option<i128> {
        (self.head != 0).then(|| self.magnitude - 1)
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.head == 0, self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        // Without trailing zeros, digits in the order of strings are digits in the order of fractions.
        let digits = || self.head.cmp(&other.head).then_with(|| self.tail.cmp(&other.tail));
        let absolute = || self.magnitude.cmp(&other.magnitude).then_with(digits);
        self.sign().cmp(&other.sign()).then_with(|| if self.negative { absolute().reverse() } else { absolute() })
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn parse_exponent(text: &str) -> i128 {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_start_matches('0');
    let absolute = if digits.len() > EXPONENT_DIGITS_MAX { None } else { digits.parse::<i128>().ok() };
    match absolute {
        Some(absolute) => sign * absolute,
        None if digits.is_empty() => 0,
        None => sign * 10_i128.pow(36),
    }
}

fn count(length: usize) -> i128 {
    i128::try_from(length).expect("a length fits in an i128")
}

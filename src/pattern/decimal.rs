//! JSON numbers as exact decimals, compared without expanding them.
//!
//! Invariant: equal numbers have one form (35 = 35.0 = 3.5e1, -0 = 0), so that comparing is sign, then magnitude, then
//! digits; memory is that of the text, whatever its exponent. It does no arithmetic and never rounds.

use std::cmp::Ordering;

/// Exponents of more digits than this count as one and the same: far beyond any number that means something, and the
/// most that leaves room to add a digit count in an `i128`.
const EXPONENT_DIGITS_MAX: usize = 36;

/// A decimal number: `0.d₁d₂…dₙ × 10^magnitude`, `d₁` and `dₙ` not zero; zero has no digits, no sign, magnitude 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    magnitude: i128,
    digits: String,
}

impl Decimal {
    /// Reads the text of a JSON number, as the parser accepted it.
    pub fn parse(text: &str) -> Decimal {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = format!("{integer}{fraction}");
        let significant = written.trim_start_matches('0');
        let digits = significant.trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Decimal { negative: false, magnitude: 0, digits };
        }
        let leading_zeros = written.len() - significant.len();
        let magnitude = parse_exponent(exponent) + count(integer.len()) - count(leading_zeros);
        Decimal { negative, magnitude, digits }
    }

    /// The power of ten of the first digit: 2 for 350, -3 for 0.0035; `None` for zero.
    pub fn exponent(&self) -> Option<i128> {
        (!self.digits.is_empty()).then(|| self.magnitude - 1)
    }

    /// -1, 0 or 1.
    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        // Without trailing zeros, digits in the order of strings are digits in the order of fractions.
        let absolute = || self.magnitude.cmp(&other.magnitude).then_with(|| self.digits.cmp(&other.digits));
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

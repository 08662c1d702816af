//! What a value can be looked up by: itself, its beginning or end, a piece of it, the networks that an address is in.
//!
//! Invariant: if a test matches a value, then the value has, of the kind of each of the test's [`conditions`], the hash
//! that the condition has. The other way round nothing follows: what has the hash is compared.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::Decimal;
use super::super::value::{Range, Scalar, Test, fold_char};
use super::super::wildcard::Wildcard;
use super::hash;

/// The sizes of beginnings and ends that are looked up by; a longer one is cut to the next of these. So a value is
/// looked up in a bounded number of ways, however long what the patterns ask for is.
const CUTS: [u16; 44] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112,
    128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280,
];

/// The sizes of the pieces of wildcards.
const PIECES: [u8; 3] = [4, 2, 1];

/// How a value is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The whole value.
    Equal,
    /// The whole text, folded.
    Folded,
    /// So many bytes at the beginning of the text.
    Prefix(u16),
    /// So many bytes at its end.
    Suffix(u16),
    /// So many bytes at the beginning of the folded text.
    FoldedPrefix(u16),
    /// So many bytes at its end.
    FoldedSuffix(u16),
    /// The address's network of this length.
    Net4(u8),
    /// The same for IPv6.
    Net6(u8),
    /// Each run of so many bytes of the text.
    Piece(u8),
    /// That there is a value at all.
    Present,
}

/// What a value must have to pass a test.
#[derive(Clone, Debug)]
pub enum Condition<'p> {
    /// This hash, of this kind.
    Hash(Kind, u64),
    /// A number in this range.
    Range(&'p Range),
}

/// Conditions that any value which passes `test` meets: each of them by itself. There is at least one.
pub fn conditions(test: &Test) -> Vec<Condition<'_>> {
    let one = |kind, hash| vec![Condition::Hash(kind, hash)];
    match test {
        Test::Null => one(Kind::Equal, scalar(Scalar::Null)),
        Test::Bool(value) => one(Kind::Equal, scalar(Scalar::Bool(*value))),
        Test::Number(number) => one(Kind::Equal, hash::value(&**number)),
        Test::Text(text) => one(Kind::Equal, scalar(Scalar::Text(text))),
        Test::EqualsIgnoreCase(folded) => one(Kind::Folded, hash::text(folded.as_bytes())),
        Test::Prefix(text) => vec![beginning(text, Kind::Prefix)],
        Test::PrefixIgnoreCase(text) => vec![beginning(text, Kind::FoldedPrefix)],
        Test::Suffix(text) => vec![end(text, Kind::Suffix)],
        Test::SuffixIgnoreCase(text) => vec![end(text, Kind::FoldedSuffix)],
        Test::Wildcard(wildcard) => of_wildcard(wildcard),
        Test::Numeric(range) => match range.only() {
            Some(number) => one(Kind::Equal, hash::value(number)),
            None => vec![Condition::Range(range)],
        },
        Test::Cidr(IpNet::V4(net)) => one(Kind::Net4(net.prefix_len()), net4(net.addr().to_bits(), net.prefix_len())),
        Test::Cidr(IpNet::V6(net)) => one(Kind::Net6(net.prefix_len()), net6(net.addr().to_bits(), net.prefix_len())),
        Test::Exists | Test::AnythingBut(_) => vec![PRESENT],
    }
}

/// What every value has.
const PRESENT: Condition<'static> = Condition::Hash(Kind::Present, 0);

fn cut(len: usize) -> Option<u16> {
    CUTS.iter().rev().find(|cut| usize::from(**cut) <= len).copied()
}

fn beginning(text: &str, kind: fn(u16) -> Kind) -> Condition<'static> {
    let hash = |cut: u16| Condition::Hash(kind(cut), hash::text(&text.as_bytes()[..usize::from(cut)]));
    cut(text.len()).map_or(PRESENT, hash)
}

fn end(text: &str, kind: fn(u16) -> Kind) -> Condition<'static> {
    let hash = |cut: u16| Condition::Hash(kind(cut), hash::text(&text.as_bytes()[text.len() - usize::from(cut)..]));
    cut(text.len()).map_or(PRESENT, hash)
}

fn of_wildcard(wildcard: &Wildcard) -> Vec<Condition<'static>> {
    let parts = wildcard.parts();
    let [first, middle @ .., last] = parts else {
        return vec![Condition::Hash(Kind::Equal, scalar(Scalar::Text(&parts.concat())))];
    };
    let mut all = Vec::new();
    if !first.is_empty() {
        all.push(beginning(first, Kind::Prefix));
    }
    if !last.is_empty() {
        all.push(end(last, Kind::Suffix));
    }
    for part in middle {
        // Every piece of the largest size that the part has.
        let Some(size) = PIECES.iter().find(|size| usize::from(**size) <= part.len()) else { continue };
        let pieces = part.as_bytes().windows(usize::from(*size));
        all.extend(pieces.map(|piece| Condition::Hash(Kind::Piece(*size), self::piece(piece))));
    }
    if all.is_empty() { vec![PRESENT] } else { all }
}

#[inline]
fn piece(piece: &[u8]) -> u64 {
    hash::text(piece)
}

fn net4(bits: u32, len: u8) -> u64 {
    u64::from(bits.checked_shr(32 - u32::from(len)).unwrap_or(0))
}

fn net6(bits: u128, len: u8) -> u64 {
    hash::value(&bits.checked_shr(128 - u32::from(len)).unwrap_or(0))
}

fn scalar(value: Scalar<'_>) -> u64 {
    match value {
        Scalar::Null => 1,
        Scalar::Bool(false) => 2,
        Scalar::Bool(true) => 3,
        Scalar::Number(text) => hash::value(&Decimal::parse(text)),
        Scalar::Text(text) => hash::text(text.as_bytes()),
    }
}

/// Calls `with` with each hash of `kind` that `value` has; `folded` is room for a folded text.
#[inline]
pub fn each_hash(kind: Kind, value: Scalar<'_>, folded: &mut String, mut with: impl FnMut(u64)) {
    match (kind, value) {
        (Kind::Present, _) => with(0),
        (Kind::Equal, value) => with(scalar(value)),
        (Kind::Prefix(cut), Scalar::Text(text)) => with_beginning(text.as_bytes(), cut, with),
        (Kind::Suffix(cut), Scalar::Text(text)) => with_end(text.as_bytes(), cut, with),
        (Kind::Piece(size), Scalar::Text(text)) => {
            text.as_bytes().windows(usize::from(size)).for_each(|piece| with(self::piece(piece)));
        }
        (Kind::Folded, Scalar::Text(text)) => with(hash::text(fold_into(folded, text))),
        (Kind::FoldedPrefix(cut), Scalar::Text(text)) => with_beginning(fold_into(folded, text), cut, with),
        (Kind::FoldedSuffix(cut), Scalar::Text(text)) => with_end(fold_into(folded, text), cut, with),
        (Kind::Net4(len), Scalar::Text(text)) => {
            if let Ok(IpAddr::V4(address)) = text.parse() {
                with(net4(address.to_bits(), len));
            }
        }
        (Kind::Net6(len), Scalar::Text(text)) => {
            if let Ok(IpAddr::V6(address)) = text.parse() {
                with(net6(address.to_bits(), len));
            }
        }
        _ => {}
    }
}

fn fold_into<'f>(folded: &'f mut String, text: &str) -> &'f [u8] {
    folded.clear();
    folded.extend(text.chars().map(fold_char));
    folded.as_bytes()
}

fn with_beginning(text: &[u8], cut: u16, mut with: impl FnMut(u64)) {
    if let Some(text) = text.get(..usize::from(cut)) {
        with(hash::text(text));
    }
}

fn with_end(text: &[u8], cut: u16, mut with: impl FnMut(u64)) {
    if let Some(start) = text.len().checked_sub(usize::from(cut)) {
        with(hash::text(&text[start..]));
    }
}

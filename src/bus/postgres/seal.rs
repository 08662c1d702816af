//! The signature of a published event, as `migrations/0018_signed_events.sql` writes it, checked.
//!
//! Invariant: a message is believed only if a holder of the key wrote it in that transaction and at that place, after
//! every message of the transaction that was believed before: a copy is never believed beside its original. No bytes
//! make it panic, and comparing takes the same time wherever a signature is wrong.

use sha2::{Digest as _, Sha256};

use crate::event::SIGNATURE;
use crate::lsn::Lsn;

/// The longest beginning of a message that can hold a signature.
const HEAD_MAX: usize = 128;
/// How much WAL others may write between the moment a message is signed and the one when it is written. Transaction
/// numbers come again after 2^32 transactions, which take three times as much at least.
const DISTANCE_MAX: u64 = 64 << 30;

/// A key.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) number: i32,
    /// The hash after the inner block of HMAC, and after the outer.
    pub(super) inner: Sha256,
    pub(super) outer: Sha256,
    /// What it signs is believed only before this.
    pub(super) retired_at: Option<Lsn>,
}

/// The keys that a source's events are signed with.
#[derive(Clone)]
pub struct Keys {
    pub(super) keys: Vec<Key>,
    /// What stands before it needs no signature.
    pub(super) unsigned_until: Lsn,
    /// Keys that were there when the log was so long are known.
    pub(super) read_at: Lsn,
}

/// Where a message stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Its transaction.
    pub xid: u32,
    /// Its end in the log.
    pub lsn: Lsn,
    /// The seal of the message of this transaction that was believed last; zero for the first.
    pub after: Lsn,
}

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forgery {
    /// It has no signature.
    #[error("it is not signed, so it was not written by oncue.publish")]
    Unsigned,
    /// No key has that number, as far as is known.
    #[error("it is signed with the key {0}, which is not in oncue.publish_keys")]
    UnknownKey(i32),
    /// The key is not believed any more at its place.
    #[error("it is signed with the key {0}, which was retired before")]
    RetiredKey(i32),
    /// The signature is not that of the key.
    #[error("its signature is wrong: it was not written by oncue.publish, or in another transaction")]
    Wrong,
    /// It was signed for another place of the log.
    #[error("its signature is of another place of the log: it is a copy")]
    Copied,
}

/// What the beginning of a message says.
struct Seal<'a> {
    number: i32,
    lsn: Lsn,
    /// Number and position, as they were signed.
    text: &'a str,
    mac: [u8; 32],
    /// What follows.
    rest: &'a [u8],
}

impl Keys {
    /// No key: nothing is believed.
    #[must_use]
    pub fn none() -> Self {
        Self { keys: Vec::new(), unsigned_until: Lsn::ZERO, read_at: Lsn::ZERO }
    }

    /// Whether a key may have been made that is not known here and signed a message at `lsn`.
    #[must_use]
    pub fn is_stale(&self, lsn: Lsn) -> bool {
        self.read_at < lsn
    }

    /// Checks the signature of a message, and gives its seal: the position after which the next one must have been
    /// signed. What an older version of the functions wrote has none.
    ///
    /// # Errors
    /// Why the message is not believed.
    pub fn check(&self, message: &[u8], at: Standing) -> Result<Option<Lsn>, Forgery> {
        let Some(seal) = Seal::read(message) else {
            return if at.lsn <= self.unsigned_until { Ok(None) } else { Err(Forgery::Unsigned) };
        };
        let key = self.keys.iter().find(|key| key.number == seal.number);
        let key = key.ok_or(Forgery::UnknownKey(seal.number))?;
        if !is_same(&key.mac(at.xid, &seal), &seal.mac) {
            return Err(Forgery::Wrong);
        }
        if key.retired_at.is_some_and(|retired| at.lsn > retired) {
            return Err(Forgery::RetiredKey(key.number));
        }
        if seal.lsn <= at.after || seal.lsn >= at.lsn || at.lsn.since(seal.lsn) > DISTANCE_MAX {
            return Err(Forgery::Copied);
        }
        Ok(Some(seal.lsn))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<i32> = self.keys.iter().map(|key| key.number).collect();
        f.debug_struct("Keys").field("numbers", &numbers).finish_non_exhaustive()
    }
}

impl Key {
    fn mac(&self, xid: u32, seal: &Seal<'_>) -> [u8; 32] {
        let head = format!("{xid}.{}.", seal.text);
        let inner = self.inner.clone().chain_update(head).chain_update(seal.rest).finalize();
        self.outer.clone().chain_update(inner).finalize().into()
    }
}

impl<'a> Seal<'a> {
    /// The signature at the beginning of `message`; none where there is nothing of its form.
    fn read(message: &'a [u8]) -> Option<Self> {
        let after = message.strip_prefix(b"{\"")?.strip_prefix(SIGNATURE.as_bytes())?.strip_prefix(b"\":\"")?;
        let length = after.iter().take(HEAD_MAX).position(|byte| *byte == b'"')?;
        let rest = after.get(length..)?.strip_prefix(b"\",")?;
        let (text, mac) = std::str::from_utf8(&after[..length]).ok()?.rsplit_once('.')?;
        let (number, lsn) = text.split_once('.')?;
        Some(Self { number: number.parse().ok()?, lsn: lsn.parse().ok()?, text, mac: bytes(mac)?, rest })
    }
}

/// 32 bytes from lower-case hexadecimal.
fn bytes(hex: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is asked, of which message, where it stands, and the answer.
    type Case<'a> = (&'a str, &'a [u8], Standing, Result<Option<Lsn>, Forgery>);

    const REST: &str = r#""id": "x", "type": "a"}"#;

    fn key(number: i32, secret: u8, retired_at: Option<Lsn>) -> Key {
        let begun = |pad: u8| {
            let mut block = [pad; 64];
            block[..32].iter_mut().for_each(|byte| *byte ^= secret);
            Sha256::new().chain_update(block)
        };
        Key { number, inner: begun(0x36), outer: begun(0x5c), retired_at }
    }

    fn keys() -> Keys {
        let keys = vec![key(2, 9, None), key(1, 7, Some(Lsn(500)))];
        Keys { keys, unsigned_until: Lsn(100), read_at: Lsn(1_000) }
    }

    fn message(key: &Key, xid: u32, lsn: Lsn) -> Vec<u8> {
        let text = format!("{}.{lsn}", key.number);
        let mac = key.mac(xid, &Seal { number: key.number, lsn, text: &text, mac: [0; 32], rest: REST.as_bytes() });
        format!("{{\"{SIGNATURE}\":\"{text}.{}\",{REST}", crate::function::hex(&mac)).into_bytes()
    }

    fn at(xid: u32, lsn: u64, after: u64) -> Standing {
        Standing { xid, lsn: Lsn(lsn), after: Lsn(after) }
    }

    #[test]
    fn only_what_was_signed_in_its_transaction_and_at_its_place_is_believed() {
        let keys = keys();
        let signed = message(&keys.keys[0], 7, Lsn(600));
        let old = message(&keys.keys[1], 7, Lsn(400));
        let other = message(&key(2, 8, None), 7, Lsn(600));
        let missing = message(&key(3, 9, None), 7, Lsn(600));
        let mut altered = signed.clone();
        altered.truncate(signed.len() - 3);
        altered.extend_from_slice(b"b\"}");
        let table: [Case<'_>; 14] = [
            ("signed", &signed, at(7, 640, 0), Ok(Some(Lsn(600)))),
            ("after another", &signed, at(7, 640, 599), Ok(Some(Lsn(600)))),
            ("a copy behind it", &signed, at(7, 700, 600), Err(Forgery::Copied)),
            ("a copy in another transaction", &signed, at(8, 700, 0), Err(Forgery::Wrong)),
            ("before it was signed", &signed, at(7, 600, 0), Err(Forgery::Copied)),
            ("when the number came again", &signed, at(7, 640 + DISTANCE_MAX, 0), Err(Forgery::Copied)),
            ("altered", &altered, at(7, 640, 0), Err(Forgery::Wrong)),
            ("another key of that number", &other, at(7, 640, 0), Err(Forgery::Wrong)),
            ("a key that is not there", &missing, at(7, 640, 0), Err(Forgery::UnknownKey(3))),
            ("a retired key, before", &old, at(7, 500, 0), Ok(Some(Lsn(400)))),
            ("a retired key, behind", &old, at(7, 501, 0), Err(Forgery::RetiredKey(1))),
            ("unsigned", b"{\"id\":\"x\"}", at(7, 101, 0), Err(Forgery::Unsigned)),
            ("unsigned, of an older version", b"{\"id\":\"x\"}", at(7, 100, 0), Ok(None)),
            ("nothing", b"", at(7, 640, 0), Err(Forgery::Unsigned)),
        ];
        for (what, message, at, expected) in table {
            assert_eq!(keys.check(message, at), expected, "{what}");
        }
        assert_eq!(Keys::none().check(&signed, at(7, 640, 0)), Err(Forgery::UnknownKey(2)));
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", keys()), "Keys { numbers: [2, 1], .. }");
    }

    proptest! {
        #[test]
        fn a_message_with_any_byte_changed_is_not_believed(at_byte in 0_usize..140, with in 1_u8..) {
            let keys = keys();
            let mut message = message(&keys.keys[0], 7, Lsn(600));
            let place = at_byte % message.len();
            message[place] ^= with;
            prop_assert!(keys.check(&message, at(7, 640, 0)).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let message = [b"{\"oncuemac\":\"".as_slice(), &tail].concat();
            prop_assert!(keys().check(&message, at(7, 640, 0)).is_err());
        }
    }
}

//! A position in a Postgres server's write-ahead log.
//!
//! Invariant: what is shown is what Postgres shows (`16/B374D848`), and reading it back gives the same position.
//! Positions of two servers, or of two timelines of one, mean nothing to each other; that is for the caller to know.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A log sequence number; ordered as the log is. Zero is no position: Postgres calls it invalid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Text that is no log sequence number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no log position: write it as Postgres does, for example 16/B374D848")]
pub struct BadLsn {
    /// What was given.
    pub text: String,
}

impl Lsn {
    /// No position.
    pub const ZERO: Self = Self(0);

    /// How many bytes of log lie between `earlier` and this position; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        // `from_str_radix` alone would take a sign.
        let half = |digits: &str| {
            let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        let halves = text.split_once('/').and_then(|(high, low)| Some((half(high)?, half(low)?)));
        halves.map(|(high, low)| Self(high << 32 | low)).ok_or_else(|| BadLsn { text: text.to_owned() })
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_reads_and_shows_as_postgres_writes_it() {
        let table = [
            ("0/0", 0),
            ("0/1", 1),
            ("16/B374D848", 0x16_B374_D848),
            ("1/0", 1 << 32),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ];
        for (text, number) in table {
            assert_eq!(text.parse(), Ok(Lsn(number)), "{text}");
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(format!("{:?}", Lsn(number)), text);
        }
        assert_eq!("16/b374d848".parse(), Ok(Lsn(0x16_B374_D848)), "lower case reads too");
        assert_eq!("00000016/0000000A".parse(), Ok(Lsn(0x16_0000_000A)), "and leading zeros");
    }

    #[test]
    fn what_is_no_position_is_refused_with_an_example() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "1/-2", " 1/2", "1/2 ", "g/1", "100000000/0", "é/1"] {
            let error = text.parse::<Lsn>().expect_err(text);
            assert!(error.to_string().contains("16/B374D848"), "{error}");
        }
    }

    #[test]
    fn a_position_is_text_in_json() {
        let json = serde_json::to_string(&Lsn(0x16_B374_D848)).expect("it is text");
        assert_eq!(json, "\"16/B374D848\"");
        assert_eq!(serde_json::from_str::<Lsn>(&json).expect("it reads"), Lsn(0x16_B374_D848));
        assert!(serde_json::from_str::<Lsn>("\"x\"").is_err());
    }

    #[test]
    fn a_distance_is_never_negative() {
        assert_eq!(Lsn(7).since(Lsn(3)), 4);
        assert_eq!(Lsn(3).since(Lsn(7)), 0);
    }

    proptest! {
        #[test]
        fn every_position_survives_being_written(number in any::<u64>()) {
            prop_assert_eq!(Lsn(number).to_string().parse(), Ok(Lsn(number)));
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = text.parse::<Lsn>();
        }
    }
}

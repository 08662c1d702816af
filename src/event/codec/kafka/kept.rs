//! A record as a dead letter keeps it: what is not its value, as JSON, so that it can be shown and decoded again.
//!
//! Invariant: reading what was written gives the same record, whatever bytes its key and headers are. Text is written as
//! text, other bytes in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Header, Record};

/// What is kept of a record beside its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    key: Option<Octets>,
    tombstone: bool,
    headers: Vec<(String, Option<Octets>)>,
}

/// Bytes that are text more often than not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Octets {
    Text(String),
    Binary { base64: String },
}

impl Octets {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary { base64: STANDARD.encode(bytes) },
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            // Only what was written here is read.
            Self::Binary { base64 } => STANDARD.decode(base64).unwrap_or_default(),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Binary { base64 } => format!("base64:{base64}"),
        }
    }
}

impl Kept {
    /// Keeps `record`, which was at `offset` of a partition.
    #[must_use]
    pub fn new(record: &Record<'_>, topic: &str, partition: i32, offset: i64) -> Self {
        let header = |(name, value): &Header<'_>| ((*name).to_owned(), value.map(Octets::of));
        Self {
            topic: topic.to_owned(),
            partition,
            offset,
            key: record.key.map(Octets::of),
            tombstone: record.value.is_none(),
            headers: record.headers.iter().map(header).collect(),
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers and lists are always JSON")
    }

    /// Reads what [`Kept::to_json`] wrote; none of what a message of another bus left.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Calls `with` with the record, whose value was `raw`.
    pub fn with_record<T>(&self, raw: &[u8], with: impl FnOnce(&Record<'_>) -> T) -> T {
        let key = self.key.as_ref().map(Octets::bytes);
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_ref().map(Octets::bytes))).collect();
        let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| (*name, value.as_deref())).collect();
        let value = if self.tombstone { None } else { Some(raw) };
        with(&Record { key: key.as_deref(), value, headers: &headers })
    }

    /// Place, key and headers for people, by name.
    #[must_use]
    pub fn shown(&self) -> Vec<(String, String)> {
        let mut shown = vec![("(record)".to_owned(), format!("{}/{}@{}", self.topic, self.partition, self.offset))];
        shown.extend(self.key.as_ref().map(|key| ("(key)".to_owned(), key.shown())));
        if self.tombstone {
            shown.push(("(value)".to_owned(), "null".to_owned()));
        }
        let header = |(name, value): &(String, Option<Octets>)| {
            (name.clone(), value.as_ref().map_or_else(|| "null".to_owned(), Octets::shown))
        };
        shown.extend(self.headers.iter().map(header));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Bytes = Option<&'static [u8]>;

    #[test]
    fn a_kept_record_is_the_same_record() {
        let table: [(Bytes, Bytes, &[Header<'_>]); 4] = [
            (None, None, &[]),
            (Some(b""), Some(b""), &[("a", None), ("a", Some(b""))]),
            (Some(b"k"), Some(b"v"), &[("content-type", Some(b"text/plain")), ("x", Some(b"\xff\x00"))]),
            (Some(b"\xfe"), Some(b"{\"base64\":\"x\"}"), &[("{\"base64\":1}", Some(b"{\"base64\":\"AA==\"}"))]),
        ];
        for (key, value, headers) in table {
            let record = Record { key, value, headers };
            let kept = Kept::new(&record, "orders", 3, 42);
            let read = Kept::from_json(&kept.to_json()).expect("it was just written");
            assert_eq!(read, kept);
            read.with_record(value.unwrap_or_default(), |again| {
                assert_eq!((again.key, again.value, again.headers), (key, value, headers));
            });
        }
    }

    #[test]
    fn headers_of_another_bus_are_none() {
        for other in [r#"[["Nats-Subject","a"]]"#, "[]", "", "{}"] {
            assert_eq!(Kept::from_json(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_record_is_shown_with_its_place_and_its_key() {
        let headers: &[Header<'_>] = &[("x", Some(b"\xff")), ("y", None)];
        let kept = Kept::new(&Record { key: Some(b"k"), value: None, headers }, "orders", 0, 7);
        let shown: Vec<String> = kept.shown().iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["(record)=orders/0@7", "(key)=k", "(value)=null", "x=base64:/w==", "y=null"]);
    }
}

//! The headers of a record, out of the client's memory.
//!
//! Invariant: a record whose header has a name that is no text is an error and ends nothing: the client itself panics on
//! it, and anybody who may write to a topic can send one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{Headers as _, Message};

use crate::event::codec::DecodeError;
use crate::event::codec::kafka::Header;

/// The headers of `record` in their order, as the codec takes them.
///
/// # Errors
/// The first one whose name is no text.
pub fn headers<M: Message>(record: &M) -> Result<Vec<Header<'_>>, DecodeError> {
    let Some(headers) = record.headers() else { return Ok(Vec::new()) };
    let mut read = Vec::with_capacity(headers.count());
    for at in 0..headers.count() {
        // It touches nothing but the client's memory, which stays as it is.
        let header = catch_unwind(AssertUnwindSafe(|| headers.try_get(at)));
        let header = header.map_err(|_| DecodeError::HeaderName { at: at + 1 })?;
        read.extend(header.map(|header| (header.key, header.value)));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header as Sent, OwnedHeaders, OwnedMessage, Timestamp};

    use super::*;

    fn record(headers: OwnedHeaders) -> OwnedMessage {
        OwnedMessage::new(None, None, "t".to_owned(), Timestamp::NotAvailable, 0, 0, Some(headers))
    }

    #[test]
    fn headers_are_read_in_their_order_with_null_and_empty_values() {
        let headers_out = OwnedHeaders::new()
            .insert(Sent { key: "a", value: Some("1") })
            .insert(Sent { key: "a", value: Some("") })
            .insert(Sent { key: "", value: None::<&str> });
        let expected: [Header<'_>; 3] = [("a", Some(b"1")), ("a", Some(b"")), ("", None)];
        assert_eq!(headers(&record(headers_out)).as_deref(), Ok(&expected[..]));
        let none = OwnedMessage::new(None, None, "t".to_owned(), Timestamp::NotAvailable, 0, 0, None);
        assert_eq!(headers(&none), Ok(Vec::new()));
    }

    #[test]
    #[expect(unsafe_code, reason = "no safe way sends what a hostile producer sends")]
    fn a_name_that_is_no_text_is_an_error_and_no_panic() {
        // Only its bytes are copied; nothing reads it as text before the client does.
        let bytes = vec![0xff, 0xfe];
        let name = unsafe { std::str::from_utf8_unchecked(&bytes) };
        let headers_out = OwnedHeaders::new()
            .insert(Sent { key: "good", value: Some("1") })
            .insert(Sent { key: name, value: Some("2") });
        assert_eq!(headers(&record(headers_out)), Err(DecodeError::HeaderName { at: 2 }));
    }
}

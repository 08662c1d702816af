//! Why a message is no event.
//!
//! Invariant: the text of an error is one line without control characters, whatever bytes the message held. It names the
//! field, the kind of error and the fix, and repeats nothing that the message held but names of attributes that have the
//! form of one: it is logged, shown and kept beside the raw bytes, and only those hold contents.

/// Stands in the place of a name that has not the form of one, and so may be anything.
const NO_NAME: &str = "(not a name)";

/// Why a message could not be decoded. Every variant ends in `rejected`, with the raw bytes kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The payload is longer than `Limits::max_bytes`.
    #[error("payload has {bytes} bytes, more than max_bytes = {limit}: send less, or raise the limit")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The JSON is nested deeper than `Limits::max_depth`.
    #[error(
        "JSON is nested deeper than max_depth = {limit}: flatten it, or send it with a content type that is not JSON"
    )]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Too many headers or extension attributes, or too many bytes of them.
    #[error("{what}: {got}, more than {name} = {limit}: send fewer, or raise the limit")]
    Headers {
        /// What was counted.
        what: &'static str,
        /// The count.
        got: usize,
        /// Which limit.
        name: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The name of a header is not UTF-8.
    #[error("the name of header {at}, counted from 1, is not UTF-8: name headers in UTF-8")]
    HeaderName {
        /// Which one.
        at: usize,
    },
    /// The header block of a NATS message is not what NATS says it is.
    #[error("line {line} of the header block {problem}: send NATS/1.0, then one `Name: value` a line, in UTF-8")]
    HeaderBlock {
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The subject of a NATS message is not UTF-8.
    #[error("the subject is not UTF-8: publish to subjects in UTF-8")]
    Subject,
    /// The message was longer than what is held of one.
    #[error("the message has {bytes} bytes, more than the server's max_payload, and was not kept: send less")]
    NotKept {
        /// Length of header block and payload.
        bytes: usize,
    },
    /// The subject that an event is to be published to is none.
    #[error("the event cannot be published: its subject {problem}")]
    Unpublishable {
        /// What is wrong with it.
        problem: crate::event::subject::SubjectError,
    },
    /// The envelope of structured mode is not one JSON object in UTF-8.
    #[error("payload is no CloudEvent in JSON ({reason}): send one JSON object in UTF-8 without a byte order mark")]
    InvalidJson {
        /// What kind of error, and where.
        reason: String,
    },
    /// A required attribute is absent or empty.
    #[error("attribute {name} is missing or empty: a CloudEvent needs specversion, id, source and type")]
    MissingAttribute {
        /// Which attribute.
        name: &'static str,
    },
    /// An attribute has a name or value that is not allowed.
    #[error("attribute {name} is invalid: {fix}")]
    InvalidAttribute {
        /// Which attribute.
        name: String,
        /// What is allowed.
        fix: &'static str,
    },
    /// An attribute is there twice.
    #[error("attribute {name} is given twice: send it once")]
    DuplicateAttribute {
        /// Which attribute.
        name: String,
    },
    /// A version of CloudEvents other than 1.0.
    #[error("attribute specversion is not 1.0: send CloudEvents 1.0")]
    UnsupportedSpecversion,
    /// An event format other than JSON, Avro for example.
    #[error(
        "the content type is a format of CloudEvents other than JSON: send application/cloudevents+json, or binary mode"
    )]
    UnsupportedFormat,
    /// The event went through too many functions: a loop.
    #[error("attribute oncuehops is above {limit}: rules and functions form a loop; break it")]
    HopLimit {
        /// The limit.
        limit: u32,
    },
    /// A batch of CloudEvents.
    #[error("the content type is a batch of CloudEvents, which has no single position: send one event a message")]
    Batch,
}

impl DecodeError {
    /// A stable word for metrics, dead letters and filters.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooDeep { .. } => "too_deep",
            Self::Headers { .. } => "headers",
            Self::HeaderName { .. } => "header_name",
            Self::HeaderBlock { .. } => "header_block",
            Self::Subject => "subject",
            Self::NotKept { .. } => "too_large",
            Self::Unpublishable { .. } => "unpublishable",
            Self::InvalidJson { .. } => "invalid_json",
            Self::MissingAttribute { .. } => "missing_attribute",
            Self::InvalidAttribute { .. } => "invalid_attribute",
            Self::DuplicateAttribute { .. } => "duplicate_attribute",
            Self::UnsupportedSpecversion => "unsupported_specversion",
            Self::UnsupportedFormat => "unsupported_format",
            Self::HopLimit { .. } => "hop_limit",
            Self::Batch => "batch",
        }
    }

    pub(super) fn invalid(name: &str, fix: &'static str) -> Self {
        Self::InvalidAttribute { name: shown(name), fix }
    }

    pub(super) fn duplicate(name: &str) -> Self {
        Self::DuplicateAttribute { name: shown(name) }
    }

    /// Of what the parser says only what comes from its own text: an error of a type quotes the value.
    pub(super) fn json(error: &serde_json::Error) -> Self {
        let reason = match error.classify() {
            serde_json::error::Category::Data => {
                format!("it is no object at line {} column {}", error.line(), error.column())
            }
            _ => error.to_string(),
        };
        Self::InvalidJson { reason }
    }
}

/// `name` where it has the form of a name.
fn shown(name: &str) -> String {
    let of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let is_name = name.len() <= super::check::MAX_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(of_name);
    if is_name { name.to_owned() } else { NO_NAME.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_form_of_a_name_is_repeated() {
        let long = "a".repeat(65);
        let table = [
            ("tenantid", "tenantid"),
            ("data_base64", "data_base64"),
            ("4111111111111111", NO_NAME),
            ("ada@example.com", NO_NAME),
            ("Ada", NO_NAME),
            ("", NO_NAME),
            (&long, NO_NAME),
        ];
        for (name, expected) in table {
            assert_eq!(shown(name), expected, "{name}");
        }
    }
}

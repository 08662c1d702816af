//! Why a message is no event.
//!
//! Invariant: the text of an error is one line without control characters, whatever bytes the message held, and it
//! names the field, the value and what mends it. It is kept with the rejected event, so it never holds the payload.

/// The longest stretch of a hostile value that an error repeats, in characters after escaping.
const SHOWN_CHARS: usize = 200;

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
    #[error("\"{subject}\" cannot be published to: it {problem}")]
    Unpublishable {
        /// The subject, escaped and cut.
        subject: String,
        /// What is wrong with it.
        problem: crate::event::subject::SubjectError,
    },
    /// The envelope of structured mode is not one JSON object in UTF-8.
    #[error("payload is no CloudEvent in JSON ({reason}): send one JSON object in UTF-8 without a byte order mark")]
    InvalidJson {
        /// What the parser said, escaped.
        reason: String,
    },
    /// A required attribute is absent or empty.
    #[error("attribute {name} is missing or empty: a CloudEvent needs specversion, id, source and type")]
    MissingAttribute {
        /// Which attribute.
        name: &'static str,
    },
    /// An attribute has a name or value that is not allowed.
    #[error("attribute {name} = \"{value}\" is invalid: {fix}")]
    InvalidAttribute {
        /// Which attribute, escaped and cut.
        name: String,
        /// Its value, escaped and cut.
        value: String,
        /// What is allowed.
        fix: &'static str,
    },
    /// An attribute is there twice.
    #[error("attribute {name} is given twice: send it once")]
    DuplicateAttribute {
        /// Which attribute, escaped and cut.
        name: String,
    },
    /// A version of CloudEvents other than 1.0.
    #[error("attribute specversion = \"{value}\" is not supported: send CloudEvents 1.0")]
    UnsupportedSpecversion {
        /// The version, escaped and cut.
        value: String,
    },
    /// An event format other than JSON, Avro for example.
    #[error("content type \"{value}\" is not supported: send application/cloudevents+json, or binary mode")]
    UnsupportedFormat {
        /// The content type, escaped and cut.
        value: String,
    },
    /// The event went through too many functions: a loop.
    #[error("attribute oncuehops = \"{value}\" is above {limit}: rules and functions form a loop; break it")]
    HopLimit {
        /// The count, as it came.
        value: String,
        /// The limit.
        limit: u32,
    },
    /// A batch of CloudEvents.
    #[error("content type \"{value}\" is a batch, which has no single position: send one event a message")]
    Batch {
        /// The content type, escaped and cut.
        value: String,
    },
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
            Self::UnsupportedSpecversion { .. } => "unsupported_specversion",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::HopLimit { .. } => "hop_limit",
            Self::Batch { .. } => "batch",
        }
    }

    pub(super) fn invalid(name: &str, value: &str, fix: &'static str) -> Self {
        Self::InvalidAttribute { name: shown(name), value: shown(value), fix }
    }

    pub(super) fn duplicate(name: &str) -> Self {
        Self::DuplicateAttribute { name: shown(name) }
    }
}

/// `value` as an error may repeat it: escaped, so that it cannot forge a log line, and cut.
pub(crate) fn shown(value: &str) -> String {
    let mut escaped = value.escape_debug();
    let mut text: String = escaped.by_ref().take(SHOWN_CHARS).collect();
    if escaped.next().is_some() {
        text.push('…');
    }
    text
}

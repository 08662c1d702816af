//! The protocol of NATS as a reader needs it: what the server sends, cut into operations. Subjects and header blocks stay
//! bytes.
//!
//! Invariant: what a publisher wrote cannot make it fail. A server writes lengths and line ends itself, so only a server
//! that breaks the protocol is an error. A message of more than `max` bytes is passed over, and comes without its bytes.

use bytes::{Buf as _, Bytes, BytesMut};

/// Longest line: a list of a large cluster's servers fits many times.
const LINE_MAX: usize = 1 << 20;

/// A message as it was delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it was published to.
    pub subject: Bytes,
    /// Where an answer goes; on JetStream, what acknowledges it.
    pub reply: Bytes,
    /// The header block with its version line; empty without headers.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// Bytes of block and payload that were passed over because there were too many; else 0.
    pub passed_over: usize,
}

impl Message {
    /// Bytes that it takes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.subject.len() + self.reply.len() + self.headers.len() + self.payload.len()
    }
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A message.
    Message(Message),
    /// What it is, in JSON.
    Info(Bytes),
    /// It wants to know whether we are there.
    Ping,
    /// It has read everything that was sent before a `PING`.
    Pong,
    /// It refuses something.
    Error(String),
    /// An acknowledgement that was not asked for.
    Okay,
}

/// The server does not speak the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server broke the protocol: {0}")]
pub struct WireError(&'static str);

/// Cuts bytes into operations.
#[derive(Debug)]
pub(super) struct Decoder {
    max: usize,
    /// A message that is passed over, and how many bytes of it are still to come.
    passing: Option<(Message, usize)>,
}

impl Decoder {
    pub(super) fn new(max: usize) -> Self {
        Self { max, passing: None }
    }

    /// The first operation of `buffer`, which is taken out of it; none while it is not there as a whole.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Op>, WireError> {
        if self.passing.is_some() {
            return Ok(self.pass_over(buffer));
        }
        let Some(end) = memchr::memmem::find(buffer, b"\r\n") else {
            return if buffer.len() > LINE_MAX { Err(WireError("a line without an end")) } else { Ok(None) };
        };
        let headed = buffer.starts_with(b"HMSG ");
        if headed || buffer.starts_with(b"MSG ") {
            return self.message(buffer, end, headed);
        }
        let line = buffer.split_to(end).freeze();
        buffer.advance(2);
        control(&line).map(Some)
    }

    fn message(&mut self, buffer: &mut BytesMut, end: usize, headed: bool) -> Result<Option<Op>, WireError> {
        // Looked at before it is cut out: most lines come together with what they announce, but not all.
        let (block, total) = sizes(&buffer[..end], headed)?;
        let begin = end + 2;
        if total > self.max {
            let line = buffer.split_to(end).freeze();
            buffer.advance(2);
            let message = Message { passed_over: total, ..head(&line, headed) };
            self.passing = Some((message, total.saturating_add(2)));
            return Ok(self.pass_over(buffer));
        }
        if buffer.len() < begin + total + 2 {
            buffer.reserve(begin + total + 2 - buffer.len());
            return Ok(None);
        }
        let line = buffer.split_to(end).freeze();
        buffer.advance(2);
        let mut message = head(&line, headed);
        message.headers = buffer.split_to(block).freeze();
        message.payload = buffer.split_to(total - block).freeze();
        if !buffer.starts_with(b"\r\n") {
            return Err(WireError("a message of another length than announced"));
        }
        buffer.advance(2);
        Ok(Some(Op::Message(message)))
    }

    fn pass_over(&mut self, buffer: &mut BytesMut) -> Option<Op> {
        let (message, left) = self.passing.take()?;
        let here = left.min(buffer.len());
        buffer.advance(here);
        if here == left {
            return Some(Op::Message(message));
        }
        self.passing = Some((message, left - here));
        None
    }
}

fn control(line: &Bytes) -> Result<Op, WireError> {
    let is = |word: &[u8]| line.len() >= word.len() && line[..word.len()].eq_ignore_ascii_case(word);
    if is(b"PING") {
        Ok(Op::Ping)
    } else if is(b"PONG") {
        Ok(Op::Pong)
    } else if is(b"+OK") {
        Ok(Op::Okay)
    } else if is(b"-ERR") {
        let text = String::from_utf8_lossy(&line[4..]);
        Ok(Op::Error(text.trim().trim_matches('\'').to_owned()))
    } else if is(b"INFO ") {
        Ok(Op::Info(line.slice(5..)))
    } else {
        Err(WireError("an unknown operation"))
    }
}

/// Length of the header block, and of block and payload together.
fn sizes(line: &[u8], headed: bool) -> Result<(usize, usize), WireError> {
    let mut words = line.rsplit(|byte| *byte == b' ').filter(|word| !word.is_empty());
    // The verb, the subject, the subscription, perhaps a reply, and the lengths.
    let without_reply = if headed { 5 } else { 4 };
    if !(without_reply..=without_reply + 1).contains(&words.clone().count()) {
        return Err(WireError("a message with too few or too many words"));
    }
    let mut number = || {
        let text = std::str::from_utf8(words.next()?).ok()?;
        text.parse::<u32>().ok().and_then(|n| usize::try_from(n).ok())
    };
    let total = number();
    let block = if headed { number() } else { Some(0) };
    match (block, total) {
        (Some(block), Some(total)) if block <= total => Ok((block, total)),
        _ => Err(WireError("a message without its lengths")),
    }
}

/// Subject and reply of a `MSG` or `HMSG` line that has its lengths. A subject holds any byte but white space.
fn head(line: &Bytes, headed: bool) -> Message {
    let (skip, lengths) = if headed { (5, 2) } else { (4, 1) };
    let mut words = line[skip..].split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let has_reply = words.clone().count() == lengths + 3;
    let subject = words.next().map(|word| line.slice_ref(word)).unwrap_or_default();
    let reply = words.nth(1).filter(|_| has_reply).map(|word| line.slice_ref(word)).unwrap_or_default();
    Message { subject, reply, ..Message::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every operation of `bytes`, which come in pieces of `piece`.
    fn read(bytes: &[u8], piece: usize, max: usize) -> Result<Vec<Op>, WireError> {
        let (mut decoder, mut buffer, mut found) = (Decoder::new(max), BytesMut::new(), Vec::new());
        for part in bytes.chunks(piece) {
            buffer.extend_from_slice(part);
            while let Some(op) = decoder.next(&mut buffer)? {
                found.push(op);
            }
        }
        Ok(found)
    }

    fn message(subject: &'static [u8], reply: &'static [u8], headers: &'static [u8], payload: &'static [u8]) -> Op {
        let of = Bytes::from_static;
        let (subject, reply, headers, payload) = (of(subject), of(reply), of(headers), of(payload));
        Op::Message(Message { subject, reply, headers, payload, passed_over: 0 })
    }

    #[test]
    fn what_a_server_sends_is_cut_in_pieces_of_any_size() {
        let bytes = b"INFO {\"a\":1}\r\nPING\r\n+OK\r\nMSG a.b 1 3\r\nx\r\n\r\nMSG \xff\xfe 1 r.1 0\r\n\r\n\
            HMSG a 2 r 14 15\r\nNATS/2.0\r\nno:hi\r\nPONG\r\nHMSG a 2 12 12\r\nNATS/1.0\r\n\r\n\r\n-ERR 'Stale Connection'\r\n";
        let expected = [
            Op::Info(Bytes::from_static(b"{\"a\":1}")),
            Op::Ping,
            Op::Okay,
            message(b"a.b", b"", b"", b"x\r\n"),
            message(b"\xff\xfe", b"r.1", b"", b""),
            message(b"a", b"r", b"NATS/2.0\r\nno:h", b"i"),
        ];
        for piece in [1, 2, 7, bytes.len()] {
            let found = read(bytes, piece, 1 << 20);
            let found = found.unwrap_or_else(|error| panic!("{piece}: {error}"));
            assert_eq!(found[..6], expected, "{piece}");
            assert_eq!(found[6], Op::Pong);
            assert!(matches!(&found[7], Op::Message(m) if m.headers.len() == 12 && m.payload.is_empty()));
            assert_eq!(found[8], Op::Error("Stale Connection".to_owned()));
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_passed_over_and_told() {
        let long = [b"MSG a 1 r 100\r\n".as_slice(), &[b'x'; 100], b"\r\nPING\r\n"].concat();
        for piece in [1, 13, 200] {
            let found = read(&long, piece, 99).expect("the protocol is kept");
            assert!(
                matches!(&found[0], Op::Message(m) if m.passed_over == 100 && m.reply == "r" && m.payload.is_empty())
            );
            assert_eq!(found[1..], [Op::Ping]);
        }
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_told_so() {
        for bytes in ["MSG\r\n", "MSG a 1 x\r\n", "HMSG a 1 5 3\r\n", "WHAT\r\n", "MSG a 1 1\r\nxyz", "MSG 1\r\n"] {
            assert!(read(bytes.as_bytes(), 100, 100).is_err(), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..20) {
            let _ = read(&bytes, piece, 64);
            let _ = read(&[b"HMSG ".as_slice(), &bytes, b"\r\n"].concat(), piece, 64);
        }
    }
}

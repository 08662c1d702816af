//! What a server sends on a guest's connection, bounded before anything holds it.
//!
//! Invariant: whatever a guest makes the server say, no message is held that is longer than `MESSAGE_MAX`, of an error
//! only its first bytes, and of notices and notifications nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of one message but an error; rows of a read have at most a quarter of that.
pub(super) const MESSAGE_MAX: usize = 4 << 20;
/// Bytes of an error that are kept.
const ERROR_MAX: usize = 4 << 10;
/// The type of a message and its length.
const HEADER: usize = 5;
/// Bytes that are read at a time.
const CHUNK: usize = 16 << 10;

/// A stream of which only bounded messages are read. Writing is passed through.
pub(super) struct Frames<S> {
    inner: S,
    filter: Filter,
    chunk: Box<[u8]>,
}

impl<S> Frames<S> {
    /// Messages of `inner`, from its first byte.
    pub(super) fn new(inner: S) -> Self {
        Self { inner, filter: Filter::default(), chunk: vec![0; CHUNK].into_boxed_slice() }
    }
}

/// Where in a message the next byte belongs.
#[derive(Debug, Default)]
enum Part {
    /// The message's type and length are not whole yet.
    #[default]
    Header,
    /// So many bytes are passed on.
    Pass(usize),
    /// So many bytes are left out.
    Skip(usize),
    /// An error of which so many bytes are still to be kept, and so many left out after them.
    Error { keep: usize, skip: usize },
}

#[derive(Debug, Default)]
struct Filter {
    part: Part,
    /// The beginning of a header, or of an error.
    held: BytesMut,
    /// What the reader gets.
    out: BytesMut,
}

impl Filter {
    /// Takes in what the server sent.
    ///
    /// # Errors
    /// A message is longer than any that is held.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.part {
                Part::Header => {
                    let missing = HEADER - self.held.len();
                    self.held.put_slice(split(&mut bytes, missing));
                    if self.held.len() == HEADER {
                        self.begin()?;
                    }
                }
                Part::Pass(left) => {
                    let part = split(&mut bytes, *left);
                    *left -= part.len();
                    self.out.put_slice(part);
                    self.end_if(matches!(self.part, Part::Pass(0)));
                }
                Part::Skip(left) => {
                    *left -= split(&mut bytes, *left).len();
                    self.end_if(matches!(self.part, Part::Skip(0)));
                }
                Part::Error { keep, skip } => {
                    let part = split(&mut bytes, *keep);
                    *keep -= part.len();
                    self.held.put_slice(part);
                    if *keep == 0 {
                        let skip = *skip;
                        self.pass_error(skip > 0);
                        self.part = Part::Skip(skip);
                        self.end_if(skip == 0);
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut header = self.held.split();
        let (kind, length) = (header[0], u32::from_be_bytes([header[1], header[2], header[3], header[4]]));
        let body = (length as usize).checked_sub(4).ok_or_else(|| io::Error::other("a message has no length"))?;
        self.part = match kind {
            b'N' | b'A' => Part::Skip(body),
            b'E' => Part::Error { keep: body.min(ERROR_MAX), skip: body.saturating_sub(ERROR_MAX) },
            _ if body > MESSAGE_MAX => {
                return Err(io::Error::other(format!(
                    "the server sent a message of {body} bytes, more than {MESSAGE_MAX}; the connection is closed"
                )));
            }
            _ => {
                self.out.put(&mut header);
                Part::Pass(body)
            }
        };
        if matches!(self.part, Part::Error { keep: 0, .. }) {
            self.pass_error(false);
            self.part = Part::Skip(0);
        }
        self.end_if(matches!(self.part, Part::Pass(0) | Part::Skip(0)));
        Ok(())
    }

    fn end_if(&mut self, ended: bool) {
        if ended {
            self.part = Part::Header;
        }
    }

    /// Passes on the error that is held; one that was `cut` ends with its last character that is whole.
    fn pass_error(&mut self, cut: bool) {
        let mut body = self.held.split();
        if cut {
            // Each field is a letter and a text that ends with NUL; a NUL ends the message. What was cut is in the last one.
            while body.last().is_some_and(|byte| byte & 0xC0 == 0x80) {
                body.truncate(body.len() - 1);
            }
            if body.last().is_some_and(|byte| *byte >= 0xC0) {
                body.truncate(body.len() - 1);
            }
            let ends_field = body.last() == Some(&0);
            if !ends_field {
                body.put_u8(0);
            }
            body.put_u8(0);
        }
        self.out.put_u8(b'E');
        self.out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        self.out.put(body);
    }
}

fn split<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    part
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.filter.out.is_empty() {
            let mut chunk = ReadBuf::new(&mut this.chunk);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.take(chunk.filled())?;
        }
        let most = buf.remaining().min(this.filter.out.len());
        buf.put_slice(&this.filter.out[..most]);
        this.filter.out.advance(most);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ERROR_MAX, Filter, MESSAGE_MAX};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("it is short");
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    fn filtered(bytes: &[u8], chunk: usize) -> std::io::Result<Vec<u8>> {
        let mut filter = Filter::default();
        bytes.chunks(chunk).try_for_each(|part| filter.take(part))?;
        Ok(filter.out.to_vec())
    }

    #[test]
    fn notices_and_notifications_are_left_out() {
        let sent = [message(b'N', b"x"), message(b'Z', b"T"), message(b'A', b""), message(b'1', b"")].concat();
        for chunk in 1..sent.len() {
            assert_eq!(filtered(&sent, chunk).expect("it passes"), [message(b'Z', b"T"), message(b'1', b"")].concat());
        }
    }

    #[test]
    fn a_long_error_is_cut_and_stays_one() {
        let long = format!("SERROR\0C22P02\0M{}\0\0", "ä".repeat(1 << 20));
        let sent = [message(b'E', long.as_bytes()), message(b'Z', b"E")].concat();
        let got = filtered(&sent, 1_000).expect("it passes");
        assert!(got.starts_with(b"E") && got.ends_with(&message(b'Z', b"E")) && got.len() < ERROR_MAX + 20);
        let body = &got[5..got.len() - 6];
        let text = std::str::from_utf8(body).expect("it is cut between characters");
        assert!(text.starts_with("SERROR\0C22P02\0Mää") && text.ends_with("ä\0\0"), "{:?}", &text[..40]);
        assert_eq!(usize::try_from(u32::from_be_bytes([got[1], got[2], got[3], got[4]])).ok(), Some(body.len() + 4));
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_stream() {
        let length = u32::try_from(MESSAGE_MAX + 5).expect("it is short");
        let header = [&b"D"[..], &length.to_be_bytes()].concat();
        assert!(filtered(&header, 5).is_err());
        assert!(filtered(b"D\0\0\0\0", 5).is_err(), "a length that is none");
    }

    proptest! {
        #[test]
        fn what_is_short_passes_as_it_is(
            bodies in prop::collection::vec((prop::sample::select(&b"DZTC1ES"[..]), prop::collection::vec(any::<u8>(), 0..300)), 1..20),
            chunk in 1_usize..400,
        ) {
            let sent: Vec<u8> = bodies.iter().flat_map(|(kind, body)| message(*kind, body)).collect();
            prop_assert_eq!(filtered(&sent, chunk).expect("it passes"), sent);
        }
    }
}

//! What a function says: `wasi:logging` lines and its standard streams, as lines of text that cannot be forged.
//!
//! Invariant: a call keeps at most its limit of bytes and `LINES_MAX` lines whatever it writes, and no kept line holds
//! a character that drives a terminal or cannot be seen. Where the lines go is not decided here.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::delivery::LogLine;
use crate::printable::is_hidden;

/// Lines kept of one call: without it, empty lines would cost far more memory than their bytes say.
const LINES_MAX: usize = 1_000;
/// Bytes that a stream takes at once: the same as WASI's own streams, and the most that one write makes the host hold.
const WRITE_BYTES: usize = 64 << 10;

/// One of the two standard streams.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn level(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one call, shared between the host functions and the two streams.
#[derive(Clone, Debug)]
pub(super) struct Logs(Arc<Mutex<Buffer>>);

#[derive(Debug)]
struct Buffer {
    lines: Vec<LogLine>,
    room: usize,
    dropped: u64,
    /// A line of each stream that is not ended yet.
    open: [Vec<u8>; 2],
}

impl Logs {
    /// An empty log that keeps `limit` bytes.
    pub(super) fn new(limit: u32) -> Self {
        let buffer = Buffer { lines: Vec::new(), room: limit as usize, dropped: 0, open: [Vec::new(), Vec::new()] };
        Self(Arc::new(Mutex::new(buffer)))
    }

    /// Adds one line.
    pub(super) fn line(&self, level: &'static str, context: &str, message: &str) {
        let mut buffer = self.lock();
        if context.is_empty() {
            buffer.push(level, message);
        } else {
            // The copy is bounded by what the guest may hand over in one call.
            buffer.push(level, &format!("{context}: {message}"));
        }
    }

    /// Takes what was kept and the number of bytes that were dropped.
    pub(super) fn take(&self) -> (Vec<LogLine>, u64) {
        let mut buffer = self.lock();
        for stream in [Stream::Stdout, Stream::Stderr] {
            buffer.end_line(stream);
        }
        (std::mem::take(&mut buffer.lines), buffer.dropped)
    }

    /// The stream that the guest gets as its standard output or error.
    pub(super) fn stream(&self, stream: Stream) -> LogStream {
        LogStream { logs: self.clone(), stream }
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        self.lock().write(stream, bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    fn push(&mut self, level: &'static str, text: &str) {
        if self.lines.len() >= LINES_MAX {
            self.room = 0;
        }
        let (message, used) = escape(text, self.room);
        self.dropped += (text.len() - used) as u64;
        if used == text.len() {
            self.room = self.room.saturating_sub(message.len() + 1);
        } else {
            // What follows a cut is dropped, so that what is kept is one piece of what was said.
            self.room = 0;
        }
        if !message.is_empty() {
            self.lines.push(LogLine { level, message });
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let open = &mut self.open[stream as usize];
            let fits = text.len().min((self.room + 1).saturating_sub(open.len()));
            open.extend_from_slice(&text[..fits]);
            self.dropped += (text.len() - fits) as u64;
            if text.len() < piece.len() {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let bytes = std::mem::take(&mut self.open[stream as usize]);
        if !bytes.is_empty() {
            self.push(stream.level(), &String::from_utf8_lossy(&bytes));
        }
    }
}

/// `text` with everything escaped that could end a line, move a cursor or turn the reading direction, in at most `room`
/// bytes; and how many bytes of `text` that took.
pub(super) fn escape(text: &str, room: usize) -> (String, usize) {
    let mut escaped = String::with_capacity(text.len().min(room));
    let mut used = 0;
    for c in text.chars() {
        let before = escaped.len();
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if is_hidden(c) => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c)); // writing to a string cannot fail
            }
            c => escaped.push(c),
        }
        if escaped.len() > room {
            escaped.truncate(before);
            break;
        }
        used += c.len_utf8();
    }
    (escaped, used)
}

/// A standard stream of the guest that ends in the log.
#[derive(Clone, Debug)]
pub(super) struct LogStream {
    logs: Logs,
    stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    /// Only WASI 0.3 asks for this one, and it is not linked.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.logs.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_MAX, Logs, Stream, escape};

    #[test]
    fn escapes_what_could_forge_a_record() {
        for (text, expected) in [
            ("plain, ümläut", "plain, ümläut"),
            ("a\nlevel=error b\r\n", "a\\nlevel=error b\\r\\n"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{9b}31m\u{2028}\u{202e}x", "\\u{9b}31m\\u{2028}\\u{202e}x"),
        ] {
            assert_eq!(escape(text, 1_000), (expected.to_owned(), text.len()));
        }
    }

    #[test]
    fn cuts_at_a_whole_character() {
        assert_eq!(escape("aü", 2), ("a".to_owned(), 1));
        assert_eq!(escape("a\nb", 2), ("a".to_owned(), 1));
        assert_eq!(escape("abc", 0), (String::new(), 0));
    }

    #[test]
    fn streams_become_lines_and_keep_their_level() {
        let logs = Logs::new(1_000);
        logs.write(Stream::Stdout, b"one\ntw");
        logs.write(Stream::Stderr, b"bad \xff\n\n");
        logs.write(Stream::Stdout, b"o\nthree");
        let (lines, dropped) = logs.take();
        let seen: Vec<_> = lines.iter().map(|l| (l.level, l.message.as_str())).collect();
        assert_eq!(seen, [("stdout", "one"), ("stderr", "bad \u{fffd}"), ("stdout", "two"), ("stdout", "three")]);
        assert_eq!(dropped, 0);
    }

    #[test]
    fn a_flood_keeps_its_limit_and_counts_the_rest() {
        let logs = Logs::new(100);
        for _ in 0..10_000 {
            logs.write(Stream::Stdout, &[b'x'; 1_000]);
        }
        let (lines, dropped) = logs.take();
        let kept: usize = lines.iter().map(|l| l.message.len()).sum();
        assert_eq!(kept, 100);
        assert_eq!(dropped, 10_000_000 - 100);
    }

    #[test]
    fn many_short_lines_keep_their_limit() {
        let logs = Logs::new(1 << 20);
        for _ in 0..10 * LINES_MAX {
            logs.line("info", "", "x");
        }
        let (lines, dropped) = logs.take();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(dropped, 9 * LINES_MAX as u64);
    }
}

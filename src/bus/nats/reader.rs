//! A connection that only reads: one for each trigger, apart from the bus's own, on which is published and acknowledged.
//!
//! Invariant: whatever a publisher wrote into a message, the message comes out, and the connection stays. A reader never
//! reconnects: its owner opens another one, as what was asked of the server is forgotten by then. Reading is cancel-safe.
//!
//! The client (async-nats 0.51) closes its connection at a header block that it cannot parse, and its task dies of others
//! (<https://github.com/nats-io/nats.rs/pull/1612>): with it, one message that anybody may publish would stop everything
//! that shares the connection, again with every redelivery. It gives no access to the bytes. So what triggers read is read
//! here.

use std::str::FromStr as _;
use std::time::Duration;

use async_nats::ServerAddr;
use bytes::{BufMut as _, BytesMut};
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::NatsBus;
use super::dial::{DialError, Dialled, Duplex, dial, max_payload};
use super::wire::{Decoder, Message, Op, WireError};
use crate::bus::shown::shown;

/// Read at once at most.
const CHUNK: usize = 64 << 10;
/// The largest message that is held, whatever the server says now: it may have stored one under another limit.
const MESSAGE_MAX: usize = 64 << 20;
/// How long the server may be silent before it is asked whether it is there; then it has as long again.
const QUIET: Duration = Duration::from_secs(10);
/// How long the server may take nothing that is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No server lets us in.
    #[error("bus \"{bus}\": cannot connect to {url}: {source}")]
    Connect {
        /// The bus.
        bus: String,
        /// Where, without user and password.
        url: String,
        /// Of the server that was tried last.
        source: DialError,
    },
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] std::io::Error),
    /// The server does not speak the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The server refuses something, in its words.
    #[error("the server says: {0}")]
    Server(String),
}

/// A connection that reads. It ends when it is dropped.
pub struct Reader {
    stream: Box<dyn Duplex>,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    max_payload: usize,
    subscriptions: u64,
    /// Whether something of `output` may not have left yet.
    unsent: bool,
    heard: Instant,
    /// Whether the server has been asked since whether it is there.
    asked: bool,
    /// Answers that are still to come to our own questions.
    pongs: u32,
    finishing: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

impl Reader {
    /// Connects to a server of `bus`: those of its address in any order, then those that they told of.
    ///
    /// # Errors
    /// None of them lets us in.
    pub async fn open(bus: &NatsBus, purpose: &str) -> Result<Self, ReadError> {
        crate::bus::ready_tls();
        let name = format!("oncue {} {purpose}", bus.name);
        let mut last = DialError::Silent;
        for server in servers(bus) {
            // In a box that is gone when it is connected: a handshake takes more than all that comes after it.
            match Box::pin(dial(&server, &name, &bus.config)).await {
                Ok(dialled) => return Ok(Self::new(dialled)),
                Err(error) => last = error,
            }
        }
        Err(ReadError::Connect { bus: bus.name.to_string(), url: shown(&bus.config.url), source: last })
    }

    fn new(dialled: Dialled) -> Self {
        let Dialled { stream, input, max_payload } = dialled;
        Self {
            stream,
            decoder: Decoder::new(max_payload.max(MESSAGE_MAX)),
            input,
            output: BytesMut::new(),
            max_payload,
            subscriptions: 0,
            unsent: false,
            heard: Instant::now(),
            asked: false,
            pongs: 0,
            finishing: false,
        }
    }

    fn say(&mut self, line: &str) {
        self.output.put_slice(line.as_bytes());
        self.unsent = true;
    }

    fn ping(&mut self) {
        self.pongs += 1;
        self.say("PING\r\n");
    }

    /// The largest message that the server takes.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Asks for the messages of `subject`, in a queue group perhaps. What the server thinks of it comes with `next`.
    pub fn subscribe(&mut self, subject: &str, queue: Option<&str>) {
        self.subscriptions += 1;
        let (queue, number) = (queue.unwrap_or_default(), self.subscriptions);
        self.say(&format!("SUB {subject} {queue} {number}\r\n"));
    }

    /// Sends a request; answers come with `next`.
    pub fn request(&mut self, subject: &str, reply: &str, payload: &str) {
        self.say(&format!("PUB {subject} {reply} {}\r\n{payload}\r\n", payload.len()));
    }

    /// Asks for nothing more: `next` gives what the server has sent already, then none.
    pub fn finish(&mut self) {
        for number in 1..=self.subscriptions {
            self.say(&format!("UNSUB {number}\r\n"));
        }
        self.ping();
        self.finishing = true;
    }

    /// The next message; none when all came after `finish`. Cancel-safe. It has to be called all the time, because it also
    /// sends, and answers the server's questions.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub async fn next(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            while let Some(op) = self.decoder.next(&mut self.input)? {
                match op {
                    Op::Message(message) => return Ok(Some(message)),
                    Op::Ping => self.say("PONG\r\n"),
                    Op::Pong => {
                        self.pongs = self.pongs.saturating_sub(1);
                        if self.finishing && self.pongs == 0 {
                            return Ok(None);
                        }
                    }
                    Op::Error(text) => return Err(ReadError::Server(text)),
                    // The limit may have been changed; its other servers matter to who opens another connection.
                    Op::Info(info) => self.max_payload = max_payload(&info).unwrap_or(self.max_payload),
                    Op::Okay => {}
                }
            }
            self.transfer().await?;
        }
    }

    /// Sends what is to be sent, or reads, or notices that the server is silent.
    async fn transfer(&mut self) -> Result<(), ReadError> {
        if self.input.capacity() - self.input.len() < CHUNK / 4 {
            self.input.reserve(CHUNK);
        }
        let sending = self.unsent;
        let patience = if sending { Instant::now() + WRITE_TIMEOUT } else { self.heard + QUIET };
        let (mut input, mut output) = tokio::io::split(&mut self.stream);
        tokio::select! {
            biased;
            sent = send(&mut output, &mut self.output), if sending => {
                sent?;
                self.unsent = false;
            }
            read = input.read_buf(&mut self.input) => {
                if read? == 0 {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                }
                (self.heard, self.asked) = (Instant::now(), false);
            }
            () = tokio::time::sleep_until(patience) => {
                if sending || std::mem::replace(&mut self.asked, true) {
                    return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
                }
                self.heard = Instant::now();
                self.ping();
            }
        }
        Ok(())
    }
}

/// Sends `output`. What was sent is gone from it, whenever this is dropped.
async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), output: &mut BytesMut) -> std::io::Result<()> {
    while !output.is_empty() {
        stream.write_buf(output).await?;
    }
    stream.flush().await
}

fn servers(bus: &NatsBus) -> Vec<ServerAddr> {
    let parse = |text: &str| ServerAddr::from_str(text.trim()).ok();
    let mut servers: Vec<ServerAddr> = bus.config.url.split(',').filter_map(parse).collect();
    servers.shuffle(&mut rand::rng());
    for found in bus.client.server_info().connect_urls.iter().filter_map(|url| parse(url)) {
        if !servers.contains(&found) {
            servers.push(found);
        }
    }
    servers
}

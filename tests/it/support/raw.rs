//! A publisher that sends NATS whatever bytes it likes, as anybody may who has the port: no client would.
//!
//! Invariant: what was `published` is with the server, which answered a ping behind it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection without a client.
pub struct Raw {
    stream: TcpStream,
}

/// A message that no client would send.
#[derive(Clone, Debug)]
pub struct Bad {
    /// The class of its dead letter; none of what is an event all the same.
    pub class: Option<&'static str>,
    pub subject: Vec<u8>,
    /// Empty without headers.
    pub block: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Raw {
    /// Connects; `login` are fields of CONNECT, as in `"user":"a","pass":"b"`.
    pub async fn connect(port: u16, login: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("nats-server listens");
        let comma = if login.is_empty() { "" } else { "," };
        let line = format!("CONNECT {{\"verbose\":false,\"headers\":true,\"protocol\":1{comma}{login}}}\r\n");
        stream.write_all(line.as_bytes()).await.expect("it is sent");
        let mut raw = Self { stream };
        raw.flush().await;
        raw
    }

    /// Publishes, and waits until the server has read it.
    pub async fn publish(&mut self, bad: &Bad) {
        let (headed, total) = (!bad.block.is_empty(), bad.block.len() + bad.payload.len());
        let sizes = if headed { format!(" {} {total}\r\n", bad.block.len()) } else { format!(" {total}\r\n") };
        let verb: &[u8] = if headed { b"HPUB " } else { b"PUB " };
        let bytes = [verb, &bad.subject, sizes.as_bytes(), &bad.block, &bad.payload, b"\r\n"].concat();
        self.stream.write_all(&bytes).await.expect("it is sent");
        self.flush().await;
    }

    async fn flush(&mut self) {
        self.stream.write_all(b"PING\r\n").await.expect("it is sent");
        let mut said = Vec::new();
        while !said.windows(4).any(|four| four == b"PONG") {
            let read = self.stream.read_buf(&mut said).await.expect("the server answers");
            let text = String::from_utf8_lossy(&said);
            assert!(read > 0 && !text.contains("-ERR"), "{text}");
        }
    }
}

/// Messages below `prefix` that a client cannot read, or that lie about what they are.
pub fn bad_messages(prefix: &str) -> Vec<Bad> {
    let block = |text: &[u8]| [b"NATS/1.0\r\n".as_slice(), text, b"\r\n\r\n"].concat();
    let wrong: [(&str, Vec<u8>); 9] = [
        ("no-colon", block(b"this line has none")),
        ("value", block(b"Name: \xff\xfe\x00")),
        ("space", block(b"Na me: value")),
        ("version", b"NATS/2.0\r\nName: value\r\n\r\n".to_vec()),
        ("no-version", b"Name: value\r\n\r\n".to_vec()),
        ("return", block(b"Name: a\rb")),
        ("no-name", block(b": value")),
        ("name", block("Näme: value".as_bytes())),
        ("bytes", vec![0xff, 0, b'\r', b'\n', 0xc3, 0x28]),
    ];
    // Said by a publisher, these are words; said by the server, they end a pull.
    let lies: [&[u8]; 5] = [
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\nNats-Pending-Messages: 1000\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1000\r\n\r\n",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
        b"NATS/1.0 abc\r\n\r\n",
    ];
    let of = |class, subject: Vec<u8>, block: Vec<u8>, n: usize| Bad {
        class,
        subject,
        block,
        payload: format!("{{\"do\":\"o0\",\"poison\":{n}}}").into_bytes(),
    };
    let mut bad: Vec<Bad> = Vec::new();
    for (name, block) in wrong {
        bad.push(of(Some("header_block"), format!("{prefix}.{name}").into_bytes(), block, bad.len()));
    }
    let subject = |tail: &[u8]| [prefix.as_bytes(), b".", tail].concat();
    bad.push(of(Some("subject"), subject(b"\xff\xfe"), Vec::new(), bad.len()));
    bad.push(of(Some("subject"), subject(b"\xed\xa0\x80"), block(b"Name: value"), bad.len()));
    bad.push(of(Some("header_block"), subject(b"\xc3.both"), block(b"no colon"), bad.len()));
    for lie in lies {
        bad.push(of(None, subject(b"lie"), lie.to_vec(), bad.len()));
    }
    bad
}

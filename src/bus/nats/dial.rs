//! Connects to a server as the bus's configuration says: address, TLS, login. For readers, which speak the protocol
//! themselves; everything else goes through the client.
//!
//! Invariant: a connection that was given is logged in. A secret is never shown, and is sent only after the server has
//! shown its certificate where TLS is wanted by either side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ServerAddr;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BytesMut;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire::{Decoder, Op, WireError};
use crate::bus::{BusConfig, Tls};

/// How long one server may take until it has let us in.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Room for what the server says of itself before a login.
const GREETING: usize = 64 << 10;

/// Bytes in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A connection that is logged in.
pub(super) struct Dialled {
    pub(super) stream: Box<dyn Duplex>,
    /// What was read behind the login.
    pub(super) input: BytesMut,
    pub(super) max_payload: usize,
}

/// What a server says of itself, as far as it matters here.
#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    max_payload: usize,
    #[serde(default)]
    nonce: String,
    #[serde(default)]
    tls_required: bool,
}

/// The largest message that the server takes, as it says in `info`.
pub(super) fn max_payload(info: &[u8]) -> Option<usize> {
    let info: Info = serde_json::from_slice(info).ok()?;
    Some(info.max_payload).filter(|bytes| *bytes > 0)
}

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection, or it was closed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It does not speak the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// It did not answer.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Silent,
    /// The login, in the server's words.
    #[error("the server refuses the login: {0}")]
    Refused(String),
    /// A file of the configuration.
    #[error("cannot use {file}: {problem}")]
    File {
        /// Which.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

/// Connects to one server and logs in.
pub(super) async fn dial(server: &ServerAddr, name: &str, config: &BusConfig) -> Result<Dialled, DialError> {
    match tokio::time::timeout(TIMEOUT, log_in(server, name, config)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Silent),
    }
}

async fn log_in(server: &ServerAddr, name: &str, config: &BusConfig) -> Result<Dialled, DialError> {
    let stream = TcpStream::connect((server.host(), server.port())).await?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Duplex> = Box::new(stream);
    let mut input = BytesMut::with_capacity(GREETING);
    let mut decoder = Decoder::new(GREETING);
    let Op::Info(info) = read(&mut stream, &mut input, &mut decoder).await? else {
        return Err(DialError::Refused("it did not begin with INFO".to_owned()));
    };
    let info: Info = serde_json::from_slice(&info).map_err(|e| DialError::Refused(format!("its INFO: {e}")))?;
    let wants_tls = config.tls.required || server.tls_required();
    if wants_tls || info.tls_required {
        // What came in the clear behind INFO is nobody's word.
        input.clear();
        stream = Box::new(secure(stream, server.host(), &config.tls).await?);
    }
    let login = connect_line(name, wants_tls, &info.nonce, config).await?;
    stream.write_all(format!("CONNECT {login}\r\nPING\r\n").as_bytes()).await?;
    stream.flush().await?;
    loop {
        match read(&mut stream, &mut input, &mut decoder).await? {
            Op::Pong => return Ok(Dialled { stream, input, max_payload: info.max_payload }),
            Op::Error(text) => return Err(DialError::Refused(text)),
            // Some servers say of themselves once more, to whom they know.
            Op::Info(_) | Op::Ping | Op::Okay | Op::Message(_) => {}
        }
    }
}

async fn read(stream: &mut Box<dyn Duplex>, input: &mut BytesMut, decoder: &mut Decoder) -> Result<Op, DialError> {
    loop {
        if let Some(op) = decoder.next(input)? {
            return Ok(op);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

async fn connect_line(name: &str, tls: bool, nonce: &str, config: &BusConfig) -> Result<String, DialError> {
    let mut line = serde_json::json!({
        "verbose": false, "pedantic": false, "protocol": 1, "headers": true, "no_responders": true, "echo": true,
        "lang": "rust", "version": env!("CARGO_PKG_VERSION"), "name": name, "tls_required": tls,
    });
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        line["user"] = user.as_str().into();
        line["pass"] = password.0.as_str().into();
    } else if let Some(token) = &config.token {
        line["auth_token"] = token.0.as_str().into();
    } else if let Some((user, password)) = config.url.split(',').find_map(super::login) {
        match password {
            Some(password) => (line["user"], line["pass"]) = (user.into(), password.into()),
            None => line["auth_token"] = user.into(),
        }
    }
    if let Some(file) = &config.credentials {
        let (jwt, signature) = sign(file, nonce).await?;
        line["jwt"] = jwt.into();
        line["sig"] = signature.into();
    }
    Ok(line.to_string())
}

/// The token of a `.creds` file, and the server's nonce signed with the file's key.
async fn sign(file: &Path, nonce: &str) -> Result<(String, String), DialError> {
    let wrong = |problem: String| DialError::File { file: file.display().to_string(), problem };
    let text = tokio::fs::read_to_string(file).await.map_err(|e| wrong(e.to_string()))?;
    let mut parts = credentials(&text);
    let (Some(jwt), Some(seed)) = (parts.next(), parts.next()) else {
        return Err(wrong("it holds no user JWT and seed".to_owned()));
    };
    // Of the seed nothing may be shown, not even by the words of an error.
    let pair = nkeys::KeyPair::from_seed(seed).map_err(|_| wrong("its seed is not valid".to_owned()))?;
    let signature = pair.sign(nonce.as_bytes()).map_err(|_| wrong("its seed cannot sign".to_owned()))?;
    Ok((jwt.to_owned(), URL_SAFE_NO_PAD.encode(signature)))
}

/// The first line behind each line of dashes that begins a part.
fn credentials(text: &str) -> impl Iterator<Item = &str> {
    let begins = |line: &str| line.starts_with("---") && line.contains("BEGIN");
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.by_ref().find(|line| begins(line))?;
        lines.by_ref().find(|line| !line.is_empty())
    })
}

async fn secure(stream: Box<dyn Duplex>, host: &str, tls: &Tls) -> Result<impl Duplex + use<>, DialError> {
    let tls = tls.clone();
    let config = tokio::task::spawn_blocking(move || client_config(&tls)).await;
    let config = config.map_err(std::io::Error::other)??;
    let name = ServerName::try_from(host.to_owned()).map_err(|e| DialError::Refused(e.to_string()))?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

/// Whom to trust and what to show: as the client has it. Reads files.
fn client_config(tls: &Tls) -> Result<ClientConfig, DialError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(file) => {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|e| wrong(file, &e))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, &e))?;
            builder.with_client_auth_cert(certificates(cert)?, private).map_err(|e| wrong(cert, &e))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let all = CertificateDer::pem_file_iter(file).map_err(|e| wrong(file, &e))?;
    all.collect::<Result<_, _>>().map_err(|e| wrong(file, &e))
}

fn wrong(file: &Path, problem: &dyn std::fmt::Display) -> DialError {
    DialError::File { file: file.display().to_string(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::credentials;

    #[test]
    fn a_credentials_file_has_a_token_and_a_seed() {
        let text = "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\
            -----BEGIN USER NKEY SEED-----\r\nSUAX\r\n------END USER NKEY SEED------\n";
        assert_eq!(credentials(text).collect::<Vec<_>>(), ["eyJ0", "SUAX"]);
        assert_eq!(credentials("").count(), 0);
    }
}

//! Where guests' connections go, and the stream to it.
//!
//! Invariant: a mode of TLS verifies at least what libpq verifies under that name. Of the address nothing is a secret.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The request for TLS: its length, and the number that stands for it.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How far the server must prove who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// No TLS.
    Off,
    /// TLS if the server has it; nothing is verified.
    #[default]
    Prefer,
    /// TLS; nothing is verified.
    Require,
    /// The certificate comes from a trusted authority.
    Ca,
    /// And it is that of the host.
    Full,
}

/// The server of the control plane's database.
#[derive(Clone, Debug, Default)]
pub struct Address {
    /// The host's name or address.
    pub host: String,
    /// The port; part of the socket's name too.
    pub port: u16,
    /// The folder of the Unix socket to use instead of the host.
    pub socket: Option<PathBuf>,
    /// The database.
    pub database: String,
    /// TLS.
    pub verify: Verify,
    /// Authorities to trust, PEM; the system's without.
    pub ca: Option<PathBuf>,
    /// This client's certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A stream to a server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Address {
    /// Where the server is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.socket {
            Some(socket) => format!("{}:{}/{}", socket.display(), self.port, self.database),
            None => format!("{}:{}/{}", self.host, self.port, self.database),
        }
    }

    /// A stream to the server, within the time for that.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let made = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        made.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the server did not answer within 5 s")))
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        if let Some(socket) = &self.socket {
            return Ok(Box::new(UnixStream::connect(socket.join(format!(".s.PGSQL.{}", self.port))).await?));
        }
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        if self.verify == Verify::Off {
            return Ok(Box::new(stream));
        }
        stream.write_all(&TLS_REQUEST).await?;
        match stream.read_u8().await? {
            b'S' => {}
            b'N' if self.verify == Verify::Prefer => return Ok(Box::new(stream)),
            b'N' => return Err(io::Error::other("the server has no TLS, which sslmode asks for")),
            _ => return Err(io::Error::other("the server's answer to a request for TLS is none: is it Postgres?")),
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(self.tls()?));
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    fn tls(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = versions.map_err(io::Error::other)?.dangerous();
        let verifier: Arc<dyn ServerCertVerifier> = match self.verify {
            Verify::Full => self.authorities(&provider)?,
            Verify::Ca => Arc::new(AnyName { authorities: Some(self.authorities(&provider)?), provider }),
            Verify::Off | Verify::Prefer | Verify::Require => Arc::new(AnyName { authorities: None, provider }),
        };
        let builder = builder.with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
        builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
    }

    fn authorities(&self, provider: &Arc<CryptoProvider>) -> io::Result<Arc<WebPkiServerVerifier>> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(file) => {
                for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
                    roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        verifier.map_err(io::Error::other)
    }
}

/// Takes a certificate whatever name is in it; with authorities, only one of theirs.
#[derive(Debug)]
struct AnyName {
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        match authorities.verify_server_cert(certificate, chain, name, ocsp, now) {
            // The name is looked at last.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

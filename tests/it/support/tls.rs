//! TLS in front of a broker that has none: it ends here, and the bytes that it protected go on to the broker.
//!
//! Invariant: only who completed a handshake reaches the broker, and what became of every connection can be asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A file of the certificates that the tests have: `server.pem` is for `localhost` and `127.0.0.1`, of the authority `ca.pem`.
pub fn certificate(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nats").join(file)
}

/// A listener of TLS. It ends with the test, with all of its connections.
pub struct TlsFront {
    port: u16,
    handshakes: Arc<Mutex<Vec<Result<(), String>>>>,
    _accepting: JoinSet<()>,
}

impl TlsFront {
    /// Listens for a broker on that port of this machine.
    pub async fn start(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it has an address").port();
        let handshakes = Arc::new(Mutex::new(Vec::new()));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, broker, Arc::clone(&handshakes)));
        Self { port, handshakes, _accepting: accepting }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How each handshake ended so far, in their order: with the server's words where it failed.
    pub fn handshakes(&self) -> Vec<Result<(), String>> {
        self.handshakes.lock().expect("nobody panicked").clone()
    }
}

async fn accept(listener: TcpListener, broker: u16, handshakes: Arc<Mutex<Vec<Result<(), String>>>>) {
    let acceptor = acceptor();
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("it accepts");
        let (acceptor, handshakes) = (acceptor.clone(), Arc::clone(&handshakes));
        connections.spawn(async move {
            let shaken = acceptor.accept(client).await;
            let result = shaken.as_ref().map(drop).map_err(ToString::to_string);
            handshakes.lock().expect("nobody panicked").push(result);
            let Ok(mut client) = shaken else { return };
            // A broker that is away is a connection that ends, as it is without TLS.
            let Ok(mut broker) = TcpStream::connect(("127.0.0.1", broker)).await else { return };
            // How it ended both sides know.
            drop(copy_bidirectional(&mut client, &mut broker).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn acceptor() -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate("server.pem")).expect("the server's certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("it is PEM");
    let key = PrivateKeyDer::from_pem_file(certificate("server.key")).expect("the server's key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().expect("the provider has them").with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("the key fits")))
}

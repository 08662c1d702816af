//! The port of `/livez`, `/readyz` and `/metrics`.
//!
//! Invariant: whoever can reach the port can neither hold it nor make it cost more than a fixed amount. A connection gives
//! one answer, within `CONNECTION_LIMIT`; at most `CLIENTS` are open, and a new one takes the place of the oldest, so that
//! no number of silent clients keeps one with a question waiting. Descriptors are kept for when all others are used up.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt as _;
use futures::future::{AbortHandle, BoxFuture, abortable};
use futures::stream::FuturesUnordered;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Health;
use super::descriptors::Spares;
use crate::telemetry::PrometheusHandle;

/// Connections at once.
pub(super) const CLIENTS: usize = 64;
/// How long the head of a request may take.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a connection may take in all, the answer included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);
/// The buffer of a connection: a longer head is answered with 431. It is the least that the library takes.
const BUFFER: usize = 8 << 10;
/// The reactor's heartbeat.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// What a slow client may still read after the shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// How long to wait where no descriptor can be had at all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// `EMFILE` and `ENFILE`, which have these numbers on every system that this runs on.
const EXHAUSTED: [i32; 2] = [24, 23];

/// The port could not be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to listen on {addr} for health and metrics; give another address, or stop the process that has this one"
)]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// A bound port that [`run`](Self::run) serves.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
    addr: SocketAddr,
    spares: Spares,
}

impl HealthServer {
    /// Binds the port; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let fail = |source| ListenError { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(fail)?;
        let addr = listener.local_addr().map_err(fail)?;
        let mut spares = Spares::default();
        spares.refill();
        Ok(Self { listener, addr, spares })
    }

    /// The address with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown`. It goes on during a drain, so spawn it as a service.
    pub async fn run(self, health: Health, metrics: PrometheusHandle, shutdown: CancellationToken) {
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .with_state((health.clone(), metrics));
        tokio::select! {
            () = serve(self.listener, self.spares, Clients::new(routes), shutdown) => {}
            () = heartbeat(&health) => {}
        }
    }
}

/// Takes connections until `shutdown`, then finishes those that are open within `CLOSE_LIMIT`.
async fn serve(listener: TcpListener, mut spares: Spares, mut clients: Clients, shutdown: CancellationToken) {
    loop {
        // Those that are open go first: a question that has arrived is answered before others are let in.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(()) = clients.next() => spares.refill(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => clients.add(stream),
                Err(error) => make_room(&error, &mut spares, &mut clients).await,
            },
        }
    }
    drop(listener);
    let finish = async { while clients.next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_LIMIT, finish).await.is_err() {
        tracing::debug!("a client still reads from the health port");
    }
}

/// After `accept` failed: gives up a spare descriptor, else the oldest connection, else waits.
async fn make_room(error: &io::Error, spares: &mut Spares, clients: &mut Clients) {
    if !error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code)) {
        // The client went away, or the network did.
        return tracing::debug!(%error, "a connection to the health port failed");
    }
    if spares.give_up() || clients.end_oldest() {
        return;
    }
    tracing::error!(%error, "no file descriptor is left for the health port; raise `ulimit -n`");
    tokio::time::sleep(ACCEPT_PAUSE).await;
    spares.refill();
}

/// The open connections, in the order in which they came.
struct Clients {
    routes: Router,
    http: http1::Builder,
    open: FuturesUnordered<BoxFuture<'static, u64>>,
    /// The oldest first; those that have ended are gone.
    ends: VecDeque<(u64, AbortHandle)>,
    numbered: u64,
}

impl Clients {
    fn new(routes: Router) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).keep_alive(false).max_buf_size(BUFFER);
        Self { routes, http, open: FuturesUnordered::new(), ends: VecDeque::new(), numbered: 0 }
    }

    fn add(&mut self, stream: TcpStream) {
        while self.ends.len() >= CLIENTS && self.end_oldest() {}
        let number = self.numbered;
        self.numbered += 1;
        let service = TowerToHyperService::new(self.routes.clone());
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let (connection, end) = abortable(tokio::time::timeout(CONNECTION_LIMIT, connection));
        self.ends.push_back((number, end));
        self.open.push(Box::pin(async move {
            // What a client does wrong is its own affair, and no reason for a line in the log.
            let _ = connection.await;
            number
        }));
    }

    /// Ends the connection that came first. False when there is none.
    fn end_oldest(&mut self) -> bool {
        self.ends.pop_front().inspect(|(_, end)| end.abort()).is_some()
    }

    /// Waits until one has ended; none at once when none is open.
    async fn next(&mut self) -> Option<()> {
        let number = self.open.next().await?;
        self.ends.retain(|(open, _)| *open != number);
        Some(())
    }
}

/// Beats as long as tasks are run at all.
async fn heartbeat(health: &Health) {
    let mut ticks = tokio::time::interval(BEAT_EVERY);
    loop {
        ticks.tick().await;
        health.beat();
    }
}

type Served = (Health, PrometheusHandle);

async fn livez(State((health, _)): State<Served>) -> Response {
    match health.is_alive(Instant::now()) {
        true => (StatusCode::OK, "ok\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no heartbeat: tasks are not run\n").into_response(),
    }
}

async fn readyz(State((health, _)): State<Served>) -> Response {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&readiness).expect("texts, flags and times of this century are JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}

async fn render(State((_, metrics)): State<Served>) -> Response {
    // The version of the text format that the exporter writes.
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

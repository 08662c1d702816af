//! Opens the replication connection of a feed, and says what its errors mean.
//!
//! Invariant: values are told in one form whatever the server's or the role's settings are. A slot that another
//! connection reads is waited for; one that our own dead connection still holds is taken from it after a while.

use std::time::Duration;

use pgwire_replication::{Lsn as ClientLsn, PgWireError, ReplicationClient, ReplicationConfig, SslMode, TlsConfig};

use crate::bus::postgres::{Replication, SslMode as BusSslMode, mending, quoted};
use crate::bus::ready_tls;
use crate::lsn::Lsn;
use crate::sqlstate::Said;
use crate::triggers::Failure;

use super::Follower;
use super::stream::TAKEN_MAX;

/// Settings of the session: the form of values, and how soon the server notices that we are gone.
const OPTIONS: &str = "-c datestyle=ISO,YMD -c timezone=UTC -c intervalstyle=postgres -c extra_float_digits=1 \
                       -c bytea_output=hex -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
                       -c wal_sender_timeout=20s";
/// How often the server is told where we are while it moves.
const STATUS: Duration = Duration::from_secs(1);
/// The same while nothing comes; below half of the server's patience.
const IDLE_STATUS: Duration = Duration::from_secs(5);
/// How long the connection may take to stream.
const CONNECT: Duration = Duration::from_secs(15);

impl Follower {
    /// Opens the connection and starts the stream at `from`.
    pub(super) async fn connect(&self, from: Lsn) -> Result<ReplicationClient, Failure> {
        ready_tls();
        let mut client = ReplicationClient::connect(self.replication(from)).await.map_err(|e| self.failure(&e))?;
        match tokio::time::timeout(CONNECT, client.wait_started()).await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(error)) if is_code(&error, "55006") => Err(self.busy(&error).await),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(Failure::Again(format!("the replication stream did not begin within {CONNECT:?}"))),
        }
    }

    /// How the connection is called in `pg_stat_replication`: what tells ours from others'.
    pub(super) fn application_name(&self) -> String {
        format!("oncue-{}", self.context.name)
    }

    fn replication(&self, from: Lsn) -> ReplicationConfig {
        let Replication { host, port, user, password, database, tls, socket } = self.bus.replication();
        let host = socket.as_ref().map_or_else(|| host.clone(), |folder| folder.display().to_string());
        let publication = self.spec.publication(&self.context.name);
        let slot = self.spec.slot(&self.context.name);
        let mut config = ReplicationConfig::new(host, user, &password.0, database, slot, quoted(&publication));
        config.port = *port;
        config.tls = TlsConfig {
            mode: match tls.mode {
                BusSslMode::Disable => SslMode::Disable,
                BusSslMode::Prefer => SslMode::Prefer,
                BusSslMode::Require => SslMode::Require,
                BusSslMode::VerifyCa => SslMode::VerifyCa,
                BusSslMode::VerifyFull => SslMode::VerifyFull,
            },
            ca_pem_path: tls.ca.clone(),
            client_cert_pem_path: tls.cert.clone(),
            client_key_pem_path: tls.key.clone(),
            ..TlsConfig::default()
        };
        config.start_lsn = ClientLsn::from_u64(from.0);
        config.status_interval = STATUS;
        config.idle_wakeup_interval = IDLE_STATUS;
        config.buffer_events = TAKEN_MAX;
        config.options = Some(OPTIONS.to_owned());
        config.application_name = Some(self.application_name());
        config
    }

    /// The slot is read already. We hold the lease, so it is a connection of ours that the server has not missed yet,
    /// or somebody else's.
    async fn busy(&self, error: &PgWireError) -> Failure {
        let slot = self.spec.slot(&self.context.name);
        if let Ok(Some(facts)) = self.bus.slot(&slot).await
            && let Some(pid) = facts.active_pid
            && let Ok(true) = self.bus.terminate_own(pid, &self.application_name()).await
        {
            tracing::info!(trigger = %self.context.name, pid, "ended an earlier connection of this feed");
        }
        Failure::Again(format!("the slot \"{slot}\" is in use: {}", words(error)))
    }

    /// What an error of the stream means.
    pub(super) fn failure(&self, error: &PgWireError) -> Failure {
        let text = words(error);
        if is_code(error, "42704") && text.contains("publication") {
            return Failure::Gap(format!(
                "{text}: changes from before it was there, or after it was dropped, can never be decoded with it"
            ));
        }
        let role = &self.bus.replication().user;
        match mending(&code(&error.to_string()), role) {
            Some(mend) => Failure::Again(format!("the replication stream ended: {text}; {mend}")),
            None => Failure::Again(format!("the replication stream ended: {text}")),
        }
    }
}

/// The SQLSTATE in the client's words, or nothing.
fn code(text: &str) -> String {
    text.rsplit_once("SQLSTATE ").map_or("", |(_, rest)| rest.get(..5).unwrap_or_default()).to_owned()
}

/// The client's words without values: a row filter that fails quotes what is in the row.
pub(super) fn words(error: &PgWireError) -> String {
    let text = error.to_string();
    if !error.is_server() {
        return text;
    }
    let code = code(&text);
    let message = text.rsplit_once(" (SQLSTATE ").map_or(text.as_str(), |(message, _)| message);
    Said { code: &code, message, ..Said::default() }.words()
}

fn is_code(error: &PgWireError, code: &str) -> bool {
    error.is_server() && error.to_string().contains(&format!("SQLSTATE {code}"))
}

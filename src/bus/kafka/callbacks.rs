//! What librdkafka calls back: log lines, errors, and a request for a token.
//!
//! Invariant: a call never panics and never waits for anything but one small local file; it may come from any thread.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use rdkafka::statistics::Statistics;

use super::error::code;
use super::hint::Hint;
use super::log::ClientLog;
use super::token::TokenSource;
use crate::bus::BusConfig;

/// The callbacks of one client. Clones share everything.
#[derive(Clone, Debug)]
pub struct Callbacks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: ClientLog,
    token: Option<TokenSource>,
    hint: Hint,
    /// The last error that says more than that nothing answers.
    error: Mutex<Option<String>>,
}

impl Callbacks {
    pub(super) fn new(bus: &str, config: &BusConfig) -> Self {
        let (log, token) = (ClientLog::new(bus), TokenSource::of(config));
        Self { shared: Arc::new(Shared { log, token, hint: Hint::of(config), error: Mutex::new(None) }) }
    }

    /// Remembers a complaint, with what to look at.
    fn complain(&self, reason: &str) {
        let hint = self.shared.hint.on(reason).map(|hint| format!("; {hint}")).unwrap_or_default();
        *self.shared.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{reason}{hint}"));
    }

    /// What the client complained of last: `Connect to … failed: Connection refused`, `SASL authentication error: …`.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets it: a broker has answered since.
    pub fn forget_error(&self) {
        *self.shared.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.shared.log.line(level, facility, text);
        // Connections that end or are not made in time: it calls these no errors, and has nothing else to say of a port that
        // expects TLS or a login, or knows neither.
        if facility == "FAIL" && !matches!(level, RDKafkaLogLevel::Debug) {
            let after_thread = text.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: "));
            self.complain(after_thread.map_or(text, |(_, reason)| reason));
        }
    }

    fn stats(&self, _: Statistics) {}

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = code(&error);
        let level = match code {
            Some(RDKafkaErrorCode::Fatal) => RDKafkaLogLevel::Critical,
            _ => RDKafkaLogLevel::Error,
        };
        let facility = code.map_or_else(|| "ERROR".to_owned(), |code| format!("{code:?}"));
        self.shared.log.line(level, &facility, reason);
        if code != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.complain(reason);
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        match &self.shared.token {
            Some(source) => Ok(source.token()?),
            None => Err("no token is configured: set `credentials` or `token` on the bus".into()),
        }
    }
}

/// For a consumer that is never polled for records.
impl ConsumerContext for Callbacks {}

/// For a client that produces nothing.
impl ProducerContext<NoCustomPartitioner> for Callbacks {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

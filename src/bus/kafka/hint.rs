//! What a connection that brokers end without a word is about, most of the time.
//!
//! Invariant: a guess, put as a question behind the client's words. It is made only where the configuration lacks what it
//! asks about, and only of connections that ended as soon as they were made.

use super::settings::uses_tls;
use crate::bus::BusConfig;

/// As soon as it was made; librdkafka guesses within the same time.
const AT_ONCE_MS: u32 = 2_000;
/// The beginning of an alert of TLS, 0x1503xxxx, taken for the size of an answer.
const ALERT_AS_SIZE: &str = "Invalid response size 35251";

/// What a bus has not configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    lacks_tls: bool,
    lacks_login: bool,
}

impl Hint {
    pub(super) fn of(config: &BusConfig) -> Self {
        Self { lacks_tls: !uses_tls(config), lacks_login: config.mechanism.is_none() }
    }

    /// What to look at after `complaint`.
    pub(super) fn on(self, complaint: &str) -> Option<&'static str> {
        let ended = ["Disconnected", "Broken pipe", "reset by peer"].iter().any(|words| complaint.contains(words));
        let at_once = |state: &str| {
            let after = complaint.split_once("(after ").and_then(|(_, rest)| rest.split_once("ms in state "));
            let is_soon = |ms: &str| ms.parse().is_ok_and(|ms: u32| ms < AT_ONCE_MS);
            ended && after.is_some_and(|(ms, rest)| is_soon(ms) && rest.starts_with(state))
        };
        // The first question of a client is refused by what expects TLS, the second one by what expects a login.
        if self.lacks_tls && (at_once("APIVERSION_QUERY") || complaint.contains(ALERT_AS_SIZE)) {
            return Some("do the brokers want TLS? `tls = { required = true }`");
        }
        if self.lacks_login && at_once("UP") {
            return Some("do the brokers want a login? `mechanism`, `user`, `password`");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_at_once_is_asked_about_what_is_not_configured() {
        let ended =
            |ms: u32, state: &str| format!("a:1/bootstrap: Disconnected: by peer (after {ms}ms in state {state})");
        let nothing = Hint { lacks_tls: true, lacks_login: true };
        let table = [
            (nothing, ended(0, "APIVERSION_QUERY"), Some("TLS")),
            (nothing, "a:1: Receive failed: Invalid response size 352518912 (0..100000000)".to_owned(), Some("TLS")),
            (nothing, ended(3, "UP, 1 identical error(s) suppressed"), Some("login")),
            (nothing, "a:1: Send failed: Broken pipe (after 0ms in state UP)".to_owned(), Some("login")),
            (nothing, ended(600_000, "UP"), None),
            (nothing, "a:1: Connect to a:1 failed: Connection refused (after 0ms in state CONNECT)".to_owned(), None),
            (Hint { lacks_tls: false, ..nothing }, ended(0, "APIVERSION_QUERY"), None),
            (Hint { lacks_login: false, ..nothing }, ended(0, "UP"), None),
        ];
        for (hint, complaint, expected) in table {
            let said = hint.on(&complaint);
            assert!(said.is_some() == expected.is_some(), "{complaint}: {said:?}");
            assert!(expected.is_none_or(|word| said.is_some_and(|said| said.contains(word))), "{complaint}: {said:?}");
        }
    }
}

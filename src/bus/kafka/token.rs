//! The token of SASL OAUTHBEARER: from the configuration, or from a file that somebody else keeps fresh.
//!
//! Invariant: the file is read again whenever a client asks, which is before the token ends; a token never gets into an
//! error. What the token says of itself is only read, never verified: that is the broker's part.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;

use crate::bus::{BusConfig, Secret};

/// How long a token that does not say when it ends is used before it is read again.
const OPAQUE_LIFE: Duration = Duration::from_secs(300);
/// Longer than any token that fits a SASL message of a broker's default.
const TOKEN_BYTES: u64 = 64 << 10;

/// Where tokens come from.
#[derive(Clone, Debug)]
pub(super) struct TokenSource {
    from: From,
    /// The principal of a token that names none.
    principal: String,
}

#[derive(Clone, Debug)]
enum From {
    Text(Secret),
    File(PathBuf),
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("failed to read the token from {file}: {source}")]
    File { file: String, source: std::io::Error },
    #[error("the token in {place} is no token: it is empty, larger than 64 KiB or has white space inside")]
    Shape { place: String },
    #[error("the token in {place} ended {seconds} s ago: renew it")]
    Ended { place: String, seconds: u64 },
}

/// What a JSON Web Token says of itself.
#[derive(Default, serde::Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

impl TokenSource {
    pub(super) fn of(config: &BusConfig) -> Option<Self> {
        let from = match (&config.token, &config.credentials) {
            (Some(token), _) => From::Text(token.clone()),
            (None, Some(file)) => From::File(file.clone()),
            (None, None) => return None,
        };
        Some(Self { from, principal: "oncue".to_owned() })
    }

    pub(super) fn token(&self) -> Result<OAuthToken, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.token_at(now)
    }

    fn token_at(&self, now: Duration) -> Result<OAuthToken, TokenError> {
        let text = self.read()?;
        let token = text.trim();
        if token.is_empty() || token.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(TokenError::Shape { place: self.place() });
        }
        let claims = claims(token).unwrap_or_default();
        let end = match claims.exp {
            // A number that is none, negative or beyond what a duration holds is no end.
            Some(exp) => Duration::try_from_secs_f64(exp).unwrap_or(now + OPAQUE_LIFE),
            None => now + OPAQUE_LIFE,
        };
        if end <= now {
            return Err(TokenError::Ended { place: self.place(), seconds: (now - end).as_secs() });
        }
        let principal = claims.sub.filter(|sub| !sub.is_empty() && !sub.contains('\0'));
        Ok(OAuthToken {
            token: token.to_owned(),
            principal_name: principal.unwrap_or_else(|| self.principal.clone()),
            lifetime_ms: i64::try_from(end.as_millis()).unwrap_or(i64::MAX),
        })
    }

    fn read(&self) -> Result<String, TokenError> {
        use std::io::Read as _;
        let file = match &self.from {
            From::Text(secret) => return Ok(secret.0.clone()),
            From::File(file) => file,
        };
        let mut text = String::new();
        let read = std::fs::File::open(file).and_then(|open| open.take(TOKEN_BYTES + 1).read_to_string(&mut text));
        read.map_err(|source| TokenError::File { file: file.display().to_string(), source })?;
        if text.len() as u64 > TOKEN_BYTES {
            return Err(TokenError::Shape { place: self.place() });
        }
        Ok(text)
    }

    fn place(&self) -> String {
        match &self.from {
            From::Text(_) => "`token`".to_owned(),
            From::File(file) => file.display().to_string(),
        }
    }
}

/// The claims of a JSON Web Token; none of a token of another kind.
fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(token: &str) -> TokenSource {
        TokenSource { from: From::Text(Secret(token.to_owned())), principal: "oncue".to_owned() }
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_says_when_it_ends_and_whose_it_is() {
        let now = Duration::from_secs(1_000);
        let table = [
            (jwt(r#"{"exp":1300,"sub":"svc"}"#), Ok(("svc", 1_300_000))),
            (jwt(r#"{"exp":1300.5}"#), Ok(("oncue", 1_300_500))),
            (jwt(r#"{"sub":""}"#), Ok(("oncue", 1_300_000))),
            (jwt("not json"), Ok(("oncue", 1_300_000))),
            (jwt(r#"{"exp":1e300}"#), Ok(("oncue", 1_300_000))),
            (jwt(r#"{"exp":-1}"#), Ok(("oncue", 1_300_000))),
            ("opaque".to_owned(), Ok(("oncue", 1_300_000))),
            ("opaque\n".to_owned(), Ok(("oncue", 1_300_000))),
            (jwt(r#"{"exp":990}"#), Err("the token in `token` ended 10 s ago: renew it")),
            (
                String::new(),
                Err("the token in `token` is no token: it is empty, larger than 64 KiB or has white space inside"),
            ),
        ];
        for (text, expected) in table {
            let token = source(&text).token_at(now).map_err(|e| e.to_string());
            let token = token.as_ref().map(|t| (t.principal_name.as_str(), t.lifetime_ms)).map_err(String::as_str);
            assert_eq!(token, expected, "{text}");
        }
    }

    #[test]
    fn a_file_is_read_again_each_time_and_its_content_is_in_no_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("token");
        let source = TokenSource { from: From::File(file.clone()), principal: "oncue".to_owned() };
        let missing = source.token().map(drop).expect_err("it is not there").to_string();
        assert!(missing.starts_with("failed to read the token from "), "{missing}");
        for token in ["first", "second"] {
            std::fs::write(&file, token).expect("it is written");
            assert_eq!(source.token().expect("it is there").token, token);
        }
        std::fs::write(&file, "se cret").expect("it is written");
        let bad = source.token().map(drop).expect_err("it has a space").to_string();
        assert!(!bad.contains("cret"), "{bad}");
        std::fs::write(&file, "x".repeat(100_000)).expect("it is written");
        assert!(source.token().is_err(), "it is too long");
    }
}

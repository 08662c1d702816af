//! A gap as commands show it.
//!
//! Invariant: positions are shown as the source names them: an LSN, or topic, partition and offset.

use serde::Serialize;
use time::OffsetDateTime;

use crate::cli::output;
use crate::store::feeds::Gap;

/// A range that a source no longer had.
#[derive(Debug, Serialize)]
pub(super) struct GapFacts {
    from: Option<String>,
    to: Option<String>,
    reason: String,
    #[serde(with = "time::serde::rfc3339")]
    found_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    accepted_at: Option<OffsetDateTime>,
}

impl From<Gap> for GapFacts {
    fn from(gap: Gap) -> Self {
        let Gap { from, to, reason, found_at, accepted_at } = gap;
        Self { from, to, reason, found_at, accepted_at }
    }
}

impl GapFacts {
    pub(super) fn text(&self) -> String {
        let place = |position: &Option<String>| position.clone().unwrap_or_else(|| "?".to_owned());
        let state = match self.accepted_at {
            Some(at) => format!("accepted {}", output::moment(at)),
            None => "open".to_owned(),
        };
        let found = output::moment(self.found_at);
        format!("{} to {}, found {found}, {state}: {}", place(&self.from), place(&self.to), self.reason)
    }
}

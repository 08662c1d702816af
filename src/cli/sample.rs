//! An event that the command line names: for `function invoke` and `rule test`.
//!
//! Invariant: a document with `specversion` is a CloudEvent and is read as one; anything else is a payload or, for
//! patterns, the document itself.

use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use time::OffsetDateTime;

use crate::event::{Event, codec};
use crate::pattern::Json;
use crate::rules;

use super::arguments::read_input;

/// The type of an event whose type nobody says.
const DEFAULT_TYPE: &str = "oncue.sample";

/// Where the event is.
#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// The event: a file with a CloudEvent as JSON, or with a payload; - for stdin
    #[arg(long, value_name = "FILE", required_unless_present = "data")]
    event: Option<PathBuf>,
    /// The payload itself
    #[arg(long, value_name = "JSON", conflicts_with = "event")]
    data: Option<String>,
    /// The type of an event that is given as a payload
    #[arg(long = "type", value_name = "TYPE")]
    ty: Option<String>,
}

impl SampleArgs {
    /// The event; a payload gets an envelope.
    ///
    /// # Errors
    /// A file that cannot be read, a CloudEvent with a mistake.
    pub fn event(&self) -> anyhow::Result<Event> {
        let bytes = self.bytes()?;
        match envelope(&bytes) {
            true => decode(&bytes).with_context(|| self.failed()),
            false => Ok(self.wrap(bytes)),
        }
    }

    /// What a pattern sees of it. What is no CloudEvent is matched as it stands, unless it came with a type or as `--data`.
    ///
    /// # Errors
    /// A file that cannot be read, a CloudEvent with a mistake, a document that is not JSON.
    pub fn document(&self) -> anyhow::Result<Json> {
        let bytes = self.bytes()?;
        if envelope(&bytes) {
            return Ok(rules::document(&decode(&bytes).with_context(|| self.failed())?));
        }
        if self.ty.is_some() || self.data.is_some() {
            return Ok(rules::document(&self.wrap(bytes)));
        }
        Json::parse(&bytes).with_context(|| self.failed())
    }

    fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        match (&self.data, &self.event) {
            (Some(data), _) => Ok(data.clone().into_bytes()),
            (None, Some(path)) => read_input(path),
            (None, None) => anyhow::bail!("no event is named: give --event FILE or --data JSON"),
        }
    }

    fn failed(&self) -> String {
        let name = self.event.as_ref().map_or_else(|| "--data".to_owned(), |path| path.display().to_string());
        format!("failed to read the event of {name}")
    }

    fn wrap(&self, data: Vec<u8>) -> Event {
        let is_json = Json::parse(&data).is_ok();
        Event {
            id: uuid::Uuid::new_v4().to_string(),
            source: "oncue/cli".to_owned(),
            ty: self.ty.clone().unwrap_or_else(|| DEFAULT_TYPE.to_owned()),
            subject: None,
            time: Some(OffsetDateTime::now_utc()),
            datacontenttype: Some(if is_json { "application/json" } else { "application/octet-stream" }.to_owned()),
            dataschema: None,
            extensions: Vec::new(),
            data: Bytes::from(data),
        }
    }
}

/// Whether `bytes` are a CloudEvent as JSON.
#[must_use]
pub fn envelope(bytes: &[u8]) -> bool {
    Json::parse(bytes).is_ok_and(|json| json.get("specversion").is_some())
}

/// Reads a CloudEvent as JSON of any size.
///
/// # Errors
/// Those of the codec.
pub fn decode(bytes: &[u8]) -> Result<Event, codec::DecodeError> {
    let limits = codec::Limits { max_bytes: usize::MAX, max_header_bytes: usize::MAX, ..codec::Limits::default() };
    codec::from_structured(bytes, &limits)
}

//! Logs: one line per record, on standard error, as text or JSON.
//!
//! Invariant: what [`is_hidden`] knows is escaped in values, so that nothing from outside forges a record, drives a
//! terminal or hides in it. Other crates are logged at `info` at most, whatever the filter says: below that they print what they
//! send and receive, and so events and passwords. Reads no environment: the caller gives the filter.

use std::{
    fmt::{self, Write},
    io,
};

use tracing::field::Field;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    filter::filter_fn,
    fmt::{
        MakeWriter,
        format::{Writer, debug_fn},
    },
    layer::SubscriberExt as _,
};

use crate::printable::{is_hidden, printable_json};

/// Targets of our own records, whose fields hold no contents. `librdkafka` is what that client says through `bus/kafka`.
const OURS: [&str; 2] = ["oncue", "librdkafka"];

/// Targets of other crates that repeat a server's words, at whatever level: notices, which triggers on tables raise with what
/// they like, and errors that are returned to us as well.
const QUOTING: [&str; 2] = ["sqlx::postgres::notice", "pgwire_replication"];

/// What a log record looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text.
    #[default]
    Text,
    /// A line with a JSON object.
    Json,
}

/// How logs are written; always to standard error.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// What a record looks like.
    pub format: LogFormat,
    /// Directives as of `RUST_LOG`: a level, or `info,oncue::settle=debug`.
    pub filter: String,
    /// Colour the level; only for a terminal.
    pub colour: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned(), colour: false }
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter has a mistake.
    #[error("the log filter is wrong; it is a level (error, warn, info, debug, trace) or module=level pairs")]
    Filter {
        /// Where it is wrong.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logs are set up already.
    #[error("failed to set up logs twice in one process")]
    Twice,
}

/// Sets up logs for the process.
///
/// # Errors
/// A filter with a mistake; a second call.
pub fn install_logs(config: &LogConfig) -> Result<(), LogError> {
    let subscriber = subscriber(config, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(config: &LogConfig, writer: W) -> Result<Subscriber, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&config.filter);
    let filter = filter.map_err(|source| LogError::Filter { source })?;
    let builder = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(config.colour);
    Ok(match config.format {
        LogFormat::Json => {
            let json = builder.map_writer(|inner| JsonWriters { inner }).json().flatten_event(true).finish();
            Box::new(json.with(filter_fn(may_be_logged)))
        }
        LogFormat::Text => {
            let text = builder.fmt_fields(debug_fn(write_field).delimited(" ")).finish();
            Box::new(text.with(filter_fn(may_be_logged)))
        }
    })
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let root = target.split("::").next().unwrap_or_default();
    OURS.contains(&root)
        || (*metadata.level() <= Level::INFO && !QUOTING.iter().any(|quotes| target.starts_with(quotes)))
}

/// The library's own text format escapes strings but not what `%value` shows; this one escapes everything.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

struct Escaping<'a, 'w>(&'a mut Writer<'w>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if is_hidden(c) { write!(self.0, "{}", c.escape_default())? } else { self.0.write_char(c)? }
        }
        Ok(())
    }
}

/// Makes writers whose records hold no hidden character: of those, JSON itself escapes only some.
struct JsonWriters<W> {
    inner: W,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for JsonWriters<W> {
    type Writer = JsonWriter<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        JsonWriter { inner: self.inner.make_writer() }
    }
}

/// Takes whole records.
struct JsonWriter<W> {
    inner: W,
}

impl<W: io::Write> io::Write for JsonWriter<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.inner.write_all(printable_json(&String::from_utf8_lossy(record)).as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, act: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = LogConfig { format, filter: filter.to_owned(), colour: false };
        let subscriber = subscriber(&config, move || writer.clone()).expect("the filter is right");
        tracing::subscriber::with_default(subscriber, act);
        let bytes = captured.0.lock().expect("no test panics with it").clone();
        String::from_utf8(bytes).expect("records are UTF-8")
    }

    fn hostile() {
        let value = "a\nb\r\u{1b}[31m\u{7f}\u{9b}\u{200b}\u{202e}\u{e0041}é";
        tracing::info!(shown = %value, text = value, debug = ?value, error = %io::Error::other(value), "said {value}");
    }

    #[test]
    fn other_crates_are_logged_at_info_at_most() {
        let text = logged(LogFormat::Text, "trace", || {
            tracing::debug!(target: "async_nats::jetstream", "a message");
            tracing::trace!(target: "oncue_other", "a message");
            tracing::error!(target: "sqlx::postgres::notice", "a message");
            tracing::error!(target: "pgwire_replication::client", "a message");
            tracing::info!(target: "sqlx::query", "connected");
            tracing::trace!(target: "oncue::settle", "settled");
            tracing::debug!(target: "librdkafka", "joined");
        });
        assert!(!text.contains("a message"), "{text}");
        assert!(["connected", "settled", "joined"].iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn text_records_stay_on_one_line_whatever_the_values_are() {
        let text = logged(LogFormat::Text, "info", hostile);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.trim_end().contains(is_hidden), "{text:?}");
        assert!(text.contains(r"said a\nb\r\u{1b}[31m\u{7f}\u{9b}\u{200b}\u{202e}\u{e0041}é"), "{text}");
        assert!(text.contains(r"shown=a\nb\r\u{1b}[31m"), "{text}");
    }

    #[test]
    fn json_records_stay_on_one_line_and_are_json() {
        let text = logged(LogFormat::Json, "info", hostile);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(!text.trim_end().contains(is_hidden), "{text:?}");
        assert_eq!(record["shown"], "a\nb\r\u{1b}[31m\u{7f}\u{9b}\u{200b}\u{202e}\u{e0041}é");
        assert_eq!(record["level"], "INFO");
    }

    #[test]
    fn the_filter_takes_levels_and_modules() {
        let act = || {
            tracing::info!(target: "oncue::settle", "quiet");
            tracing::debug!(target: "oncue::triggers", "loud");
        };
        let text = logged(LogFormat::Text, "warn,oncue::triggers=debug", act);
        assert!(text.contains("loud") && !text.contains("quiet"), "{text}");
    }

    #[test]
    fn a_wrong_filter_is_refused_with_the_right_form() {
        let config = LogConfig { filter: "oncue=loudly".to_owned(), ..LogConfig::default() };
        let error = subscriber(&config, io::sink).err().expect("no such level");
        assert!(error.to_string().contains("error, warn, info"), "{error}");
    }
}

//! The only file that prints data: a table for people or one JSON document for programs.
//!
//! Invariant: a table and a JSON document of one command say the same; whatever is printed passes [`printable()`] here, so
//! that nothing from outside drives a terminal or hides, whoever calls. What a broken pipe means is decided in `report`.

use std::io::{self, IsTerminal as _, Write};

use comfy_table::{Table, presets};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::pattern::Json;
use crate::printable;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one document, a list for lists; one document a line where output has no end.
    Json,
}

/// Where a command's data goes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    format: Format,
}

impl Output {
    /// Data as `format` on stdout.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether programs read.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person sees stdout at once.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a list: `cells` gives a row's text for each of `columns`.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn list<T: Serialize>(
        &self,
        columns: &[&str],
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(&rows),
            Format::Table => self.text(&table(columns, rows.iter().map(cells))),
        }
    }

    /// Prints one thing; `text` is what people read.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn one<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.json(value),
            Format::Table => self.text(&text(value)),
        }
    }

    /// Prints one of a stream of things: a line of JSON, or what `text` gives.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn line<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self.format {
            Format::Json => self.write(&printable::printable_json(&serde_json::to_string(value)?)),
            Format::Table => self.text(&text(value)),
        }
    }

    /// Prints `text` with one line feed at its end, whatever the format.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn text(&self, text: &str) -> io::Result<()> {
        self.write(&printable(text))
    }

    /// Prints a file's content, which is to be the same file again: exactly, unless a person reads it at once.
    ///
    /// # Errors
    /// Those of stdout.
    pub fn file(&self, text: &str) -> io::Result<()> {
        if self.is_terminal() { self.text(text) } else { self.write(text) }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.trim_end_matches('\n').as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// A buffered stdout for long output.
    #[must_use]
    pub fn stream(&self) -> io::BufWriter<io::StdoutLock<'static>> {
        io::BufWriter::with_capacity(64 << 10, io::stdout().lock())
    }

    /// Says something on stderr that is not data: what was done, what to do next.
    pub fn note(&self, text: &str) {
        // A closed stderr is no reason to fail.
        let _ = writeln!(io::stderr().lock(), "{}", printable(text.trim_end_matches('\n')));
    }

    fn json<T: Serialize>(&self, value: &T) -> io::Result<()> {
        self.write(&printable::printable_json(&serde_json::to_string_pretty(value)?))
    }
}

/// A table without lines, its columns separated by two spaces.
#[must_use]
pub fn table(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|c| c.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `name: value` lines, aligned; empty values are left out.
#[must_use]
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<width$}  {}\n", printable(value))).collect()
}

/// `text` with what drives a terminal or cannot be seen shown as escapes; line feeds stay.
#[must_use]
pub fn printable(text: &str) -> String {
    printable::printable(text).into_owned()
}

/// `json` over several lines, numbers as they were written; lists of scalars stay on one line.
#[must_use]
pub fn pretty(json: &Json) -> String {
    let mut text = Vec::new();
    write_pretty(json, 0, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn write_pretty(json: &Json, depth: usize, out: &mut Vec<u8>) {
    let is_nested = |item: &Json| matches!(item, Json::Object(_) | Json::Array(_));
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    match json {
        Json::Object(members) if members.len() > 1 || members.iter().any(|(_, value)| is_nested(value)) => {
            out.push(b'{');
            for (at, (name, value)) in members.iter().enumerate() {
                out.extend_from_slice(if at > 0 { b"," } else { b"" });
                line(out, depth + 1);
                Json::string(name.as_str()).write(out);
                out.extend_from_slice(b": ");
                write_pretty(value, depth + 1, out);
            }
            line(out, depth);
            out.push(b'}');
        }
        other => other.write(out),
    }
}

/// A moment in UTC, to the second.
#[must_use]
pub fn moment(at: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    at.to_offset(time::UtcOffset::UTC).format(&form).unwrap_or_else(|_| at.to_string())
}

/// Microseconds as people read them: `85 µs`, `1.2 ms`, `3.40 s`.
#[must_use]
pub fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

/// Bytes as people read them: `512 B`, `64.0 KiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// An optional text, `-` without one.
#[must_use]
pub fn dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_are_shown() {
        let rows = vec![vec!["a".to_owned(), "1\u{1b}[31m".to_owned()], vec!["longer".to_owned(), "2".to_owned()]];
        let text = table(&["name", "count"], rows.into_iter());
        assert_eq!(text, "NAME    COUNT\na       1\\u{1b}[31m\nlonger  2");
    }

    #[test]
    fn durations_have_three_digits_or_so() {
        let table = [(7, "7 µs"), (1_250, "1.2 ms"), (2_345_678, "2.35 s")];
        for (value, text) in table {
            assert_eq!(micros(value), text);
        }
    }
}

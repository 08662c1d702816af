//! Text from outside as a terminal, a log and a person can take it: what cannot be seen is shown as an escape.
//!
//! Invariant: this is the one place that knows which characters those are; whatever prints or logs goes through it. Of
//! text that is printable already nothing changes, so that a text may pass more than once.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether `c` drives a terminal, hides, or moves what stands beside it: control characters (escape sequences begin with
/// one), line and paragraph separators, and what Unicode calls default ignorable (zero-width, bidirectional and tag
/// characters, variation selectors, fillers).
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with hidden characters but the line feed shown as `\u{…}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c), |c, out| out.extend(c.escape_unicode()))
}

/// The JSON document `json` with hidden characters as its own escapes: the same document, which shows what it holds.
#[must_use]
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Control characters outside strings are white space; inside, a serializer has escaped all but U+007F to U+009F.
    escaped(
        json,
        |c| c > '\u{7e}' && is_hidden(c),
        |c, out| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}"); // writing to a string cannot fail
            }
        },
    )
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) { escape(c, &mut shown) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown_and_nothing_else_changes() {
        let table = [
            ("Grüße, 世界 e\u{301} 🦀\n", "Grüße, 世界 e\u{301} 🦀\n"),
            ("\u{1b}[31mred\u{9b}0m\r\0", "\\u{1b}[31mred\\u{9b}0m\\u{d}\\u{0}"),
            ("a\u{200b}b\u{200d}\u{feff}\u{ad}", "a\\u{200b}b\\u{200d}\\u{feff}\\u{ad}"),
            ("\u{202e}gnp\u{2066}\u{61c}", "\\u{202e}gnp\\u{2066}\\u{61c}"),
            ("ok\u{e0001}\u{e0041}\u{e0100}\u{fe0f}", "ok\\u{e0001}\\u{e0041}\\u{e0100}\\u{fe0f}"),
            ("\u{2028}\u{2029}\u{3164}", "\\u{2028}\\u{2029}\\u{3164}"),
        ];
        for (text, shown) in table {
            assert_eq!(printable(text), shown);
            assert_eq!(printable(shown), shown, "once is enough");
        }
    }

    #[test]
    fn json_stays_the_same_document() {
        let value = serde_json::json!({"a\u{200b}": "\u{1b}[0m\u{7f}\u{9b}\u{202e}\u{e0041}é🦀\n"});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).expect("it is JSON")] {
            let shown = printable_json(&text);
            assert!(!shown.contains(|c| c != '\n' && is_hidden(c)), "{shown}");
            assert!(shown.contains("é🦀") && shown.contains("\\udb40\\udc41"), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("it is JSON"), value);
        }
    }
}

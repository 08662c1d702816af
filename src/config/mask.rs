//! Passwords that stand in a manifest as they are, replaced by variables, so that what `oncue export` writes holds none.
//!
//! Invariant: what is given back has the same keys, and no text of `[node]` or `[bus.NAME]` that may hold a secret but one
//! that is a variable. The text was read before, so that it is TOML.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A text without its secrets.
pub(super) struct Masked {
    /// The text.
    pub text: String,
    /// For each secret its key and the variable that stands there now.
    pub replaced: Vec<(String, String)>,
}

/// Replaces the secrets of `[node]` and `[bus.NAME]` in `source`, and leaves out comments that may be lines with one.
pub(super) fn mask(source: &str) -> Masked {
    let mut found = Vec::new();
    if let Ok(document) = DeTable::parse(source) {
        for section in ["node", "bus"] {
            if let Some(value) = document.get_ref().get(section) {
                look(section, value, &mut found);
            }
        }
    }
    found.sort_by_key(|(span, ..)| span.start);
    let mut masked = Masked { text: String::with_capacity(source.len()), replaced: Vec::new() };
    let mut at = 0;
    for (span, path, variable) in found {
        masked.text.push_str(source.get(at..span.start).unwrap_or_default());
        masked.text.push_str(&format!("\"${{{variable}}}\""));
        at = span.end;
        masked.replaced.push((path, variable));
    }
    masked.text.push_str(source.get(at..).unwrap_or_default());
    masked.text = without_comments(&masked.text);
    masked
}

/// Finds the texts at and below `value` that may hold a secret as it is.
fn look(path: &str, value: &Spanned<DeValue<'_>>, found: &mut Vec<(Range<usize>, String, String)>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            for (key, value) in table {
                look(&format!("{path}.{}", key.get_ref()), value, found);
            }
        }
        DeValue::String(text) if is_secret(path, text) => {
            found.push((value.span(), path.to_owned(), variable(path, text)));
        }
        _ => {}
    }
}

fn is_secret(path: &str, text: &str) -> bool {
    let literal = literal(text);
    let key = path.rsplit('.').next().unwrap_or_default();
    if ["password", "token", "secret"].iter().any(|word| key.contains(word)) {
        return !literal.is_empty();
    }
    // Of an address: a login, or parameters, one of which may be a password.
    literal.contains(['@', '?']) || text.contains("}@")
}

/// What of `text` does not come from a variable; defaults do not.
fn literal(text: &str) -> String {
    let mut literal = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        literal.push_str(before);
        let (inside, after) = after.split_once('}').unwrap_or((after, ""));
        literal.push_str(inside.split_once(":-").map_or("", |(_, default)| default));
        rest = after;
    }
    literal.push_str(rest);
    literal
}

/// The variable that has only its default to lose, else one that is named after the key.
fn variable(path: &str, text: &str) -> String {
    let inside = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if let Some((name, _)) = inside.and_then(|inside| inside.split_once(":-")) {
        return name.to_owned();
    }
    let of_name = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    path.chars().map(of_name).collect()
}

/// A line that was commented out may be one with a password.
fn without_comments(text: &str) -> String {
    let is_safe = |line: &&str| !line.trim_start().starts_with('#') || !line.contains(['=', '@']);
    text.split_inclusive('\n').filter(is_safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_becomes_a_variable() {
        let table = [
            ("[bus.a]\npassword = \"hush\"", "[bus.a]\npassword = \"${BUS_A_PASSWORD}\""),
            (
                "[bus.a]\npassword = '''\nhush'''\nuser = \"me\"",
                "[bus.a]\npassword = \"${BUS_A_PASSWORD}\"\nuser = \"me\"",
            ),
            ("[bus.a]\ntoken = \"${T}\"", "[bus.a]\ntoken = \"${T}\""),
            ("[bus.a]\ntoken = \"${T:-hush}\"", "[bus.a]\ntoken = \"${T}\""),
            ("[bus.a]\ntoken = \"hush${T}\"", "[bus.a]\ntoken = \"${BUS_A_TOKEN}\""),
            ("[bus.a]\nurl = \"nats://u:hush@h\"", "[bus.a]\nurl = \"${BUS_A_URL}\""),
            ("[bus.a]\nurl = \"${U:-nats://h:4222}\"", "[bus.a]\nurl = \"${U:-nats://h:4222}\""),
            ("[bus.a]\nurl = \"${U:-nats://hush@h:4222}\"", "[bus.a]\nurl = \"${U}\""),
            ("[bus.a]\nurl = \"postgres://h/d?password=hush\"", "[bus.a]\nurl = \"${BUS_A_URL}\""),
            (
                "[bus.a.options]\n\"ssl.key.password\" = \"hush\"",
                "[bus.a.options]\n\"ssl.key.password\" = \"${BUS_A_OPTIONS_SSL_KEY_PASSWORD}\"",
            ),
            (
                "[node]\n# database = \"hush\"\ndatabase = \"postgres://a:hush@b/c\" # ours",
                "[node]\ndatabase = \"${NODE_DATABASE}\" # ours",
            ),
            ("[node]\n# the one\nhealth = \"off\"", "[node]\n# the one\nhealth = \"off\""),
        ];
        for (source, expected) in table {
            assert_eq!(mask(source).text, expected, "{source}");
        }
    }
}

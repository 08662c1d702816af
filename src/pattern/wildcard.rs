//! Wildcards: `*` stands for any run of characters, `\*` and `\\` for themselves.
//!
//! Invariant: matching is linear in the text. The parts between the stars are searched from left to right and a part
//! once found is never searched for again, because the leftmost place leaves the most to the parts after it. No regular
//! expressions, no `?`.

use memchr::memmem;

/// Parts of at most so many bytes are searched for without preparing.
const SHORT: usize = 8;

/// A parsed wildcard: the literal parts around its stars, one more than there are stars.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wildcard {
    parts: Vec<String>,
}

/// Why a text is not a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WildcardError {
    /// `**`, which says nothing that `*` does not.
    TwoStars,
    /// A backslash at the end.
    EndsInBackslash,
    /// A backslash before anything but `*` or `\`.
    UnknownEscape(char),
}

impl Wildcard {
    /// Parses the text of a `wildcard` operator.
    pub fn parse(text: &str) -> Result<Wildcard, WildcardError> {
        let mut parts = Vec::new();
        let mut part = String::new();
        let mut after_star = false;
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '*' if after_star => return Err(WildcardError::TwoStars),
                '*' => parts.push(std::mem::take(&mut part)),
                '\\' => match characters.next() {
                    Some(escaped @ ('*' | '\\')) => part.push(escaped),
                    Some(other) => return Err(WildcardError::UnknownEscape(other)),
                    None => return Err(WildcardError::EndsInBackslash),
                },
                other => part.push(other),
            }
            after_star = character == '*';
        }
        parts.push(part);
        Ok(Wildcard { parts })
    }

    /// The parts around its stars.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }

    /// How many stars it has.
    pub fn stars(&self) -> usize {
        self.parts.len() - 1
    }

    /// Whether all of `text` is as the wildcard says.
    pub fn matches(&self, text: &str) -> bool {
        match self.parts.as_slice() {
            [] => false,
            [whole] => text == whole,
            [first, middle @ .., last] => {
                let rest = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()));
                rest.is_some_and(|rest| found_in_order(middle, rest))
            }
        }
    }
}

fn found_in_order(parts: &[String], text: &str) -> bool {
    let mut rest = text.as_bytes();
    for part in parts {
        match find(rest, part.as_bytes()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The first place of `part` in `text`. A short part is compared where its first byte is; to search for a longer one,
/// preparing pays.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let [first, rest @ ..] = part else { return Some(0) };
    if part.len() > SHORT {
        return memmem::find(text, part);
    }
    let mut at = 0;
    loop {
        at += text.get(at..)?.iter().position(|byte| byte == first)?;
        if text[at + 1..].starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
}

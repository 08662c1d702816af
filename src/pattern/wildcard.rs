//! Wildcards: `*` stands for any run of characters, `\*` and `\\` for themselves.
//!
//! Invariant: matching is linear in the text. The parts between the stars are searched from left to right and a part
//! once found is never searched for again, because the leftmost place leaves the most to the parts after it. No regular
//! expressions, no `?`.

/// A parsed wildcard: the literal parts around its stars, one more than there are stars.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let mut rest = text;
    for part in parts {
        match rest.find(part.as_str()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

//! Subjects and types that events are published to, read from and granted: the one check of them.
//!
//! Invariant: a subject that passed cannot end a protocol line, cannot name a server's own subjects (`$JS.API.…` deletes
//! streams, `$SYS.…` steers servers, `_INBOX.…` answers other people's requests), and is no longer than every part of the
//! program and every server takes. Functions, rules, triggers, grants, the command line and the rows of the tables (by
//! `oncue.subject_error`, which says the same in SQL) ask here and nowhere else.

/// Characters of a subject that are shown.
const SHOWN_CHARS: usize = 200;

/// Most characters of one token: a name of a file or of a topic is no longer either.
pub const TOKEN_MAX: usize = 255;

/// Most characters of a subject: a quarter of the line that nats-server takes by default.
pub const SUBJECT_MAX: usize = 1_024;

/// The first token of the subjects that clients of NATS are answered on.
const INBOX: &str = "_INBOX";

/// Why a text is no subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// It has no characters.
    #[error("is empty")]
    Empty,
    /// It is too long as a whole.
    #[error("is longer than 1024 characters")]
    Long,
    /// One token is too long.
    #[error("has a token of more than 255 characters")]
    LongToken,
    /// Two dots in a row, or one at an end.
    #[error("has an empty token between its dots")]
    EmptyToken,
    /// What ends or splits a protocol line.
    #[error("has white space or a control character")]
    Blank,
    /// A token of a server's own subjects.
    #[error("has a token that begins with $, which names a server's own subjects")]
    Reserved,
    /// A subject that somebody is answered on.
    #[error("begins with _INBOX, where others wait for answers")]
    Inbox,
    /// A wildcard in a subject that is published to.
    #[error("has a wildcard, which nobody can publish to")]
    Wildcard,
    /// `>` before the end of a pattern.
    #[error("has > before its end")]
    TailInside,
}

/// Checks a subject that is published to: a type of an event, the target of a rule.
///
/// # Errors
/// The first thing that is wrong with it; `"{subject}" {error}` is a sentence.
pub fn check(subject: &str) -> Result<(), SubjectError> {
    tokens(subject)?;
    // NATS takes these for wildcards as a whole token only; nobody means one inside a token either.
    if subject.contains(['*', '>']) {
        return Err(SubjectError::Wildcard);
    }
    Ok(())
}

/// Checks a subject that is read from, or a grant: `*` is one token, a last `>` one or more.
///
/// # Errors
/// As of [`check`].
pub fn check_pattern(pattern: &str) -> Result<(), SubjectError> {
    tokens(pattern)?;
    let before_the_last = pattern.rsplit('.').skip(1);
    if before_the_last.into_iter().any(|token| token == ">") { Err(SubjectError::TailInside) } else { Ok(()) }
}

fn tokens(subject: &str) -> Result<(), SubjectError> {
    if subject.is_empty() {
        return Err(SubjectError::Empty);
    }
    // A character is at least a byte: a text of any length is not walked to its end.
    if subject.len() > SUBJECT_MAX && subject.chars().nth(SUBJECT_MAX).is_some() {
        return Err(SubjectError::Long);
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::Blank);
    }
    for (at, token) in subject.split('.').enumerate() {
        match token {
            "" => return Err(SubjectError::EmptyToken),
            token if token.starts_with('$') => return Err(SubjectError::Reserved),
            INBOX if at == 0 => return Err(SubjectError::Inbox),
            token if token.len() > TOKEN_MAX && token.chars().nth(TOKEN_MAX).is_some() => {
                return Err(SubjectError::LongToken);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The beginning of a subject, as an error may repeat it: escaped, and cut.
#[must_use]
pub fn shown(subject: &str) -> String {
    let mut escaped = subject.escape_debug();
    let mut text: String = escaped.by_ref().take(SHOWN_CHARS).collect();
    if escaped.next().is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Subject, as a literal, as a pattern.
    type Row<'a> = (&'a str, Result<(), SubjectError>, Result<(), SubjectError>);

    #[test]
    fn subjects_are_checked_alike_everywhere() {
        use SubjectError::{Blank, Empty, EmptyToken, Inbox, Long, LongToken, Reserved, TailInside, Wildcard};
        fn both(text: &str, result: Result<(), SubjectError>) -> Row<'_> {
            (text, result, result)
        }
        let token = "é".repeat(TOKEN_MAX);
        let (long_token, long) = (format!("{token}é"), ["a".repeat(204).as_str(); 6].join("."));
        let longest = format!("{}.{}", ["a".repeat(204).as_str(); 4].join("."), "b".repeat(204));
        let table = [
            both("a", Ok(())),
            both("com.example.Signed-Up_2", Ok(())),
            both("naïve.日本", Ok(())),
            both("a$.b$c", Ok(())),
            both("x._INBOX", Ok(())),
            both("_INBOXES.a", Ok(())),
            both(&token, Ok(())),
            both(&longest, Ok(())),
            both("", Err(Empty)),
            both(".", Err(EmptyToken)),
            both("a..b", Err(EmptyToken)),
            both("a.", Err(EmptyToken)),
            both("a b", Err(Blank)),
            both("a\r\nPUB x 0\r\n", Err(Blank)),
            both("a\u{0}", Err(Blank)),
            both("a\u{7f}b", Err(Blank)),
            both("a\u{85}b", Err(Blank)),
            both("a\u{2028}b", Err(Blank)),
            both("$JS.API.STREAM.DELETE.ORDERS", Err(Reserved)),
            both("a.$SYS", Err(Reserved)),
            both("_INBOX.x", Err(Inbox)),
            both(&long_token, Err(LongToken)),
            both(&long, Err(Long)),
            ("a.*", Err(Wildcard), Ok(())),
            ("a.>", Err(Wildcard), Ok(())),
            (">", Err(Wildcard), Ok(())),
            ("*", Err(Wildcard), Ok(())),
            ("a*b", Err(Wildcard), Ok(())),
            ("a.>.b", Err(Wildcard), Err(TailInside)),
            (">.>", Err(Wildcard), Err(TailInside)),
        ];
        for (subject, literal, pattern) in table {
            assert_eq!((check(subject), check_pattern(subject)), (literal, pattern), "{subject:?}");
        }
    }

    #[test]
    fn a_hundred_thousand_characters_are_refused_and_shown_short() {
        let subject = "x".repeat(100_000);
        assert_eq!(check(&subject), Err(SubjectError::Long));
        assert!(shown(&subject).chars().count() <= 201);
    }
}

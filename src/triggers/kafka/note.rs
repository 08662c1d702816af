//! What is written beside a committed offset: how far records may have run, and how to know the partition again.
//!
//! Invariant: reading what was written gives the same note; what somebody else wrote, an operator's tool or another
//! program of the group, is no note. It is advice: without it records run twice at most, none is lost.

use std::fmt;

/// What tells notes of this form from other metadata.
const FORM: &str = "oncue1";

/// The metadata of a committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// No record at or behind this offset has ever been handed over.
    pub(super) until: i64,
    /// How often the partition was assigned since it last got anywhere or was given up cleanly.
    pub(super) tries: u32,
    /// The record before the committed offset.
    pub(super) mark: Option<Mark>,
}

/// What a record is known by again: a topic that was made anew has others at the same offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its timestamp in milliseconds; -1 without one.
    pub(super) timestamp: i64,
    /// Bytes of its key; -1 if that is null.
    pub(super) key: i64,
    /// Bytes of its value; -1 if that is null.
    pub(super) value: i64,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORM} until={} tries={}", self.until, self.tries)?;
        match &self.mark {
            Some(mark) => write!(f, " mark={}/{}/{}", mark.timestamp, mark.key, mark.value),
            None => Ok(()),
        }
    }
}

impl Note {
    /// Reads the metadata of a committed offset.
    pub(super) fn read(metadata: &str) -> Option<Self> {
        let mut words = metadata.split(' ').filter(|word| !word.is_empty());
        if words.next() != Some(FORM) {
            return None;
        }
        let mut note = Self::default();
        for word in words {
            match word.split_once('=')? {
                ("until", until) => note.until = until.parse().ok()?,
                ("tries", tries) => note.tries = tries.parse().ok()?,
                ("mark", mark) => note.mark = Some(Mark::read(mark)?),
                // A later form may say more.
                _ => {}
            }
        }
        Some(note)
    }
}

impl Mark {
    fn read(text: &str) -> Option<Self> {
        let mut numbers = text.split('/').map(|number| number.parse().ok());
        let mark = Self { timestamp: numbers.next()??, key: numbers.next()??, value: numbers.next()?? };
        numbers.next().is_none().then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let mark = Mark { timestamp: -1, key: -1, value: 12 };
        for note in [Note::default(), Note { until: 7, tries: 3, mark: Some(mark) }] {
            assert_eq!(Note::read(&note.to_string()), Some(note));
        }
        let longer = Note::read("oncue1 until=5 tries=0 later=x");
        assert_eq!(longer.map(|note| note.until), Some(5), "of a later version");
    }

    #[test]
    fn metadata_of_others_are_no_note() {
        for metadata in
            ["", " ", "oncue", "oncue1 until", "oncue1 until=x", "oncue1 mark=1/2", "oncue1 mark=1/2/3/4", "{}"]
        {
            assert_eq!(Note::read(metadata), None, "{metadata:?}");
        }
    }
}

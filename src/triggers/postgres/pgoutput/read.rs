//! Taking fields off the front of a message.
//!
//! Invariant: every step stays within the message, and an error says which message and which field.

use std::borrow::Cow;

use super::tuple::{self, Tuple};
use super::{DecodeError, Message};

pub(super) struct Reader<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'static str, rest: &'a [u8]) -> Self {
        Self { message, rest }
    }

    /// Reads the whole message by `decode`.
    pub(super) fn whole(
        mut self,
        decode: impl FnOnce(&mut Self) -> Result<Message<'a>, DecodeError>,
    ) -> Result<Message<'a>, DecodeError> {
        let message = decode(&mut self)?;
        match self.rest.len() {
            0 => Ok(message),
            bytes => Err(DecodeError::Trailing { message: self.message, bytes }),
        }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn invalid(&self, field: &'static str, value: u8) -> DecodeError {
        DecodeError::Invalid { message: self.message, field, value }
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// Text up to its NUL. A database of encoding `SQL_ASCII` may have names that are no UTF-8.
    pub(super) fn text(&mut self, field: &'static str) -> Result<Cow<'a, str>, DecodeError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(self.truncated(field))?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(String::from_utf8_lossy(text))
    }

    pub(super) fn bytes(&mut self, length: u32, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (bytes, rest) = split.ok_or(self.truncated(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A row; each value's extent is checked here, once.
    pub(super) fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let count = self.u16("number of values")?;
        let all = self.rest;
        for _ in 0..count {
            match self.u8("value")? {
                tuple::NULL | tuple::UNCHANGED => {}
                tuple::TEXT | tuple::BINARY => {
                    let length = self.u32("value's length")?;
                    self.bytes(length, "value")?;
                }
                kind => return Err(self.invalid("kind of value", kind)),
            }
        }
        Ok(Tuple::checked(count, &all[..all.len() - self.rest.len()]))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(self.truncated(field))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn truncated(&self, field: &'static str) -> DecodeError {
        DecodeError::Truncated { message: self.message, field }
    }
}

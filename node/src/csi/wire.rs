//! Protocol buffers as far as CSI needs them: numbers, texts, maps of texts and messages in messages. Written and read here
//! rather than by generated code: it is a dozen messages of a few fields.

use std::collections::BTreeMap;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the answer is not a message of protocol buffers")]
pub struct WireError;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A message being written. What is empty or zero is left out, as proto3 has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn number(mut self, field: u32, value: u64) -> Self {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
        self
    }

    pub fn flag(self, field: u32, value: bool) -> Self {
        self.number(field, u64::from(value))
    }

    pub fn text(self, field: u32, value: &str) -> Self {
        match value.is_empty() {
            true => self,
            false => self.bytes(field, value.as_bytes()),
        }
    }

    pub fn texts<'a>(self, field: u32, values: impl IntoIterator<Item = &'a str>) -> Self {
        values
            .into_iter()
            .fold(self, |message, value| message.bytes(field, value.as_bytes()))
    }

    /// A message in it; one without fields says that it is there.
    pub fn message(self, field: u32, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    pub fn map(self, field: u32, pairs: &BTreeMap<String, String>) -> Self {
        pairs.iter().fold(self, |message, (key, value)| {
            let entry = Message::default().text(1, key).text(2, value);
            message.message(field, entry)
        })
    }

    fn bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    fn key(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message that was read.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<(u32, Value<'a>)>);

impl<'a> Fields<'a> {
    pub fn read(mut bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let field = u32::try_from(key >> 3).map_err(|_| WireError)?;
            match key & 7 {
                VARINT => fields.push((field, Value::Number(varint(&mut bytes)?))),
                BYTES => {
                    let length = usize::try_from(varint(&mut bytes)?).map_err(|_| WireError)?;
                    fields.push((field, Value::Bytes(take(&mut bytes, length)?)));
                }
                FIXED64 => drop(take(&mut bytes, 8)?),
                FIXED32 => drop(take(&mut bytes, 4)?),
                _ => return Err(WireError),
            }
        }
        Ok(Fields(fields))
    }

    /// The last number of the field; 0 without.
    pub fn number(&self, field: u32) -> u64 {
        let found = self.0.iter().rev().find_map(|(number, value)| match value {
            Value::Number(value) if *number == field => Some(*value),
            _ => None,
        });
        found.unwrap_or(0)
    }

    fn all(&self, field: u32) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if *number == field => Some(*bytes),
            _ => None,
        })
    }

    pub fn texts(&self, field: u32) -> Vec<String> {
        self.all(field)
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    pub fn text(&self, field: u32) -> String {
        self.texts(field).pop().unwrap_or_default()
    }

    pub fn messages(&self, field: u32) -> Result<Vec<Fields<'a>>, WireError> {
        self.all(field).map(Fields::read).collect()
    }

    pub fn map(&self, field: u32) -> Result<BTreeMap<String, String>, WireError> {
        let entries = self.messages(field)?;
        Ok(entries
            .iter()
            .map(|entry| (entry.text(1), entry.text(2)))
            .collect())
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(WireError)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(WireError)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_the_encoding_guide() {
        assert_eq!(Message::default().number(1, 150).into_bytes(), [0x08, 0x96, 0x01]);
        let testing = [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67];
        assert_eq!(Message::default().text(2, "testing").into_bytes(), testing);
        let nested = Message::default().message(3, Message::default().number(1, 150));
        assert_eq!(nested.into_bytes(), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        for broken in [&[0x08][..], &[0x12, 0x05, 0x61], &[0x0b], &[0xff; 11]] {
            assert!(Fields::read(broken).is_err(), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, text in ".{0,300}", map in prop::collection::btree_map(".{1,9}", ".{0,9}", 0..4)) {
            let bytes = Message::default().number(1, number).text(2, &text).map(3, &map).into_bytes();
            let fields = Fields::read(&bytes).unwrap();
            prop_assert_eq!((fields.number(1), fields.text(2), fields.map(3).unwrap()), (number, text, map));
        }

        #[test]
        fn no_bytes_are_a_danger(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Fields::read(&bytes).map(|fields| (fields.number(1), fields.text(1), fields.map(1).is_ok()));
        }
    }
}

//! Bytes of the two tables: a current value with its revisions, and an undo record of the log.
//!
//! All integers are little-endian `u64`.
//! Current: `create_revision mod_revision version value…`.
//! Undo: `key_length key tag [current]`, tag 0 = the key was absent before, 1 = what it was follows; the tag's second
//! bit says that the change was a deletion.
use super::{KeyValue, Revision};
use bytes::Bytes;
use std::sync::Arc;

const HEADER: usize = 24;
const HAS_BEFORE: u8 = 1;
const IS_DELETE: u8 = 2;

/// A record that does not parse: the file was damaged or written by something else.
#[derive(Debug, thiserror::Error)]
#[error("damaged record of key {0:?}")]
pub(super) struct Damaged(pub String);

/// One line of the log: enough to go back from after the change to before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undo {
    pub revision: Revision,
    pub key: Arc<str>,
    pub deleted: bool,
    pub before: Option<KeyValue>,
}

pub(super) fn encode_current(kv: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + kv.value.len());
    write_current(&mut out, kv);
    out
}

fn write_current(out: &mut Vec<u8>, kv: &KeyValue) {
    out.extend_from_slice(&kv.create_revision.to_le_bytes());
    out.extend_from_slice(&kv.mod_revision.to_le_bytes());
    out.extend_from_slice(&kv.version.to_le_bytes());
    out.extend_from_slice(&kv.value);
}

pub(super) fn decode_current(key: Arc<str>, bytes: &[u8]) -> Result<KeyValue, Damaged> {
    let (Some(create_revision), Some(mod_revision), Some(version), Some(value)) = (
        number(bytes, 0),
        number(bytes, 8),
        number(bytes, 16),
        bytes.get(HEADER..),
    ) else {
        return Err(Damaged(key.to_string()));
    };
    Ok(KeyValue {
        key,
        value: Bytes::copy_from_slice(value),
        create_revision,
        mod_revision,
        version,
    })
}

pub(super) fn encode_undo(undo: &Undo) -> Vec<u8> {
    let size = undo.before.as_ref().map_or(0, |kv| HEADER + kv.value.len());
    let mut out = Vec::with_capacity(9 + undo.key.len() + size);
    out.extend_from_slice(&(undo.key.len() as u64).to_le_bytes());
    out.extend_from_slice(undo.key.as_bytes());
    out.push(if undo.before.is_some() { HAS_BEFORE } else { 0 } | if undo.deleted { IS_DELETE } else { 0 });
    if let Some(kv) = &undo.before {
        write_current(&mut out, kv);
    }
    out
}

pub(super) fn decode_undo(revision: Revision, bytes: &[u8]) -> Result<Undo, Damaged> {
    let damaged = || Damaged(format!("of the log at revision {revision}"));
    let length = usize::try_from(number(bytes, 0).ok_or_else(damaged)?).map_err(|_| damaged())?;
    let end = length.checked_add(8).ok_or_else(damaged)?;
    let key = std::str::from_utf8(bytes.get(8..end).ok_or_else(damaged)?).map_err(|_| damaged())?;
    let key: Arc<str> = key.into();
    let tag = *bytes.get(end).ok_or_else(damaged)?;
    let before = if tag & HAS_BEFORE != 0 {
        Some(decode_current(key.clone(), &bytes[end + 1..])?)
    } else {
        None
    };
    Ok(Undo {
        revision,
        key,
        deleted: tag & IS_DELETE != 0,
        before,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kv(key: &str, value: Vec<u8>, numbers: (u64, u64, u64)) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: numbers.0,
            mod_revision: numbers.1,
            version: numbers.2,
        }
    }

    proptest! {
        #[test]
        fn current_round_trips(key in "\\PC{1,40}", value: Vec<u8>, numbers: (u64, u64, u64)) {
            let kv = kv(&key, value, numbers);
            prop_assert_eq!(decode_current(kv.key.clone(), &encode_current(&kv)).unwrap(), kv);
        }

        #[test]
        fn undo_round_trips(key in "\\PC{1,40}", value: Option<Vec<u8>>, deleted: bool, revision: u64) {
            let before = value.map(|v| kv(&key, v, (1, 2, 3)));
            let undo = Undo { revision, key: key.as_str().into(), deleted, before };
            prop_assert_eq!(decode_undo(revision, &encode_undo(&undo)).unwrap(), undo);
        }

        #[test]
        fn damaged_bytes_are_an_error_not_a_panic(bytes: Vec<u8>) {
            let _ = decode_undo(1, &bytes);
            let _ = decode_current("k".into(), &bytes);
        }
    }
}

//! Bytes of one frame of the journal: what one commit changed. Pure; knows nothing of files.
//!
//! All integers are little-endian. A frame begins at a multiple of [`ALIGN`]:
//! `checksum:u32 length:u32 identity:u64 first:u64 body…`, where `length` is the body's, the checksum (CRC-32) is of
//! all that follows it, `identity` is the store's and `first` the first revision in it. The body is a row of changes:
//! `revision:u64 key_length:u32 value_length:u32 key value`, a value length of `u32::MAX` being a deletion.
use crate::store::{Batch, Op, Revision};
use bytes::Bytes;

/// Frames begin at sectors: what a disk writes whole or not at all, and few places to look for one.
pub(super) const ALIGN: usize = 512;
const CHECKSUM: usize = 4;
const HEADER: usize = 24;
const CHANGE: usize = 16;
const DELETED: u32 = u32::MAX;

/// What one frame holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) first: Revision,
    pub(super) last: Revision,
    /// In the order of their revisions.
    pub(super) changes: Vec<(Revision, Op)>,
    /// Bytes that it takes in the journal.
    pub(super) size: usize,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes of one commit are larger than 4 GiB")]
pub(super) struct TooLarge;

/// Writes the frame of `batches` over what is in `out`, filled up to a whole number of sectors.
pub(super) fn encode(identity: u64, batches: &[Batch], out: &mut Vec<u8>) -> Result<(), TooLarge> {
    out.clear();
    out.resize(HEADER, 0);
    for event in batches.iter().flat_map(|batch| batch.events.iter()) {
        let value = event.now.as_ref().map(|now| &now.value);
        out.extend_from_slice(&event.revision.to_le_bytes());
        out.extend_from_slice(&length(event.key.len())?.to_le_bytes());
        out.extend_from_slice(&value.map_or(Ok(DELETED), |v| length(v.len()))?.to_le_bytes());
        out.extend_from_slice(event.key.as_bytes());
        out.extend_from_slice(value.map_or(&[], |v| v));
    }
    let first = batches.first().map_or(0, |batch| batch.revision);
    let body = length(out.len() - HEADER)?;
    out[4..8].copy_from_slice(&body.to_le_bytes());
    out[8..16].copy_from_slice(&identity.to_le_bytes());
    out[16..24].copy_from_slice(&first.to_le_bytes());
    let checksum = crc32fast::hash(&out[CHECKSUM..]);
    out[..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    Ok(())
}

fn length(of: usize) -> Result<u32, TooLarge> {
    u32::try_from(of)
        .ok()
        .filter(|length| *length != DELETED)
        .ok_or(TooLarge)
}

/// The frame that `bytes` begin with; none if they do not begin with a whole one of this store.
pub(super) fn decode(identity: u64, bytes: &[u8]) -> Option<Frame> {
    if long(bytes, 8)? != identity {
        return None;
    }
    let end = HEADER.checked_add(usize::try_from(short(bytes, 4)?).ok()?)?;
    let whole = bytes.get(..end)?;
    if crc32fast::hash(&whole[CHECKSUM..]) != short(whole, 0)? {
        return None;
    }
    let changes = changes(&whole[HEADER..])?;
    let first = long(whole, 16)?;
    Some(Frame {
        first: (changes.first()?.0 == first).then_some(first)?,
        last: changes.last()?.0,
        changes,
        size: end.next_multiple_of(ALIGN),
    })
}

/// The first revision of the frame that may begin here: what its header says, whole or not.
pub(super) fn claimed(identity: u64, bytes: &[u8]) -> Option<Revision> {
    (long(bytes, 8)? == identity).then(|| long(bytes, 16))?
}

fn changes(mut body: &[u8]) -> Option<Vec<(Revision, Op)>> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let (revision, key, value) = (long(body, 0)?, short(body, 8)?, short(body, 12)?);
        let (key, rest) = body.get(CHANGE..)?.split_at_checked(usize::try_from(key).ok()?)?;
        let key = std::str::from_utf8(key).ok()?.to_owned();
        if value == DELETED {
            body = rest;
            found.push((revision, Op::Delete { key }));
        } else {
            let (value, rest) = rest.split_at_checked(usize::try_from(value).ok()?)?;
            body = rest;
            let value = Bytes::copy_from_slice(value);
            found.push((revision, Op::Put { key, value }));
        }
    }
    Some(found)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Event, KeyValue};
    use proptest::prelude::*;

    const IDENTITY: u64 = 7;

    fn event(revision: Revision, key: &str, value: Option<Vec<u8>>) -> Event {
        let now = value.map(|value| KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
        });
        Event {
            revision,
            key: key.into(),
            now,
            before: None,
        }
    }

    fn batches(of: &[(String, Option<Vec<u8>>)]) -> Vec<Batch> {
        let numbered = of.iter().zip(5..);
        numbered
            .map(|((key, value), revision)| Batch {
                revision,
                events: [event(revision, key, value.clone())].into(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn frames_round_trip(of in prop::collection::vec(("\\PC{1,20}", any::<Option<Vec<u8>>>()), 1..5)) {
            let mut bytes = Vec::new();
            encode(IDENTITY, &batches(&of), &mut bytes).unwrap();
            let frame = decode(IDENTITY, &bytes).unwrap();
            prop_assert_eq!((frame.first, frame.last), (5, 4 + of.len() as u64));
            prop_assert_eq!((frame.size, bytes.len() % ALIGN), (bytes.len(), 0));
            let want: Vec<_> = of.into_iter().zip(5..).map(|((key, value), revision)| (revision, match value {
                Some(value) => Op::Put { key, value: value.into() },
                None => Op::Delete { key },
            })).collect();
            prop_assert_eq!(frame.changes, want);
            prop_assert!(decode(IDENTITY + 1, &bytes).is_none());
        }

        #[test]
        fn a_changed_byte_is_no_frame(value: Vec<u8>, at: prop::sample::Index, mask in 1..=255u8) {
            let mut bytes = Vec::new();
            encode(IDENTITY, &batches(&[("k".into(), Some(value.clone()))]), &mut bytes).unwrap();
            let written = HEADER + CHANGE + 1 + value.len();
            bytes[at.index(written)] ^= mask;
            prop_assert!(decode(IDENTITY, &bytes).is_none());
        }

        #[test]
        fn any_bytes_are_no_panic(bytes: Vec<u8>) {
            let _ = decode(0, &bytes);
        }
    }
}

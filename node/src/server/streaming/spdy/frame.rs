//! Frames as bytes (sections 2.2 and 2.6 of the draft). The header blocks of a connection are one zlib stream in each
//! direction. Knows no stream's state.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Every frame begins with so many bytes.
pub const HEAD: usize = 8;
/// Bytes of one data frame; clients copy in pieces of 32 KiB.
const DATA_LIMIT: u32 = 1 << 20;
/// Bytes of one control frame, and of its headers when they are no longer compressed.
const CONTROL_LIMIT: usize = 16 << 10;
const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;

/// Why a stream is reset (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    Protocol = 1,
    Refused = 3,
    Cancel = 5,
}

/// What a client breaks the protocol by.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is too long")]
    TooLong(u32),
    #[error("a frame of another version than 3")]
    Version,
    #[error("a frame that ends too early")]
    Short,
    #[error("a header block that cannot be read")]
    Headers,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    kind: Kind,
    flags: u8,
    pub length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data(u32),
    Control(u16),
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Open {
        id: u32,
        headers: BTreeMap<String, String>,
        ended: bool,
    },
    Data {
        id: u32,
        ended: bool,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    /// Settings, windows and the like: nothing follows from them here.
    Other,
}

impl Head {
    pub fn read(bytes: [u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let (first, second) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let length = u32::from_be_bytes([0, x, y, z]);
        let (kind, limit) = if first & CONTROL == 0 {
            (Kind::Data(u32::from_be_bytes([a, b, c, d])), DATA_LIMIT)
        } else if first & !CONTROL == VERSION {
            (Kind::Control(second), CONTROL_LIMIT as u32)
        } else {
            return Err(FrameError::Version);
        };
        if length > limit {
            return Err(FrameError::TooLong(length));
        }
        Ok(Head { kind, flags, length })
    }
}

/// Reads what follows the heads; each header block must pass here, in order.
pub struct Decoder {
    headers: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder {
            headers: Decompress::new(true),
        }
    }
}

impl Decoder {
    /// The frame of a head and its payload. What a data frame carries stays in the payload.
    pub fn read(&mut self, head: Head, payload: &[u8]) -> Result<Frame, FrameError> {
        let ended = head.flags & FIN != 0;
        Ok(match head.kind {
            Kind::Data(id) => Frame::Data { id, ended },
            Kind::Control(SYN_STREAM) => {
                let id = number(payload)?;
                let block = payload.get(10..).ok_or(FrameError::Short)?;
                let headers = self.headers(block)?;
                Frame::Open { id, headers, ended }
            }
            Kind::Control(RST_STREAM) => Frame::Reset { id: number(payload)? },
            Kind::Control(PING) => Frame::Ping { id: number(payload)? },
            Kind::Control(_) => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<BTreeMap<String, String>, FrameError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at_checked(length).ok_or(FrameError::Headers)?;
            rest = left;
            Ok::<_, FrameError>(taken.to_vec())
        };
        let count = number(&take(4)?)?;
        let mut found = BTreeMap::new();
        for _ in 0..count {
            let mut text = || {
                let length = number(&take(4)?)? as usize;
                String::from_utf8(take(length)?).map_err(|_| FrameError::Headers)
            };
            found.insert(text()?.to_ascii_lowercase(), text()?);
        }
        Ok(found)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::with_capacity(CONTROL_LIMIT);
        while !block.is_empty() {
            let before = self.headers.total_in();
            let done = self
                .headers
                .decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let eaten = (self.headers.total_in() - before) as usize;
            block = block.get(eaten..).unwrap_or_default();
            match done {
                Ok(Status::Ok) if eaten > 0 => {}
                Ok(_) => return Err(FrameError::Headers),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.headers
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| FrameError::Headers)?;
                }
                Err(_) => return Err(FrameError::Headers),
            }
        }
        Ok(plain)
    }
}

fn number(bytes: &[u8]) -> Result<u32, FrameError> {
    let word = bytes.first_chunk::<4>().ok_or(FrameError::Short)?;
    Ok(u32::from_be_bytes(*word) & 0x7fff_ffff)
}

/// Writes what has a header block.
pub struct Encoder {
    headers: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut headers = Compress::new(Compression::fast(), true);
        if let Err(error) = headers.set_dictionary(&DICTIONARY) {
            tracing::debug!(%error, "header blocks are compressed without the dictionary");
        }
        Encoder { headers }
    }
}

impl Encoder {
    /// Accepts a stream, with no headers of our own.
    pub fn reply(&mut self, id: u32) -> Vec<u8> {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(self.block(&[0; 4]));
        control(SYN_REPLY, &payload)
    }

    fn block(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 64);
        // The block has room for all of it, and compressing into memory has no other way to fail.
        if let Err(error) = self.headers.compress_vec(plain, &mut block, FlushCompress::Sync) {
            tracing::warn!(%error, "a header block was not compressed");
        }
        block
    }
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend_from_slice(&(CONTROL | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

pub fn ping(id: u32) -> Vec<u8> {
    control(PING, &id.to_be_bytes())
}

pub fn reset(id: u32, why: Reset) -> Vec<u8> {
    let payload = [id.to_be_bytes(), (why as u32).to_be_bytes()];
    control(RST_STREAM, payload.as_flattened())
}

/// A data frame; `bytes` must be shorter than 16 MiB.
pub fn data(id: u32, bytes: &[u8], ended: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    frame.extend_from_slice(&id.to_be_bytes());
    let length = (bytes.len() as u32) | (u32::from(ended) << 24);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a client sends to open a stream.
    pub fn open(encoder: &mut Encoder, id: u32, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(encoder.block(&plain));
        control(SYN_STREAM, &payload)
    }

    fn decode(decoder: &mut Decoder, frame: &[u8]) -> Result<Frame, FrameError> {
        let (head, payload) = frame.split_first_chunk::<HEAD>().unwrap();
        let head = Head::read(*head)?;
        assert_eq!(head.length as usize, payload.len());
        decoder.read(head, payload)
    }

    #[test]
    fn header_blocks_are_one_stream() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for id in [1, 3, 5] {
            let frame = open(&mut encoder, id, &[("Streamtype", "data"), ("port", "80")]);
            let headers = [("port", "80"), ("streamtype", "data")];
            let headers = headers.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            let expected = Frame::Open {
                id,
                headers,
                ended: false,
            };
            assert_eq!(decode(&mut decoder, &frame), Ok(expected));
        }
    }

    #[test]
    fn small_frames() {
        let mut decoder = Decoder::default();
        let mut read = |frame: Vec<u8>| decode(&mut decoder, &frame).unwrap();
        assert_eq!(read(ping(7)), Frame::Ping { id: 7 });
        assert_eq!(read(reset(3, Reset::Cancel)), Frame::Reset { id: 3 });
        assert_eq!(read(data(5, b"x", true)), Frame::Data { id: 5, ended: true });
        assert_eq!(read(control(9, &[0; 8])), Frame::Other);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let head = |bytes: [u8; 8]| Head::read(bytes);
        assert_eq!(
            head([0, 0, 0, 1, 0, 0xff, 0xff, 0xff]),
            Err(FrameError::TooLong(0xff_ffff))
        );
        assert_eq!(head([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(FrameError::Version));
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let bomb = open(&mut encoder, 1, &[("x", &"0".repeat(1 << 20))]);
        assert_eq!(decode(&mut decoder, &bomb), Err(FrameError::Headers));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, kind in 0u16..12) {
            let frame = control(kind, &bytes);
            let _ = decode(&mut Decoder::default(), &frame);
        }
    }
}

//! Pages as they are sent: plain, or compressed as `Content-Encoding` says (RFC 9110, 8.4.1; those that upstream's
//! `rewriteResponse` reads). Pure; knows nothing of what is in them.
use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder};
use flate2::write::{DeflateEncoder, GzEncoder};
use http::{HeaderMap, header};
use std::io::{self, Read, Write};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    Gzip,
    /// Without zlib's frame, as upstream reads and writes it.
    Deflate,
}

impl Coding {
    /// None for one that cannot be read here.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        match headers.get(header::CONTENT_ENCODING).map(|name| name.as_bytes()) {
            None | Some(b"") => Some(Coding::Plain),
            Some(b"gzip") => Some(Coding::Gzip),
            Some(b"deflate") => Some(Coding::Deflate),
            Some(_) => None,
        }
    }

    /// The text, if it is whole, UTF-8 and at most `limit` bytes long.
    pub(super) fn text(self, sent: &[u8], limit: usize) -> Option<String> {
        let read = match self {
            Coding::Plain => read(sent, limit),
            Coding::Gzip => read(MultiGzDecoder::new(sent), limit),
            Coding::Deflate => read(DeflateDecoder::new(sent), limit),
        };
        read.ok().filter(|text| text.len() <= limit)
    }

    pub(super) fn sent(self, text: String) -> io::Result<Vec<u8>> {
        match self {
            Coding::Plain => Ok(text.into_bytes()),
            Coding::Gzip => {
                let mut out = GzEncoder::new(Vec::new(), Compression::fast());
                out.write_all(text.as_bytes())?;
                out.finish()
            }
            Coding::Deflate => {
                let mut out = DeflateEncoder::new(Vec::new(), Compression::fast());
                out.write_all(text.as_bytes())?;
                out.finish()
            }
        }
    }
}

/// One byte more than `limit` says that there is more.
fn read(from: impl Read, limit: usize) -> io::Result<String> {
    let mut text = String::new();
    from.take(limit as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 10;
    const ALL: [Coding; 3] = [Coding::Plain, Coding::Gzip, Coding::Deflate];

    #[test]
    fn codings_that_can_be_read_are_known_by_their_names() {
        for (name, want) in [
            ("", Some(Coding::Plain)),
            ("gzip", Some(Coding::Gzip)),
            ("deflate", Some(Coding::Deflate)),
            ("br", None),
            ("gzip, gzip", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            assert_eq!(Coding::of(&headers), want, "{name}");
        }
        assert_eq!(Coding::of(&HeaderMap::new()), Some(Coding::Plain));
    }

    #[test]
    fn a_few_bytes_that_hold_much_text_are_not_unpacked() {
        for coding in ALL {
            let sent = coding.sent("a".repeat(LIMIT + 1)).unwrap();
            assert_eq!(coding.text(&sent, LIMIT), None, "{coding:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_no_text_is_none() {
        let sent = Coding::Gzip.sent("text".repeat(20)).unwrap();
        assert_eq!(Coding::Gzip.text(&sent[..sent.len() - 9], LIMIT), None);
        assert_eq!(Coding::Gzip.text(b"<html>", LIMIT), None);
        assert_eq!(Coding::Plain.text(&[0xff, 0xfe], LIMIT), None);
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read(text in "\\PC{0,200}") {
            for coding in ALL {
                prop_assert_eq!(coding.text(&coding.sent(text.clone()).unwrap(), LIMIT), Some(text.clone()));
            }
        }
    }
}

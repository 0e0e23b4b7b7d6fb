//! A tar archive as a stream of entries (POSIX pax, ustar and GNU headers). Header fields are parsed by the `tar`
//! crate; extension records are read here, bounded and by their declared lengths, because readers that disagree
//! about them let an archive mean two things.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::UnpackError;

const BLOCK: u64 = 512;
/// Largest long name or pax record block; Go's archive/tar takes as much.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Largest size an octal header field can say; only beyond it may pax and header disagree.
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

/// One file, directory, link or node of the archive, with its extensions applied.
#[derive(Debug)]
pub struct Entry {
    pub kind: EntryType,
    pub path: Vec<u8>,
    pub link: Option<Vec<u8>>,
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Extension records waiting for the entry they describe.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn pax(&self, key: &str) -> Option<&[u8]> {
        self.pax
            .iter()
            .rev()
            .find(|(k, _)| k == key.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    fn number(&self, key: &'static str) -> Result<Option<u64>, UnpackError> {
        let parse = |value: &[u8]| {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse().ok())
                .ok_or(UnpackError::Header(key))
        };
        self.pax(key).map(parse).transpose()
    }
}

/// Reads entries one after the other.
pub struct Entries<R> {
    reader: R,
    /// Unread bytes of the current entry, padding included.
    pending: u64,
    /// Unread bytes of the current entry's content.
    content: u64,
}

impl<R: Read> Entries<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            pending: 0,
            content: 0,
        }
    }

    /// The stream behind the entries, for draining it.
    pub fn into_inner(self) -> R {
        self.reader
    }

    /// The next entry; none at the end of the archive. What the last one had left is skipped.
    ///
    /// # Errors
    /// The archive is malformed, too large, or ends early.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(&header.as_old().size, header.entry_size(), "size")?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.text(size)?),
                EntryType::GNULongLink => extensions.link = Some(self.text(size)?),
                EntryType::XHeader => extensions.pax = records(&self.extension(size)?)?,
                EntryType::XGlobalHeader => drop(self.extension(size)?),
                kind => return self.entry(kind, &header, size, &extensions).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        kind: EntryType,
        header: &Header,
        header_size: u64,
        extensions: &Extensions,
    ) -> Result<Entry, UnpackError> {
        refuse_sparse(kind, extensions)?;
        let size = agreed_size(header_size, extensions.number("size")?)?;
        let has_content = matches!(kind, EntryType::Regular | EntryType::Continuous);
        self.expect(if has_content { size } else { header_size })?;
        let path = extensions
            .pax("path")
            .map(<[u8]>::to_vec)
            .or_else(|| extensions.path.clone());
        let link = extensions
            .pax("linkpath")
            .map(<[u8]>::to_vec)
            .or_else(|| extensions.link.clone());
        let old = header.as_old();
        let id = |key, from_header: Result<u64, UnpackError>| {
            let value = extensions.number(key)?.map_or(from_header, Ok)?;
            u32::try_from(value).map_err(|_| UnpackError::Header(key))
        };
        Ok(Entry {
            kind,
            path: path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)),
            size: if has_content { size } else { 0 },
            mode: (number(&old.mode, header.mode().map(u64::from), "mode")? & 0o7777) as u32,
            uid: id("uid", number(&old.uid, header.uid(), "uid"))?,
            gid: id("gid", number(&old.gid, header.gid(), "gid"))?,
            mtime: mtime(header, extensions)?,
            device: device(header),
            xattrs: xattrs(extensions),
        })
    }

    /// One 512-byte header, checksum verified; none at the end-of-archive block or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, UnpackError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(UnpackError::Truncated),
                n => filled += n,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |block: &[u8]| block.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let actual = sum(&block[..148]) + 8 * 32 + sum(&block[156..]);
        match header.cksum() {
            Ok(expected) if expected == actual => Ok(Some(header)),
            _ => Err(UnpackError::Header("checksum")),
        }
    }

    fn expect(&mut self, content: u64) -> Result<(), UnpackError> {
        self.content = content;
        self.pending = content
            .checked_next_multiple_of(BLOCK)
            .ok_or(UnpackError::Header("size"))?;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), UnpackError> {
        let copied = io::copy(&mut (&mut self.reader).take(self.pending), &mut io::sink())?;
        if copied < self.pending {
            return Err(UnpackError::Truncated);
        }
        (self.pending, self.content) = (0, 0);
        Ok(())
    }

    /// The whole content of an extension entry.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(UnpackError::Header("extension size"));
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        match bytes.len() as u64 == size {
            true => Ok(bytes),
            false => Err(UnpackError::Truncated),
        }
    }

    /// An extension that is one NUL-terminated name.
    fn text(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        let mut bytes = self.extension(size)?;
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        Ok(bytes)
    }
}

/// Reads the current entry's content.
impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(buf.len());
        let n = self.reader.read(&mut buf[..most])?;
        self.content -= n as u64;
        self.pending -= n as u64;
        Ok(n)
    }
}

fn refuse_sparse(kind: EntryType, extensions: &Extensions) -> Result<(), UnpackError> {
    let pax_sparse = extensions
        .pax
        .iter()
        .any(|(key, _)| key.starts_with(b"GNU.sparse."));
    match kind == EntryType::GNUSparse || pax_sparse {
        true => Err(UnpackError::Sparse),
        false => Ok(()),
    }
}

/// A pax size replaces the header's only where the header cannot say it.
fn agreed_size(header: u64, pax: Option<u64>) -> Result<u64, UnpackError> {
    match pax {
        Some(pax) if pax != header && pax <= MAX_OCTAL_SIZE => {
            Err(UnpackError::SizeDisagreement { header, pax })
        }
        Some(pax) => Ok(pax),
        None => Ok(header),
    }
}

fn mtime(header: &Header, extensions: &Extensions) -> Result<(i64, i64), UnpackError> {
    let bad = || UnpackError::Header("mtime");
    let Some(value) = extensions.pax("mtime") else {
        let seconds = number(&header.as_old().mtime, header.mtime(), "mtime")?;
        return Ok((i64::try_from(seconds).unwrap_or_default(), 0));
    };
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Ok((seconds, digits.parse::<u32>().map_err(|_| bad())?.into()))
}

/// A device's numbers; fields left empty are 0, which is no device.
fn device(header: &Header) -> (u32, u32) {
    let kind = header.entry_type();
    if !kind.is_block_special() && !kind.is_character_special() {
        return (0, 0);
    }
    let field = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or_default();
    (field(header.device_major()), field(header.device_minor()))
}

/// A numeric field; one left empty means 0 (some archivers write them so for links).
fn number(field: &[u8], parsed: io::Result<u64>, name: &'static str) -> Result<u64, UnpackError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    parsed.map_err(|_| UnpackError::Header(name))
}

fn xattrs(extensions: &Extensions) -> Vec<(Vec<u8>, Vec<u8>)> {
    let named = |(key, value): &(Vec<u8>, Vec<u8>)| {
        key.strip_prefix(b"SCHILY.xattr.")
            .map(|name| (name.to_vec(), value.clone()))
    };
    extensions.pax.iter().filter_map(named).collect()
}

/// Key and value of a pax record; values may hold anything.
type Record = (Vec<u8>, Vec<u8>);

/// Splits pax records, `LENGTH KEY=VALUE\n` each; the length rules, since values may hold anything.
fn records(mut bytes: &[u8]) -> Result<Vec<Record>, UnpackError> {
    let bad = || UnpackError::Header("pax record");
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok());
        let length = length
            .filter(|length| *length > space + 1 && *length <= bytes.len())
            .ok_or_else(bad)?;
        let (record, rest) = bytes.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        found.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = rest;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pax_records_are_split_by_their_lengths() {
        let binary = b"27 SCHILY.xattr.user.a=\n\n\n\n11 path=ab\n";
        let got = records(&binary[..]).unwrap();
        assert_eq!(got[0], (b"SCHILY.xattr.user.a".to_vec(), b"\n\n\n".to_vec()));
        assert_eq!(got[1], (b"path".to_vec(), b"ab".to_vec()));
        for bad in [
            &b"5 a=b\n"[..],
            b"99 a=b\n",
            b"x a=b\n",
            b"6 a=bX",
            b"6 abc\n",
            b"2 ",
        ] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_must_agree_below_what_octal_can_say() {
        assert_eq!(agreed_size(5, None).unwrap(), 5);
        assert_eq!(agreed_size(5, Some(5)).unwrap(), 5);
        assert_eq!(agreed_size(0, Some(1 << 34)).unwrap(), 1 << 34);
        assert!(matches!(
            agreed_size(5, Some(6)),
            Err(UnpackError::SizeDisagreement { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut entries = Entries::new(&bytes[..]);
            while let Ok(Some(_)) = entries.next_entry() {}
        }

        #[test]
        fn headers_with_any_fields_end_in_an_answer(
            fields in proptest::collection::vec(any::<u8>(), 512),
            tail in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(&fields);
            header.set_cksum();
            let mut archive = header.as_bytes().to_vec();
            archive.extend(tail);
            let mut entries = Entries::new(&archive[..]);
            while let Ok(Some(_)) = entries.next_entry() {}
        }
    }
}

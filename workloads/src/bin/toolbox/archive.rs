//! The archives of `tar`: blocks of 512 bytes, a header before each member (POSIX pax, "ustar interchange format"). GNU's long
//! names are read too.
//!
//! Owns headers and what lies between them. Refuses to know files.

use std::io::{self, ErrorKind, Read, Write};

const BLOCK: usize = 512;

/// Bytes of what comes before a header in its place: names, and who knows what else.
const MAX_EXTENSION: u64 = 1 << 20;

/// Where fields are in a header: their first byte and their length.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const OWNER: (usize, usize) = (108, 8);
const GROUP: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MODIFIED: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const KIND: (usize, usize) = (156, 1);
const TARGET: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const PREFIX: (usize, usize) = (345, 155);

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    File,
    Directory,
    Link(String),
    /// Another name of a member before it.
    SameAs(String),
    /// A device, a FIFO, or what other programs invented.
    Other,
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub what: What,
    pub name: String,
    pub size: u64,
    /// Seconds since 1970.
    pub modified: u64,
}

impl Member {
    /// Its header, after what does not fit into one.
    pub fn header(&self) -> Vec<u8> {
        let target = match &self.what {
            What::Link(target) | What::SameAs(target) => target.as_str(),
            What::File | What::Directory | What::Other => "",
        };
        let mut records = String::new();
        let (prefix, name) = split(&self.name).unwrap_or_else(|| {
            records += &record("path", &self.name);
            ("", &self.name)
        });
        if target.len() > TARGET.1 {
            records += &record("linkpath", target);
        }
        if self.size >= 1 << 33 {
            records += &record("size", &self.size.to_string());
        }
        let mut bytes = Vec::new();
        if !records.is_empty() {
            let size = records.len() as u64;
            bytes.extend(block(b'x', ("", "PaxHeader"), "", size, self.modified));
            bytes.extend(records.as_bytes());
            bytes.resize(bytes.len() + padding(size) as usize, 0);
        }
        let kind = match self.what {
            What::File | What::Other => b'0',
            What::SameAs(_) => b'1',
            What::Link(_) => b'2',
            What::Directory => b'5',
        };
        bytes.extend(block(kind, (prefix, name), target, self.size, self.modified));
        bytes
    }
}

/// What ends an archive.
pub fn end() -> [u8; 2 * BLOCK] {
    [0; 2 * BLOCK]
}

/// What fills the last block of a content.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// A name as the two fields of a header hold it.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME.1 {
        return Some(("", name));
    }
    let mut slashes = name.match_indices('/').map(|(place, _)| place);
    let place = slashes.find(|place| name.len() - place - 1 <= NAME.1)?;
    let fits = place > 0 && place <= PREFIX.1 && place + 1 < name.len();
    fits.then(|| (&name[..place], &name[place + 1..]))
}

/// A record of an extended header: it begins with its own length, the digits of that counted with it.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// WASI tells neither modes nor owners: these are what anybody may read.
fn block(kind: u8, name: (&str, &str), target: &str, size: u64, modified: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |(first, length): (usize, usize), bytes: &[u8]| {
        let fits = bytes.len().min(length);
        block[first..first + fits].copy_from_slice(&bytes[..fits]);
    };
    let mode: &[u8] = match kind {
        b'5' => b"0000755",
        b'2' => b"0000777",
        _ => b"0000644",
    };
    // Eleven digits; what is larger is said in a record.
    let number = |number: u64| format!("{:011o}", number.min((1 << 33) - 1));
    put(PREFIX, name.0.as_bytes());
    put(NAME, name.1.as_bytes());
    put(MODE, mode);
    put(OWNER, b"0000000");
    put(GROUP, b"0000000");
    put(SIZE, number(size).as_bytes());
    put(MODIFIED, number(modified).as_bytes());
    put(KIND, &[kind]);
    put(TARGET, target.as_bytes());
    put(MAGIC, b"ustar\x0000");
    put(CHECKSUM, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1].copy_from_slice(sum.as_bytes());
    block
}

/// Writes zeros, in the place of what is missing too.
pub fn pad(to: &mut dyn Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(bytes), to).map(|_| ())
}

/// Reads an archive from its beginning to its end; what it reads is the content of the member last told of.
pub struct Reader<R> {
    from: R,
    content: u64,
    padding: u64,
}

/// What headers before a header said about its member.
#[derive(Default)]
struct Extension {
    name: Option<String>,
    target: Option<String>,
    size: Option<u64>,
    modified: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub fn new(from: R) -> Self {
        Self {
            from,
            content: 0,
            padding: 0,
        }
    }

    /// The next member. What was not read of the content of the one before is passed over.
    ///
    /// # Errors
    /// When it is no archive, or ends too soon.
    pub fn member(&mut self) -> io::Result<Option<Member>> {
        let mut extension = Extension::default();
        loop {
            io::copy(self, &mut io::sink())?;
            let padding = std::mem::take(&mut self.padding);
            if io::copy(&mut self.from.by_ref().take(padding), &mut io::sink())? < padding {
                return Err(ends_too_soon());
            }
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let (kind, size) = (header.0[KIND.0], header.number(SIZE)?);
            match kind {
                b'x' => extension.take(&self.whole(size)?)?,
                b'L' => extension.name = Some(text(&self.whole(size)?)),
                b'K' => extension.target = Some(text(&self.whole(size)?)),
                // What is said of all members is not what is read here.
                b'g' => self.begin(size),
                _ => {
                    let member = header.member(extension)?;
                    self.begin(member.size);
                    return Ok(Some(member));
                }
            }
        }
    }

    fn begin(&mut self, size: u64) {
        self.content = size;
        self.padding = padding(size.min(u64::MAX - BLOCK as u64));
    }

    /// `None` at the end, which blocks of zeros are, or nothing.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut block = Vec::with_capacity(BLOCK);
        self.from.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(None);
        }
        let block: [u8; BLOCK] = block.try_into().map_err(|_| ends_too_soon())?;
        if block == [0; BLOCK] {
            // Whoever writes has more of them, and would be told of a broken pipe.
            io::copy(&mut self.from, &mut io::sink())?;
            return Ok(None);
        }
        let header = Header(block);
        header.check()?;
        Ok(Some(header))
    }

    fn whole(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(broken("a header is too large"));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ends_too_soon());
        }
        self.content -= read as u64;
        Ok(read)
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn field(&self, (first, length): (usize, usize)) -> &[u8] {
        &self.0[first..first + length]
    }

    /// The sum of all bytes, those of the sum itself as spaces. Old programs summed signed ones.
    fn check(&self) -> io::Result<()> {
        let own = CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1;
        let bytes = || {
            let bytes = self.0.iter().enumerate();
            bytes.map(|(place, byte)| if own.contains(&place) { b' ' } else { *byte })
        };
        let sum: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        let said = self.number(CHECKSUM)?;
        if [sum, signed].iter().any(|sum| u64::try_from(*sum) == Ok(said)) {
            Ok(())
        } else {
            Err(broken("this does not look like a tar archive"))
        }
    }

    /// Octal digits, or, behind a first byte that is none, GNU's binary number.
    fn number(&self, field: (usize, usize)) -> io::Result<u64> {
        let bytes = self.field(field);
        if bytes[0] == 0x80 {
            let (zeros, number) = bytes[1..].split_at(field.1.saturating_sub(9));
            let fits = zeros.iter().all(|byte| *byte == 0);
            let number = number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            return fits
                .then_some(number)
                .ok_or_else(|| broken("a number is too large"));
        }
        let digits = text(bytes);
        match digits.trim_matches([' ', '\0']) {
            "" => Ok(0),
            // A time before 1970 is no number here.
            _ if bytes[0] == 0xff => Ok(0),
            digits => {
                u64::from_str_radix(digits, 8).map_err(|_| broken("this does not look like a tar archive"))
            }
        }
    }

    fn member(&self, extension: Extension) -> io::Result<Member> {
        let own_name = || {
            let (prefix, name) = (text(self.field(PREFIX)), text(self.field(NAME)));
            // GNU's old headers have other things there.
            let is_posix = self.field(MAGIC).starts_with(b"ustar\0") && !prefix.is_empty();
            if is_posix {
                format!("{prefix}/{name}")
            } else {
                name
            }
        };
        let name = extension.name.unwrap_or_else(own_name);
        let target = extension.target.unwrap_or_else(|| text(self.field(TARGET)));
        let what = match self.0[KIND.0] {
            b'0' | b'\0' if name.ends_with('/') => What::Directory,
            b'0' | b'\0' | b'7' => What::File,
            b'1' => What::SameAs(target),
            b'2' => What::Link(target),
            b'5' => What::Directory,
            _ => What::Other,
        };
        // The others have no content, whatever their headers say.
        let has_content = !matches!(self.0[KIND.0], b'1'..=b'6');
        let said = extension.size.map_or_else(|| self.number(SIZE), Ok)?;
        Ok(Member {
            what,
            name,
            size: if has_content { said } else { 0 },
            modified: extension.modified.map_or_else(|| self.number(MODIFIED), Ok)?,
        })
    }
}

impl Extension {
    /// Reads the records of an extended header.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (key, value, rest) =
                first_record(bytes).ok_or_else(|| broken("an extended header is broken"))?;
            let value = String::from_utf8_lossy(value);
            match key {
                b"path" => self.name = Some(value.into_owned()),
                b"linkpath" => self.target = Some(value.into_owned()),
                b"size" => self.size = value.parse().ok(),
                b"mtime" => self.modified = value.split('.').next().and_then(|whole| whole.parse().ok()),
                _ => {}
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// Key, value, and what follows.
fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// The words of a field, to the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn broken(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn ends_too_soon() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the archive ends too soon")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<Member>> {
        let mut reader = Reader::new(bytes);
        let mut members = Vec::new();
        while let Some(member) = reader.member()? {
            members.push(member);
        }
        Ok(members)
    }

    fn member(what: What, name: &str) -> Member {
        Member {
            what,
            name: name.to_owned(),
            size: 0,
            modified: 1_700_000_000,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let long = format!("{}/{}", "d".repeat(140), "f".repeat(90));
        let members = [
            member(What::File, "a"),
            member(What::Directory, &format!("{}/", "d".repeat(99))),
            member(What::Link("../a".to_owned()), &long),
            member(What::SameAs("t".repeat(101)), &"ü".repeat(120)),
            member(What::Link("t".repeat(100)), &format!("{long}/{long}")),
        ];
        let mut bytes: Vec<u8> = members.iter().flat_map(Member::header).collect();
        assert_eq!(
            bytes.len(),
            (5 + 2 + 2) * BLOCK,
            "names in two fields need no more"
        );
        bytes.extend(end());
        assert_eq!(read(&bytes).unwrap(), members);
    }

    #[test]
    fn large_sizes_are_in_a_record() {
        let mut large = member(What::File, "large");
        large.size = 1 << 40;
        let header = large.header();
        assert_eq!(Reader::new(header.as_slice()).member().unwrap(), Some(large));
    }

    #[test]
    fn lengths_count_themselves() {
        for (value, length) in [
            (0, 8),
            (1, 9),
            (2, 11),
            (90, 99),
            (91, 101),
            (989, 999),
            (990, 1001),
        ] {
            let record = record("path", &"x".repeat(value));
            assert_eq!(record.len(), length, "{record}");
            assert!(record.starts_with(&format!("{length} path=")), "{record}");
        }
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let header = member(What::File, "a").header();
        let mut of_another_sum = header.clone();
        of_another_sum[0] ^= 1;
        let mut cut_off = member(What::File, "a");
        cut_off.size = 10;
        let mut large = member(What::File, "a").header();
        large[KIND.0] = b'x';
        let record = |record: &str| {
            let mut bytes = block(b'x', ("", "x"), "", record.len() as u64, 0).to_vec();
            bytes.extend(record.as_bytes());
            bytes.resize(2 * BLOCK, 0);
            bytes
        };
        for bytes in [
            &b"no archive"[..],
            &header[..100],
            &of_another_sum,
            &cut_off.header(),
            &[b'x'; BLOCK],
            &block(b'L', ("", "x"), "", MAX_EXTENSION + 1, 0),
            &record("99 path=x\n"),
            &record("9 path=x"),
            &record("x"),
            &record("18446744073709551616 a=b\n"),
            &record("0 a=b\n"),
        ] {
            assert!(read(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert_eq!(read(b"").unwrap(), []);
    }
}

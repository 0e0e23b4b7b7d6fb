//! Whether another program is of the same build as this one, by its file alone (elf(5)): running it to ask would cost more
//! than it is worth.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys::mark::{SECTION, own};

/// 64 bits, least significant byte first: what this runs on.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
/// Length of the file's header, and of a section's.
const HEADER: usize = 64;
/// Names of sections take a few hundred bytes.
const NAMES_LIMIT: u64 = 64 << 10;
/// No mark is longer.
const MARK_LIMIT: u64 = 256;

/// A file that is no program is of no build.
pub fn is_same_build(program: &File) -> io::Result<bool> {
    match mark(program) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        found => Ok(found?.as_deref() == Some(own())),
    }
}

fn mark(program: &File) -> io::Result<Option<Vec<u8>>> {
    let head = read(program, 0, HEADER as u64)?;
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let (table, count, names) = (number(&head, 40, 8), number(&head, 60, 2), number(&head, 62, 2));
    let sections = read(program, table, count * HEADER as u64)?;
    let mut sections = sections.chunks_exact(HEADER);
    let content = |section: &[u8], limit: u64| {
        let (offset, length) = (number(section, 24, 8), number(section, 32, 8));
        read(program, offset, length.min(limit))
    };
    let Some(names) = sections.clone().nth(usize::try_from(names).unwrap_or(usize::MAX)) else {
        return Ok(None);
    };
    let names = content(names, NAMES_LIMIT)?;
    let is_mark = |section: &&[u8]| {
        let name = usize::try_from(number(section, 0, 4)).ok();
        let name = name.and_then(|at| names.get(at..)).unwrap_or_default();
        name.strip_prefix(SECTION.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"\0"))
    };
    sections
        .find(is_mark)
        .map(|section| content(section, MARK_LIMIT))
        .transpose()
}

fn read(file: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The number in so many bytes of a header.
fn number(header: &[u8], at: usize, length: usize) -> u64 {
    let bytes = header[at..at + length].iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn is_same(path: &Path) -> bool {
        is_same_build(&File::open(path).unwrap()).unwrap()
    }

    #[test]
    fn a_program_of_the_same_sources_is_known_by_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("program");
        let this = std::env::current_exe().unwrap();
        assert!(is_same(&this));
        let mut bytes = fs::read(this).unwrap();
        let found = bytes.windows(own().len()).enumerate();
        let places: Vec<usize> = found.filter(|(_, w)| *w == own()).map(|(at, _)| at).collect();
        for at in places {
            bytes[at] ^= 1;
        }
        fs::write(&path, &bytes).unwrap();
        assert!(!is_same(&path), "of other sources");
        assert!(!is_same(Path::new("/bin/sh")));
    }

    #[test]
    fn what_is_no_program_is_of_no_build() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("program");
        let endless = [MAGIC, &[0xff; HEADER]].concat();
        for content in [&b""[..], b"#!/bin/sh\n", MAGIC, &[0; 100], &endless] {
            fs::write(&path, content).unwrap();
            let answer = is_same_build(&File::open(&path).unwrap());
            assert!(!answer.unwrap_or(false), "{content:?}");
        }
    }
}

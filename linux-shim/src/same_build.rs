//! Whether another program is of the same build as this one, by its file alone (elf(5)): running it to ask would cost more
//! than it is worth.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sys::mark::own;

const MAGIC: &[u8] = b"\x7fELF";

/// How much of a file is looked at: its headers and notes, with which it begins.
pub const BEGINNING: usize = 4096;

/// A file that is no program is of no build.
pub fn is_same_build(program: &File) -> io::Result<bool> {
    let mut bytes = [0; BEGINNING];
    let mut length = 0;
    while length < BEGINNING {
        match program.read_at(&mut bytes[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    let beginning = &bytes[..length];
    Ok(beginning.starts_with(MAGIC) && beginning.windows(own().len()).any(|part| part == own()))
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
        let script = [b"#!/bin/sh\n", own()].concat();
        for content in [&b""[..], b"#!/bin/sh\n", MAGIC, &[0; 100], &script] {
            fs::write(&path, content).unwrap();
            assert!(!is_same(&path), "{content:?}");
        }
    }
}

//! Finding out what lies at a path, and building the artifact for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::native::ConfigOverrides;
use super::{Artifact, ImageError, archive, layout, native, wasm};

/// Bytes that tell formats apart: a tar header's magic ends at 262.
const SNIFF_BYTES: usize = 512;

/// What a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Wasm,
    Executable,
    Directory,
    Layout,
    Archive,
}

/// Builds the artifact for what is at `path`. Blocking.
///
/// # Errors
/// The path holds nothing an image is made from, or cannot be read.
pub fn build(path: &Path, config: &ConfigOverrides) -> Result<Artifact, ImageError> {
    match detect(path)? {
        Source::Wasm => wasm::build(path),
        Source::Executable => native::from_executable(path, config),
        Source::Directory => native::from_directory(path, config),
        Source::Layout => layout::read(path),
        Source::Archive => archive::read(path),
    }
}

fn detect(path: &Path) -> Result<Source, ImageError> {
    let meta = std::fs::metadata(path).map_err(ImageError::io("read", path))?;
    if meta.is_dir() {
        let layout = path.join("oci-layout").is_file() && path.join("index.json").is_file();
        return Ok(if layout { Source::Layout } else { Source::Directory });
    }
    let mut head = Vec::new();
    let file = File::open(path).map_err(ImageError::io("open", path))?;
    file.take(SNIFF_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(ImageError::io("read", path))?;
    sniff(&head).map_err(|reason| ImageError::Source {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Tells a file's format by its first bytes, never by its name.
fn sniff(head: &[u8]) -> Result<Source, &'static str> {
    match head {
        [0, b'a', b's', b'm', ..] => Ok(Source::Wasm),
        [0x7f, b'E', b'L', b'F', ..] => Ok(Source::Executable),
        _ if head.get(257..262) == Some(b"ustar") => Ok(Source::Archive),
        [0x1f, 0x8b, ..] => Ok(Source::Archive),
        [b'#', b'!', ..] => Err("it is a script, which needs an interpreter in the image"),
        [b'(', ..] => Err("it is Wasm text; compile it to binary first, such as with wat2wasm"),
        [] => Err("it is empty"),
        _ => Err("its format is unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(sniff(&tar), Ok(Source::Archive));
        assert_eq!(sniff(b"\0asm\x01\0\0\0"), Ok(Source::Wasm));
        assert_eq!(sniff(b"\x7fELF\x02"), Ok(Source::Executable));
        assert_eq!(sniff(b"\x1f\x8b\x08"), Ok(Source::Archive));
        for bad in [&b""[..], b"#!/bin/sh\n", b"(module)", b"hello"] {
            assert!(sniff(bad).is_err());
        }
    }
}

//! What kind of Wasm a binary is, from its first eight bytes (core spec 5.5.16, component model `Binary.md`).

/// The two kinds of binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Module,
    Component,
}

/// Not a binary this host can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SniffError {
    #[error("not a WebAssembly binary: it does not begin with \\0asm")]
    NotWasm,
    #[error("WebAssembly text, not binary: convert it with `wasm-tools parse`")]
    Text,
    #[error("WebAssembly binary of an unknown version {version} and layer {layer}")]
    Unknown { version: u16, layer: u16 },
}

/// Reads the preamble.
///
/// # Errors
/// When it is none of ours.
pub fn sniff(bytes: &[u8]) -> Result<Kind, SniffError> {
    let Some(rest) = bytes.strip_prefix(b"\0asm") else {
        return Err(if bytes.trim_ascii_start().starts_with(b"(") {
            SniffError::Text
        } else {
            SniffError::NotWasm
        });
    };
    let Some(&[a, b, c, d]) = rest.get(..4) else {
        return Err(SniffError::NotWasm);
    };
    match (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])) {
        (1, 0) => Ok(Kind::Module),
        (0x0d, 1) => Ok(Kind::Component),
        (version, layer) => Err(SniffError::Unknown { version, layer }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preambles() {
        for (bytes, expected) in [
            (&b"\0asm\x01\0\0\0rest"[..], Ok(Kind::Module)),
            (b"\0asm\x0d\0\x01\0", Ok(Kind::Component)),
            (
                b"\0asm\x0a\0\x01\0",
                Err(SniffError::Unknown {
                    version: 10,
                    layer: 1,
                }),
            ),
            (b"\0asm\x01", Err(SniffError::NotWasm)),
            (b"\x7fELF\x02\x01\x01\0", Err(SniffError::NotWasm)),
            (b"", Err(SniffError::NotWasm)),
            (b" (module)", Err(SniffError::Text)),
        ] {
            assert_eq!(sniff(bytes), expected);
        }
    }
}

//! The little of ELF an image needs: which architecture, and whether it wants a dynamic loader (System V gABI,
//! chapters 4 and 5).

/// What an executable is.
#[derive(Debug, PartialEq, Eq)]
pub struct Elf {
    /// In Go's words, as image platforms name it.
    pub architecture: &'static str,
    /// Whether it names a program interpreter, which the image would have to hold.
    pub dynamic: bool,
}

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const PT_INTERP: u32 = 3;

/// Reads the headers of a 64-bit little-endian executable.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Elf, &'static str> {
    if bytes.get(4) != Some(&CLASS_64) || bytes.get(5) != Some(&LITTLE_ENDIAN) {
        return Err("only 64-bit little-endian executables are supported");
    }
    let architecture = match u16_at(bytes, 18).ok_or(TRUNCATED)? {
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        _ => return Err("its architecture is unknown"),
    };
    if !matches!(u16_at(bytes, 16), Some(2 | 3)) {
        return Err("it is an object file or core dump, not an executable");
    }
    let table = usize::try_from(u64_at(bytes, 32).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
    let size = usize::from(u16_at(bytes, 54).ok_or(TRUNCATED)?);
    let count = usize::from(u16_at(bytes, 56).ok_or(TRUNCATED)?);
    let mut dynamic = false;
    for index in 0..count {
        let at = index
            .checked_mul(size)
            .and_then(|offset| table.checked_add(offset))
            .ok_or(TRUNCATED)?;
        dynamic |= u32_at(bytes, at).ok_or(TRUNCATED)? == PT_INTERP;
    }
    Ok(Elf {
        architecture,
        dynamic,
    })
}

const TRUNCATED: &str = "its ELF headers are cut off";

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    field(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    field(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    field(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An executable with one program header of the given type.
    pub fn executable(machine: u16, segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&3_u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        bytes
    }

    #[test]
    fn static_and_dynamic_are_told_apart() {
        assert_eq!(
            parse(&executable(62, 1)),
            Ok(Elf {
                architecture: "amd64",
                dynamic: false
            })
        );
        assert_eq!(
            parse(&executable(183, PT_INTERP)),
            Ok(Elf {
                architecture: "arm64",
                dynamic: true
            })
        );
        assert!(parse(&executable(3, 1)).is_err());
        assert!(parse(b"\x7fELF").is_err());
        let mut cut = executable(62, 1);
        cut.truncate(66);
        assert_eq!(parse(&cut), Err(TRUNCATED));
        cut[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(parse(&cut), Err(TRUNCATED));
    }

    #[test]
    fn this_very_program_parses() {
        let me = std::fs::read("/proc/self/exe").unwrap();
        assert!(parse(&me).is_ok());
    }
}

//! The build of a program, in a section of its file: it can be read there without running the program.

use super::super::BUILD;

/// The section's name.
pub const SECTION: &str = ".amphipod.build";

const LENGTH: usize = BUILD.len();

// SAFETY: plain bytes, in a section that neither the linker nor the loader knows.
#[unsafe(link_section = ".amphipod.build")]
static MARK: [u8; LENGTH] = match BUILD.as_bytes().first_chunk() {
    Some(bytes) => *bytes,
    None => unreachable!(),
};

/// This program's own.
pub fn own() -> &'static [u8] {
    // Without this its bytes would be copied to where they are used, and the section left out.
    std::hint::black_box(&MARK)
}

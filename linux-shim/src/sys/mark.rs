//! The build of a program, as a note in its file (elf(5)): it can be read there without running the program. Linkers put notes of a
//! program's own at its beginning, where the loader would look for them.

use super::super::BUILD;

const NAME: [u8; 12] = *b"Amphipod\0\0\0\0";
const LENGTH: usize = BUILD.len();

/// As elf(5) has it: two lengths, a type, a name with its NUL, a description; padded to four bytes.
#[repr(C, align(4))]
pub struct Note {
    name_length: u32,
    length: u32,
    kind: u32,
    name: [u8; NAME.len()],
    build: [u8; LENGTH],
}

/// This program's own.
// SAFETY: plain bytes, in a section of the kind that its name and its content say.
#[unsafe(link_section = ".note.amphipod")]
pub static NOTE: Note = Note {
    name_length: b"Amphipod\0".len() as u32,
    length: LENGTH as u32,
    kind: 1,
    name: NAME,
    build: match BUILD.as_bytes().first_chunk() {
        Some(bytes) => *bytes,
        None => unreachable!(),
    },
};

/// Without what only pads it.
pub const NOTE_LENGTH: usize = std::mem::offset_of!(Note, build) + LENGTH;

/// Its bytes.
pub fn own() -> &'static [u8] {
    // Without this they would be copied to where they are used, and the section left out.
    let note = std::hint::black_box(&NOTE);
    // SAFETY: the note has no padding before the end of its last field, and is never written.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(note).cast(), NOTE_LENGTH) }
}

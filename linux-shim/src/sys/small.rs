//! `amphipod linux-shim oci` becomes the small program that lies beside it, before anything of the large one is relocated or initialised:
//! a millisecond of each command. It runs from a read-only mount then, as `guard.rs` says why. Whatever is in the way, the large one goes
//! on and does the same itself. Refuses to know what is asked for.

use std::arch::asm;
use std::mem::MaybeUninit;

use libc::{
    AT_EMPTY_PATH, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MS_PRIVATE, O_CLOEXEC,
    OPEN_TREE_CLONE, SYS_close, SYS_execveat, SYS_mount_setattr, SYS_open, SYS_open_tree, SYS_pread64,
    SYS_readlink,
};

use super::mark::{NOTE, NOTE_LENGTH};
use crate::same_build::BEGINNING;

const NAME: &[u8] = b"amphipod-linux-shim\0";
const EMPTY: &[u8] = b"\0";

/// Holds a path, and then the beginning of what is there.
type Buffer = MaybeUninit<[u8; BEGINNING]>;

/// Comes back where the call is another, or nothing could be done.
///
/// # Safety
/// `stack` is what the kernel made for this program: the count of its words, they, a null, its environment (System V ABI, AMD64, 3.4.1).
/// As nothing is relocated, this may call nothing but what is a part of this program's file, and not the C library, which is chosen by the
/// processor through pointers yet to be written. Compilers call it for copies and comparisons: so bytes are read one by one, as volatile.
pub unsafe extern "C" fn become_small(stack: *mut usize) {
    // SAFETY: the words are as many as the count says; what they point to ends with NUL.
    unsafe {
        let (count, words) = (*stack, stack.add(1));
        if count < 3 || !is(*words.add(1), b"linux-shim\0") || !is(*words.add(2), b"oci\0") {
            return;
        }
        let mut buffer = Buffer::uninit();
        let at = buffer.as_mut_ptr().cast();
        let Some(file) = beside(at) else { return };
        if is_of_this_build(file, at)
            && let Some(mount) = guarded(file)
        {
            let word = *words.add(1);
            *words.add(1) = *words;
            let environment = words.add(count + 1) as usize;
            let flags = AT_EMPTY_PATH as usize;
            call(
                SYS_execveat,
                [mount, address(EMPTY), words.add(1) as usize, environment, flags],
            );
            *words.add(1) = word;
            call(SYS_close, [mount, 0, 0, 0, 0]);
        }
        call(SYS_close, [file, 0, 0, 0, 0]);
    }
}

/// Opens what lies beside this program's file.
///
/// # Safety
/// `path` is a [`Buffer`]'s.
unsafe fn beside(path: *mut u8) -> Option<usize> {
    let room = BEGINNING - NAME.len();
    // SAFETY: what is read and written lies in the buffer: no more than `room`, and the name behind it.
    unsafe {
        let mut end = call(
            SYS_readlink,
            [address(b"/proc/self/exe\0"), path as usize, room, 0, 0],
        )?;
        while end > 0 && path.add(end - 1).read_volatile() != b'/' {
            end -= 1;
        }
        let mut at = 0;
        while at < NAME.len() {
            path.add(end + at)
                .write_volatile(NAME.as_ptr().add(at).read_volatile());
            at += 1;
        }
        call(SYS_open, [path as usize, O_CLOEXEC as usize, 0, 0, 0])
    }
}

/// As [`crate::is_same_build`], of an open file.
///
/// # Safety
/// `beginning` is a [`Buffer`]'s.
unsafe fn is_of_this_build(file: usize, beginning: *mut u8) -> bool {
    let own = (&raw const NOTE).cast::<u8>();
    // SAFETY: what is read lies in the note, or in what the kernel has written.
    unsafe {
        let Some(known) = call(SYS_pread64, [file, beginning as usize, BEGINNING, 0, 0]) else {
            return false;
        };
        let mut from = 0;
        while from + NOTE_LENGTH <= known {
            let mut same = 0;
            while same < NOTE_LENGTH
                && beginning.add(from + same).read_volatile() == own.add(same).read_volatile()
            {
                same += 1;
            }
            if same == NOTE_LENGTH {
                return true;
            }
            from += 1;
        }
    }
    false
}

/// A read-only mount of the file.
fn guarded(file: usize) -> Option<usize> {
    let attributes: [u64; 4] = [
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        0,
        MS_PRIVATE,
        0,
    ];
    let size = size_of_val(&attributes);
    let (empty, at) = (address(EMPTY), AT_EMPTY_PATH as usize);
    let flags = OPEN_TREE_CLONE as usize | O_CLOEXEC as usize | at;
    // SAFETY: the paths end with NUL; the attributes are a `struct mount_attr` (mount_setattr(2)), and live through the call.
    unsafe {
        let mount = call(SYS_open_tree, [file, empty, flags, 0, 0])?;
        call(
            SYS_mount_setattr,
            [mount, empty, at, attributes.as_ptr() as usize, size],
        )
        .map(|_| mount)
    }
}

/// Whether a word is this one, which ends with NUL.
///
/// # Safety
/// `word` points to bytes that end with NUL.
unsafe fn is(word: usize, wanted: &[u8]) -> bool {
    let mut at = 0;
    // SAFETY: no byte is read behind the word's first difference, nor behind its NUL.
    unsafe {
        while at < wanted.len() {
            let byte = wanted.as_ptr().add(at).read_volatile();
            if (word as *const u8).add(at).read_volatile() != byte {
                return false;
            }
            at += 1;
        }
    }
    true
}

fn address(text: &[u8]) -> usize {
    text.as_ptr() as usize
}

/// What the kernel answers, if it is no error.
///
/// # Safety
/// As of the call (syscall(2)).
unsafe fn call(number: i64, with: [usize; 5]) -> Option<usize> {
    let answer: isize;
    // SAFETY: the kernel's own convention (System V ABI, AMD64, A.2.1); the rest is the caller's.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") with[0], in("rsi") with[1], in("rdx") with[2],
            in("r10") with[3], in("r8") with[4], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    usize::try_from(answer).ok()
}

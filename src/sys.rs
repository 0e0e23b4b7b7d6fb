//! The binary's only unsafe code. Owns system interfaces no crate offers safely; refuses to know when they are used.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Takes the program's code out of this process's memory; what of it runs next is mapped again from the file. Does nothing
/// where pages of it were written to.
pub fn give_back_code() -> io::Result<()> {
    let maps = BufReader::new(std::fs::File::open("/proc/self/smaps")?);
    let here = give_back_code as fn() -> io::Result<()> as usize;
    let Some(code) = untouched_code(maps, here)? else {
        return Ok(());
    };
    let start = NonNull::new(std::ptr::with_exposed_provenance_mut::<c_void>(code.start));
    let start = start.ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the range is the mapping of this very function: a file's, executable, not writable, and nothing of it was
    // written. So the same bytes come back when they are touched: the kernel keeps a running program's file from being
    // written to (ETXTBSY, execve(2)).
    unsafe { madvise(start, code.len(), MmapAdvise::MADV_DONTNEED) }.map_err(io::Error::from)
}

/// The executable mapping around an address, unless it can be written or was: breakpoints and probes are pages of this
/// process alone (uprobes, ptrace) and would be gone. `maps` is as proc_pid_smaps(5) has it.
fn untouched_code(maps: impl BufRead, address: usize) -> io::Result<Option<Range<usize>>> {
    let mut found = None;
    for line in maps.lines() {
        let line = line?;
        match (&found, line.split_once(':')) {
            (Some(_), Some(("Anonymous", size))) => return Ok(found.filter(|_| size.trim() == "0 kB")),
            (None, _) => found = code_at(&line, address),
            _ => {}
        }
    }
    Ok(None)
}

/// The range of a mapping's first line (`55d0-55f0 r-xp 0000 fe:00 12 /usr/bin/x`) if it is code and has this address.
fn code_at(line: &str, address: usize) -> Option<Range<usize>> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let hexadecimal = |digits| usize::from_str_radix(digits, 16).ok();
    let range = hexadecimal(start)?..hexadecimal(end)?;
    (words.next()? == "r-xp" && range.contains(&address)).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "1000-3000 r--p 00000000 fe:00 12 /usr/bin/amphipod\nRss: 8 kB\nAnonymous: 0 kB\n";

    fn code(rights: &str, own: &str) -> String {
        format!(
            "{DATA}3000-9000 {rights} 00002000 fe:00 12 /usr/bin/amphipod\nRss: 24 kB\nAnonymous:             {own} kB\nSwap: 0 kB\n"
        )
    }

    #[test]
    fn only_code_that_nobody_wrote_to_is_given_back() {
        for (rights, own, address, want) in [
            ("r-xp", "0", 0x3000, Some(0x3000..0x9000)),
            ("r-xp", "0", 0x8fff, Some(0x3000..0x9000)),
            ("r-xp", "0", 0x9000, None),
            ("r-xp", "0", 0x1000, None),
            ("r-xp", "4", 0x3000, None),
            ("rwxp", "0", 0x3000, None),
            ("r-xs", "0", 0x3000, None),
        ] {
            let got = untouched_code(code(rights, own).as_bytes(), address).expect("reading");
            assert_eq!(got, want, "{rights} {own} {address:x}");
        }
    }

    #[test]
    fn the_program_goes_on_without_the_code_it_does_not_run() {
        let here = give_back_code as fn() -> io::Result<()> as usize;
        let own = || BufReader::new(std::fs::File::open("/proc/self/smaps").expect("smaps"));
        assert!(untouched_code(own(), here).expect("reading").is_some());
        for _ in 0..10 {
            give_back_code().expect("giving back");
        }
    }
}

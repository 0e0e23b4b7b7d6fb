//! One file or directory at a time: `mkdir`, `readlink`, `rmdir`, `stat`, `touch`.

use crate::date::timestamp;
use crate::world::{Seen, look};
use crate::{Call, Outcome};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::path::Path;
use std::time::SystemTime;

pub fn mkdir(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let parents = call.has('p');
    call.each(|call, path| {
        match parents {
            true => fs::create_dir_all(path)?,
            false => fs::create_dir(path)?,
        }
        call.verbose(|| format!("created directory '{}'", path.display()))
    })
}

pub fn rmdir(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let parents = call.has('p');
    call.each(|_, path| {
        fs::remove_dir(path)?;
        let above = path
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty());
        above.take_while(|_| parents).try_for_each(fs::remove_dir)
    })
}

pub fn readlink(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let end = if call.has('n') { "" } else { "\n" };
    call.each(|call, path| write!(call.out, "{}{end}", fs::read_link(path)?.display()))
}

/// What WASI tells of a file, or what is asked for of that.
pub fn stat(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let follow = call.has('L');
    let format = call.options.value('c').map(str::to_owned);
    call.each(|call, path| {
        let seen = look(path, follow)?;
        match &format {
            Some(format) => writeln!(call.out, "{}", filled(format, path, seen)?),
            None => writeln!(
                call.out,
                "  File: {}\n  Size: {}\n  Type: {}\nModify: {}",
                path.display(),
                seen.size,
                seen.kind.name(),
                timestamp(seen.modified)
            ),
        }
    })
}

/// `stat -c`, as far as there is something to tell.
fn filled(format: &str, path: &Path, seen: Seen) -> io::Result<String> {
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => out.push_str(&path.display().to_string()),
            Some('s') => out.push_str(&seen.size.to_string()),
            Some('F') => out.push_str(seen.kind.name()),
            Some('Y') => out.push_str(&seen.modified.to_string()),
            Some('y') => out.push_str(&timestamp(seen.modified)),
            Some('%') | None => out.push('%'),
            Some(other) => return Err(io::Error::other(format!("%{other} is not known of files here"))),
        }
    }
    Ok(out)
}

/// Both times are set by either option: the host tells of one that was read when it likes.
pub fn touch(call: &mut Call<'_>) -> Outcome {
    call.needs_operands(1)?;
    let create = !call.has('c');
    call.each(|_, path| {
        let opened = match path.is_dir() {
            true => File::open(path),
            false => OpenOptions::new().append(true).create(create).open(path),
        };
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !create => Ok(()),
            opened => {
                let now = SystemTime::now();
                opened?.set_times(FileTimes::new().set_accessed(now).set_modified(now))
            }
        }
    })
}

impl Call<'_> {
    /// Says what was done, to those who asked (`-v`).
    pub fn verbose(&mut self, done: impl FnOnce() -> String) -> io::Result<()> {
        match self.has('v') {
            true => writeln!(self.out, "{}: {}", self.name, done()),
            false => Ok(()),
        }
    }
}

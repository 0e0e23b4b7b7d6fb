//! Files with all that is beneath them: `cp`, `du`, `mv`, `rm`.

use crate::list::size;
use crate::world::{Kind, link, look, names};
use crate::{Call, Failure, Outcome, misuse};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The last operand, and what the others become if it is a directory.
fn target(call: &mut Call<'_>) -> Result<impl Fn(&Path) -> PathBuf + use<>, Failure> {
    call.needs_operands(2)?;
    let last = PathBuf::from(call.operands.pop().unwrap_or_default());
    let is_directory = look(&last, true).is_ok_and(|seen| seen.kind == Kind::Directory);
    if call.operands.len() > 1 && !is_directory {
        return misuse(format!("target '{}' is not a directory", last.display()));
    }
    Ok(move |from: &Path| match from.file_name() {
        Some(name) if is_directory => last.join(name),
        _ => last.clone(),
    })
}

pub fn copy(call: &mut Call<'_>) -> Outcome {
    let to = target(call)?;
    let recursive = call.last_of("rRa").is_some();
    let kept = call.last_of("pa").is_some();
    call.each(|call, from| {
        let to = to(from);
        if look(from, !recursive)?.kind == Kind::Directory && !recursive {
            return Err(io::Error::other("-r not specified; omitting directory"));
        }
        copy_tree(from, &to, !recursive, kept)?;
        call.verbose(|| format!("'{}' -> '{}'", from.display(), to.display()))
    })
}

fn copy_tree(from: &Path, to: &Path, follow: bool, keep_times: bool) -> io::Result<()> {
    match look(from, follow)?.kind {
        Kind::Directory => {
            let into_itself = to.starts_with(from) && to != from;
            if into_itself {
                return Err(io::Error::other(format!(
                    "cannot be copied into itself, '{}'",
                    to.display()
                )));
            }
            match fs::create_dir(to) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            names(from)?
                .iter()
                .try_for_each(|name| copy_tree(&from.join(name), &to.join(name), follow, keep_times))
        }
        Kind::Link => link(&fs::read_link(from)?.to_string_lossy(), to),
        Kind::File | Kind::Other => copy_file(from, to, keep_times),
    }
}

/// Without `fs::copy`, which copies modes that WASI has not.
fn copy_file(from: &Path, to: &Path, keep_times: bool) -> io::Result<()> {
    if is_same(from, to) {
        return Err(io::Error::other(format!(
            "and '{}' are the same file",
            to.display()
        )));
    }
    let mut source = File::open(from)?;
    let mut copy = File::create(to)?;
    io::copy(&mut source, &mut copy)?;
    match keep_times {
        true => copy.set_modified(source.metadata()?.modified()?),
        false => Ok(()),
    }
}

/// Whether two paths are of one file, as far as their words tell.
fn is_same(from: &Path, to: &Path) -> bool {
    from.components().eq(to.components())
}

pub fn rename(call: &mut Call<'_>) -> Outcome {
    let to = target(call)?;
    let keep = call.last_of("fn") == Some('n');
    call.each(|call, from| {
        let to = to(from);
        if keep && look(&to, false).is_ok() {
            return Ok(());
        }
        match fs::rename(from, &to) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                copy_tree(from, &to, false, true)?;
                remove_tree(from)?;
            }
            done => done?,
        }
        call.verbose(|| format!("renamed '{}' -> '{}'", from.display(), to.display()))
    })
}

pub fn remove(call: &mut Call<'_>) -> Outcome {
    let force = call.has('f');
    if !force {
        call.needs_operands(1)?;
    }
    let recursive = call.last_of("rR").is_some();
    let empty = call.has('d');
    call.each(|call, path| {
        match look(path, false) {
            Err(error) if error.kind() == ErrorKind::NotFound && force => return Ok(()),
            Err(error) => return Err(error),
            Ok(seen) if seen.kind != Kind::Directory => fs::remove_file(path)?,
            Ok(_) if recursive => remove_tree(path)?,
            Ok(_) if empty => fs::remove_dir(path)?,
            Ok(_) => return Err(ErrorKind::IsADirectory.into()),
        }
        call.verbose(|| format!("removed '{}'", path.display()))
    })
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match look(path, false)?.kind {
        Kind::Directory => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    }
}

/// Bytes as files say them: WASI does not tell what they take of a disk.
pub fn usage(call: &mut Call<'_>) -> Outcome {
    if call.operands.is_empty() {
        call.operands.push(".".to_owned());
    }
    let mut total = 0;
    let status = call.each(|call, path| {
        total += measure(call, path, true)?;
        Ok(())
    })?;
    if call.has('c') {
        tell(call, total, Path::new("total"))?;
    }
    Ok(status)
}

fn measure(call: &mut Call<'_>, path: &Path, is_operand: bool) -> io::Result<u64> {
    let seen = look(path, false)?;
    let mut bytes = seen.size;
    if seen.kind == Kind::Directory {
        for name in names(path)? {
            bytes += measure(call, &path.join(name), false)?;
        }
    }
    let is_shown = is_operand || !call.has('s') && (seen.kind == Kind::Directory || call.has('a'));
    if is_shown {
        tell(call, bytes, path)?;
    }
    Ok(bytes)
}

fn tell(call: &mut Call<'_>, bytes: u64, path: &Path) -> io::Result<()> {
    let size = match call.has('h') {
        true => size(bytes),
        false => bytes.div_ceil(1024).to_string(),
    };
    writeln!(call.out, "{size}\t{}", path.display())
}

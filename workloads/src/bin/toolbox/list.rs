//! `ls`. Of a file's line there is what WASI tells: its kind, size and time, no mode and no owner.

use crate::date::timestamp;
use crate::world::{Kind, Seen, look, names};
use crate::{Call, Outcome};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Something to be shown.
struct Entry {
    name: String,
    path: PathBuf,
    seen: Seen,
}

pub fn ls(call: &mut Call<'_>) -> Outcome {
    if call.operands.is_empty() {
        call.operands.push(".".to_owned());
    }
    let several = call.operands.len() > 1 || call.has('R');
    let follow = call.last_of("dlFn").is_none();
    let (mut plain, mut directories) = (Vec::new(), Vec::new());
    let status = call.each(|call, path| {
        let seen = look(path, follow).or_else(|_| look(path, false))?;
        let entry = Entry {
            name: path.display().to_string(),
            path: path.to_owned(),
            seen,
        };
        let opened = seen.kind == Kind::Directory && !call.has('d');
        if opened { &mut directories } else { &mut plain }.push(entry);
        Ok(())
    })?;
    let nothing_before = plain.is_empty();
    show(call, plain)?;
    order(call, &mut directories);
    call.operands = directories.into_iter().map(|entry| entry.name).collect();
    let mut first = nothing_before;
    let listed = call.each(|call, path| list(call, path, several, &mut first))?;
    Ok(status.max(listed))
}

fn list(call: &mut Call<'_>, directory: &Path, titled: bool, first: &mut bool) -> io::Result<()> {
    let entries = entries(call, directory)?;
    if titled {
        let gap = if *first { "" } else { "\n" };
        writeln!(call.out, "{gap}{}:", directory.display())?;
    }
    *first = false;
    let mut below: Vec<Entry> = Vec::new();
    if call.has('R') {
        let real = |entry: &&Entry| {
            entry.seen.kind == Kind::Directory && ![".", ".."].contains(&entry.name.as_str())
        };
        below = entries.iter().filter(real).map(Entry::copied).collect();
        order(call, &mut below);
    }
    show(call, entries)?;
    below
        .iter()
        .try_for_each(|entry| list(call, &entry.path, titled, first))
}

impl Entry {
    fn copied(&self) -> Self {
        Self {
            name: self.name.clone(),
            path: self.path.clone(),
            seen: self.seen,
        }
    }
}

fn entries(call: &Call<'_>, directory: &Path) -> io::Result<Vec<Entry>> {
    let hidden = call.last_of("aA");
    let mut names = names(directory)?;
    names.retain(|name| hidden.is_some() || !name.starts_with('.'));
    if hidden == Some('a') {
        names.extend([".".to_owned(), "..".to_owned()]);
    }
    let mut entries = Vec::new();
    for name in names {
        let path = directory.join(&name);
        // What is above the first directory of a guest cannot be looked at.
        let seen = look(&path, false).or_else(|_| look(directory, false))?;
        entries.push(Entry { name, path, seen });
    }
    Ok(entries)
}

fn order(call: &Call<'_>, entries: &mut [Entry]) {
    match call.last_of("StU") {
        Some('U') => return,
        Some('S') => entries.sort_by(|a, b| b.seen.size.cmp(&a.seen.size).then_with(|| a.name.cmp(&b.name))),
        Some(_) => entries.sort_by(|a, b| {
            b.seen
                .modified
                .cmp(&a.seen.modified)
                .then_with(|| a.name.cmp(&b.name))
        }),
        None => entries.sort_by(|a, b| a.name.cmp(&b.name)),
    }
    if call.has('r') {
        entries.reverse();
    }
}

fn show(call: &mut Call<'_>, mut entries: Vec<Entry>) -> io::Result<()> {
    order(call, &mut entries);
    let long = call.last_of("ln").is_some();
    for entry in entries {
        let Entry { name, path, seen } = entry;
        let mark = match (seen.kind, call.last_of("Fp")) {
            (Kind::Directory, Some(_)) if !name.ends_with('/') => "/",
            (Kind::Link, Some('F')) if !long => "@",
            _ => "",
        };
        if !long {
            writeln!(call.out, "{name}{mark}")?;
            continue;
        }
        let target =
            fs::read_link(&path).map_or_else(|_| String::new(), |to| format!(" -> {}", to.display()));
        let size = if call.has('h') {
            size(seen.size)
        } else {
            seen.size.to_string()
        };
        let (kind, changed) = (seen.kind.name(), timestamp(seen.modified));
        writeln!(call.out, "{kind:<9} {size:>10} {changed} {name}{mark}{target}")?;
    }
    Ok(())
}

/// Bytes for people, rounded up as `ls -h` has it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 {
        tenths = tenths.div_ceil(1024);
        unit += 1;
    }
    match tenths {
        _ if unit == 0 => bytes.to_string(),
        0..100 => format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit]),
        _ => format!("{}{}", tenths.div_ceil(10), UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1536, "1.5K"),
            (10 << 20, "10M"),
            ((10 << 20) + 1, "11M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}

//! Variables from files of a Pod's own (`fileKeyRef`, KEP-3721): `NAME='value'` lines of an emptyDir that an earlier
//! container wrote. The file's author is the Pod: it leads nowhere out of its volume, and holds nobody up.

use std::fs::File;
use std::io::{self, Read};
use std::iter::Enumerate;
use std::path::Path;
use std::str::Lines;

use k8s_openapi::api::core::v1::{FileKeySelector, Volume};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::{EnvError, Sources};
use crate::pods::uses::Uses;

/// Longest file that is read: as much as an environment can hold.
const MAX_BYTES: u64 = 2 << 20;

/// The value that a file gives a key. One that is empty is none, as upstream.
pub fn value(key: &FileKeySelector, sources: &Sources<'_>) -> Result<Option<String>, EnvError> {
    let name = &key.volume_name;
    let pod = sources.facts.pod;
    // One that no container shows is not made.
    let volumes = Uses::of(pod).among(pod);
    let is_it = |volume: &&Volume| volume.name == *name && volume.empty_dir.is_some();
    if !volumes.iter().any(is_it) {
        return Err(EnvError::NoVolume(name.clone()));
    }
    let volume = sources.volumes.join(name);
    let refused = |why: String| {
        tracing::warn!(
            why,
            volume = name,
            path = key.path,
            "a file of variables cannot be read"
        );
        EnvError::File
    };
    let text = read(&volume, &key.path).map_err(|error| refused(error.to_string()))?;
    let found = parse(&text, &key.key).map_err(refused)?;
    match found.filter(|value| !value.is_empty()) {
        None if key.optional != Some(true) => Err(EnvError::NoFileKey {
            key: key.key.clone(),
            file: volume.join(&key.path).display().to_string(),
        }),
        found => Ok(found),
    }
}

fn read(volume: &Path, path: &str) -> io::Result<String> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let volume = rustix::fs::openat(CWD, volume, flags, Mode::empty())?;
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(&volume, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_BYTES {
        true => Err(io::Error::other(format!("it is longer than {MAX_BYTES} bytes"))),
        false => Ok(text),
    }
}

/// The value of `key`; what comes after it is not looked at.
fn parse(text: &str, key: &str) -> Result<Option<String>, String> {
    let wrong = |number: usize, what: &str| {
        let line = number + 1;
        Err(format!(
            "invalid environment variable format at line {line}: {what}"
        ))
    };
    let blank = [' ', '\t'];
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return wrong(number, "missing '='");
        };
        if name.is_empty() {
            return wrong(number, "empty variable name");
        }
        if name.ends_with(blank) {
            return wrong(number, "whitespace before '=' is not allowed");
        }
        let value = match value.strip_prefix('\'') {
            Some(quoted) => match unquote(quoted, &mut lines) {
                Some(value) => value,
                None => {
                    return wrong(
                        number,
                        "no single quote that ends the value, or something behind it",
                    );
                }
            },
            // As in a shell: an assignment of nothing, and a command.
            None if value.starts_with(blank) => String::new(),
            None => return wrong(number, "value must be enclosed in single quotes"),
        };
        if name == key {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// What is before the closing quote, maybe lines below; behind it there is at most a comment.
fn unquote(first: &str, lines: &mut Enumerate<Lines<'_>>) -> Option<String> {
    let mut value = String::new();
    let mut line = first;
    loop {
        if let Some((last, behind)) = line.split_once('\'') {
            value.push_str(last);
            let behind = behind.trim_start_matches([' ', '\t']);
            return (behind.is_empty() || behind.starts_with('#')).then_some(value);
        }
        value.push_str(line);
        value.push('\n');
        (_, line) = lines.next()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says() {
        let text = "# who\n\n  A='a'  # first\nTWO='one\ntwo'\nEMPTY= 'x'\nQ=''\nA='later'\r\nBAD=x\n";
        let of = |key| parse(text, key);
        let ok = |value: &str| Ok(Some(value.to_owned()));
        assert_eq!(of("A"), ok("a"));
        assert_eq!(of("TWO"), ok("one\ntwo"));
        assert_eq!(of("EMPTY"), ok(""));
        assert_eq!(of("Q"), ok(""));
        assert!(
            of("NOPE").unwrap_err().contains("line 9"),
            "it is read to its end"
        );
        for bad in ["A", "='a'", "A ='a'", "A=a", "A='a", "A='a'b", "A=\"a\""] {
            assert!(parse(bad, "A").is_err(), "{bad}");
        }
        assert_eq!(parse("B='b'\n", "A"), Ok(None));
    }
}

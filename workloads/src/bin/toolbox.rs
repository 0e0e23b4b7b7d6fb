//! The commands `kubectl exec` finds in a Wasm container: small, in the container's own world, without a shell.
//!
//! `toolbox NAME ARGS…` runs the command NAME. Each says what it could not do on stderr and ends with 1; what is
//! not known ends with 127, as a shell would. Refuses to change anything but by `rm`, `mkdir` and `tee`.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

/// Exit status of a command that is not there (POSIX shell, 2.8.2).
const NOT_FOUND: u8 = 127;

/// What a command answers: whether everything asked for was done.
type Outcome = io::Result<bool>;

/// A word and what it runs.
type Command = (&'static str, fn(&[String]) -> Outcome);

const COMMANDS: &[Command] = &[
    ("cat", cat),
    ("date", date),
    ("echo", echo),
    ("env", env),
    ("false", |_| Ok(false)),
    ("head", head),
    ("ls", ls),
    ("mkdir", mkdir),
    ("printenv", env),
    ("pwd", pwd),
    ("rm", rm),
    ("stat", stat),
    ("tee", tee),
    ("true", |_| Ok(true)),
    ("wc", wc),
];

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    let Some((_, command)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = COMMANDS.iter().map(|(known, _)| *known).collect();
        complain(&name, &format!("not found; there are: {}", known.join(" ")));
        return ExitCode::from(NOT_FOUND);
    };
    match command(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&name, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn complain(name: &str, why: &str) {
    eprintln!("{name}: {why}");
}

/// Does one thing for each path, or for the current directory; complains of those that fail and goes on.
fn each(name: &str, paths: &[String], mut work: impl FnMut(&Path) -> io::Result<()>) -> Outcome {
    let mut all = true;
    for path in paths {
        if let Err(error) = work(Path::new(path)) {
            complain(name, &format!("{path}: {error}"));
            all = false;
        }
    }
    Ok(all)
}

/// Splits words into flags' letters and the rest; `--` ends the flags.
fn flags(args: &[String]) -> (String, Vec<String>) {
    let mut letters = String::new();
    let mut rest = Vec::new();
    let mut words = args.iter();
    for word in words.by_ref() {
        match word.strip_prefix('-') {
            Some("-") => break,
            Some(flags) if !flags.is_empty() => letters.push_str(flags),
            _ => rest.push(word.clone()),
        }
    }
    rest.extend(words.cloned());
    (letters, rest)
}

fn cat(args: &[String]) -> Outcome {
    let (_, paths) = flags(args);
    let mut out = io::stdout().lock();
    if paths.is_empty() {
        return io::copy(&mut io::stdin().lock(), &mut out).map(|_| true);
    }
    each("cat", &paths, |path| {
        if path == Path::new("-") {
            return io::copy(&mut io::stdin().lock(), &mut out).map(drop);
        }
        io::copy(&mut File::open(path)?, &mut out).map(drop)
    })
}

fn date(_: &[String]) -> Outcome {
    let since = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    writeln!(io::stdout(), "{}", timestamp(since.as_secs()))?;
    Ok(true)
}

fn echo(args: &[String]) -> Outcome {
    let (newline, words) = match args.first().map(String::as_str) {
        Some("-n") => ("", &args[1..]),
        _ => ("\n", args),
    };
    write!(io::stdout(), "{}{newline}", words.join(" "))?;
    Ok(true)
}

fn env(args: &[String]) -> Outcome {
    let mut out = io::stdout().lock();
    if args.is_empty() {
        for (name, value) in std::env::vars() {
            writeln!(out, "{name}={value}")?;
        }
        return Ok(true);
    }
    let mut all = true;
    for name in args {
        match std::env::var(name) {
            Ok(value) => writeln!(out, "{value}")?,
            Err(_) => all = false,
        }
    }
    Ok(all)
}

fn head(args: &[String]) -> Outcome {
    let mut bytes = Vec::new();
    const LINES: usize = 10;
    match args.last() {
        Some(path) => File::open(path)?.read_to_end(&mut bytes)?,
        None => io::stdin().lock().read_to_end(&mut bytes)?,
    };
    let mut out = io::stdout().lock();
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take(LINES) {
        out.write_all(line)?;
    }
    Ok(true)
}

fn ls(args: &[String]) -> Outcome {
    let (letters, mut paths) = flags(args);
    if paths.is_empty() {
        paths.push(here());
    }
    let (long, all) = (letters.contains('l'), letters.contains('a'));
    let titled = paths.len() > 1;
    each("ls", &paths, |path| {
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            return entry(path, &path.display().to_string(), long);
        }
        if titled {
            writeln!(io::stdout(), "{}:", path.display())?;
        }
        for name in names(path, all)? {
            entry(&path.join(&name), &name, long)?;
        }
        Ok(())
    })
}

/// A guest without a root directory stands where its first preopened directory is; `.` is not always there.
fn here() -> String {
    std::env::current_dir().map_or_else(|_| ".".to_owned(), |path| path.display().to_string())
}

fn names(directory: &Path, all: bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for found in fs::read_dir(directory)? {
        let name = found?.file_name().to_string_lossy().into_owned();
        if all || !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn entry(path: &Path, name: &str, long: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if !long {
        return writeln!(out, "{name}");
    }
    let metadata = fs::symlink_metadata(path)?;
    let target = fs::read_link(path).map_or_else(|_| String::new(), |to| format!(" -> {}", to.display()));
    let changed = timestamp(modified(&metadata));
    writeln!(
        out,
        "{} {:>10} {changed} {name}{target}",
        kind(&metadata),
        metadata.len()
    )
}

fn kind(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        "directory"
    } else if file_type.is_symlink() {
        "link     "
    } else if file_type.is_file() {
        "file     "
    } else {
        "other    "
    }
}

fn modified(metadata: &Metadata) -> u64 {
    let time = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.unwrap_or_default().as_secs()
}

fn mkdir(args: &[String]) -> Outcome {
    let (letters, paths) = flags(args);
    each("mkdir", &paths, |path| {
        if letters.contains('p') {
            fs::create_dir_all(path)
        } else {
            fs::create_dir(path)
        }
    })
}

fn pwd(_: &[String]) -> Outcome {
    writeln!(io::stdout(), "{}", std::env::current_dir()?.display())?;
    Ok(true)
}

fn rm(args: &[String]) -> Outcome {
    let (letters, paths) = flags(args);
    let recursive = letters.contains('r') || letters.contains('R');
    each("rm", &paths, |path| match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && letters.contains('f') => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() && recursive => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    })
}

fn stat(args: &[String]) -> Outcome {
    each("stat", args, |path| {
        let metadata = fs::symlink_metadata(path)?;
        let changed = timestamp(modified(&metadata));
        writeln!(
            io::stdout(),
            "  File: {}\n  Size: {}\n  Type: {}\nModify: {changed}",
            path.display(),
            metadata.len(),
            kind(&metadata).trim_end(),
        )
    })
}

fn tee(args: &[String]) -> Outcome {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    io::stdout().write_all(&bytes)?;
    each("tee", args, |path| fs::write(path, &bytes))
}

fn wc(args: &[String]) -> Outcome {
    let count = |bytes: &[u8], name: &str| {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let words = bytes
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .count();
        writeln!(io::stdout(), "{lines:>7} {words:>7} {:>7} {name}", bytes.len())
    };
    let paths: Vec<PathBuf> = args.iter().map(PathBuf::from).collect();
    if paths.is_empty() {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes)?;
        return count(&bytes, "").map(|()| true);
    }
    each("wc", args, |path| {
        count(&fs::read(path)?, &path.display().to_string())
    })
}

/// Seconds since 1970 as RFC 3339 in UTC (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn flags_and_words() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(flags(&words("-la x -r")), ("lar".to_owned(), words("x")));
        assert_eq!(flags(&words("-a -- -x")), ("a".to_owned(), words("-x")));
    }
}

//! Looking at text: `cat`, `head`, `tail`, `tee`, `wc`.
//!
//! Nothing is read as a whole: a log may be larger than the memory of its container.

use crate::{Call, Failure, Outcome, complain, misuse, words};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lines that `head` and `tail` show unless told otherwise.
const LINES: usize = 10;

/// One read.
const CHUNK: usize = 32 << 10;

/// How often a file that is followed is looked at, as `tail` elsewhere.
const FOLLOW: Duration = Duration::from_secs(1);

/// Opens a file to read; `-` is standard input.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::with_capacity(CHUNK, File::open(path)?)))
}

impl Call<'_> {
    /// Without operands a filter reads standard input.
    pub fn or_input(&mut self) {
        if self.operands.is_empty() {
            self.operands.push("-".to_owned());
        }
    }

    /// Writes what `head` and `tail` put above each of several files.
    fn title(&mut self, path: &Path, titled: bool, first: &mut bool) -> io::Result<()> {
        let gap = if std::mem::take(first) { "" } else { "\n" };
        match titled {
            true => writeln!(self.out, "{gap}==> {} <==", path.display()),
            false => Ok(()),
        }
    }

    fn is_titled(&self) -> bool {
        match self.last_of("qv") {
            Some(letter) => letter == 'v',
            None => self.operands.len() > 1,
        }
    }
}

/// Passes bytes on as they come, since whoever writes them may wait for an answer.
fn pass(from: &mut dyn BufRead, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        to(bytes)?;
        let length = bytes.len();
        from.consume(length);
    }
}

fn show(call: &mut Call<'_>, from: &mut dyn BufRead) -> io::Result<()> {
    pass(from, |bytes| {
        call.out.write_all(bytes)?;
        call.out.flush()
    })
}

pub fn cat(call: &mut Call<'_>) -> Outcome {
    call.or_input();
    let numbered = call.last_of("bn");
    let mut count = 0;
    call.each(|call, path| {
        let mut from = open(path)?;
        match numbered {
            None => show(call, &mut from),
            Some(letter) => number(call, &mut from, letter == 'n', &mut count),
        }
    })
}

fn number(call: &mut Call<'_>, from: &mut dyn BufRead, blank_too: bool, count: &mut u64) -> io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        if blank_too || line != b"\n" {
            *count += 1;
            write!(call.out, "{count:>6}\t")?;
        }
        call.out.write_all(&line)?;
        call.out.flush()?;
        line.clear();
    }
    Ok(())
}

/// How much of a file is shown.
#[derive(Clone, Copy)]
enum Amount {
    Lines(usize),
    Bytes(u64),
}

/// How much is asked for, and whether it is counted from the beginning.
fn amount(call: &Call<'_>) -> Result<(Amount, bool), Failure> {
    let letter = call.last_of("cn");
    let Some((letter, value)) = letter.and_then(|letter| Some((letter, call.options.value(letter)?))) else {
        return Ok((Amount::Lines(LINES), false));
    };
    let from_start = value.starts_with('+') && call.name == "tail";
    let digits = if from_start { &value[1..] } else { value };
    let what = if letter == 'c' { "bytes" } else { "lines" };
    let Ok(number) = digits.trim_start_matches('-').parse() else {
        return misuse(format!("invalid number of {what}: '{value}'"));
    };
    if digits.starts_with('-') && call.name == "head" {
        return misuse(format!("invalid number of {what}: '{value}'"));
    }
    let amount = match letter {
        'c' => Amount::Bytes(number),
        _ => Amount::Lines(usize::try_from(number).unwrap_or(usize::MAX)),
    };
    Ok((amount, from_start))
}

/// `head -5` is `head -n 5`.
pub fn written_out(mut args: Vec<String>) -> Vec<String> {
    let digits = args.first().and_then(|first| first.strip_prefix('-'));
    let digits =
        digits.filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(digits) = digits.map(str::to_owned) {
        args.splice(..1, ["-n".to_owned(), digits]);
    }
    args
}

pub fn head(call: &mut Call<'_>) -> Outcome {
    let (amount, _) = amount(call)?;
    call.or_input();
    let titled = call.is_titled();
    let mut first = true;
    call.each(|call, path| {
        let mut from = open(path)?;
        call.title(path, titled, &mut first)?;
        match amount {
            Amount::Bytes(bytes) => show(call, &mut BufReader::new(from.take(bytes))),
            Amount::Lines(lines) => head_lines(call, &mut from, lines),
        }
    })
}

fn head_lines(call: &mut Call<'_>, from: &mut dyn BufRead, lines: usize) -> io::Result<()> {
    let mut line = Vec::new();
    for _ in 0..lines {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        call.out.write_all(&line)?;
        call.out.flush()?;
    }
    Ok(())
}

pub fn tail(call: &mut Call<'_>) -> Outcome {
    let (amount, from_start) = amount(call)?;
    call.or_input();
    let titled = call.is_titled();
    let mut first = true;
    let mut files = Vec::new();
    let status = call.each(|call, path| {
        if path == Path::new("-") {
            call.title(path, titled, &mut first)?;
            return end_of(call, &mut io::stdin().lock(), amount, from_start);
        }
        let file = File::open(path)?;
        call.title(path, titled, &mut first)?;
        end_of(
            call,
            &mut BufReader::with_capacity(CHUNK, &file),
            amount,
            from_start,
        )?;
        files.push((path.to_owned(), file));
        Ok(())
    })?;
    match call.has('f') {
        true => follow(call, files, titled),
        false => Ok(status),
    }
}

fn end_of(call: &mut Call<'_>, from: &mut dyn BufRead, amount: Amount, from_start: bool) -> io::Result<()> {
    match (amount, from_start) {
        (Amount::Lines(lines), false) => return last_lines(call, from, lines),
        (Amount::Bytes(bytes), false) => return last_bytes(call, from, bytes),
        (Amount::Lines(lines), true) => skip_lines(from, lines.saturating_sub(1))?,
        (Amount::Bytes(bytes), true) => {
            io::copy(&mut from.take(bytes.saturating_sub(1)), &mut io::sink())?;
        }
    }
    show(call, from)
}

fn skip_lines(from: &mut dyn BufRead, lines: usize) -> io::Result<()> {
    let mut line = Vec::new();
    for _ in 0..lines {
        line.clear();
        from.read_until(b'\n', &mut line)?;
    }
    Ok(())
}

fn last_lines(call: &mut Call<'_>, from: &mut dyn BufRead, lines: usize) -> io::Result<()> {
    let mut kept = VecDeque::new();
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        kept.push_back(line);
        if kept.len() > lines {
            kept.pop_front();
        }
    }
    kept.iter().try_for_each(|line| call.out.write_all(line))
}

fn last_bytes(call: &mut Call<'_>, from: &mut dyn BufRead, bytes: u64) -> io::Result<()> {
    let most = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut kept = VecDeque::new();
    pass(from, |bytes| {
        kept.extend(bytes);
        let surplus = kept.len().saturating_sub(most);
        kept.drain(..surplus);
        Ok(())
    })?;
    call.out.write_all(kept.make_contiguous())
}

/// Shows what is added to files that were read to their end, until somebody ends it.
fn follow(call: &mut Call<'_>, mut files: Vec<(PathBuf, File)>, titled: bool) -> Outcome {
    while !files.is_empty() {
        call.out.flush()?;
        rest(FOLLOW);
        for (path, file) in &mut files {
            if file.metadata()?.len() < file.stream_position()? {
                complain(call.name, &format!("{}: file truncated", path.display()));
                file.rewind()?;
            }
            let mut added = BufReader::with_capacity(CHUNK, &*file);
            if !added.fill_buf()?.is_empty() {
                call.title(path, titled, &mut false)?;
                show(call, &mut added)?;
            }
        }
    }
    Ok(1)
}

#[expect(
    clippy::disallowed_methods,
    reason = "WASI tells of no changes to files, and sleep sleeps"
)]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}

pub fn tee(call: &mut Call<'_>) -> Outcome {
    let append = call.has('a');
    let mut files = Vec::new();
    let mut status = call.each(|_, path| {
        let mut options = OpenOptions::new();
        let options = options.create(true).write(true).append(append).truncate(!append);
        files.push((path.display().to_string(), options.open(path)?));
        Ok(())
    })?;
    pass(&mut io::stdin().lock(), |bytes| {
        call.out.write_all(bytes)?;
        call.out.flush()?;
        files.retain_mut(|(path, file)| match file.write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                complain(call.name, &format!("{path}: {}", words(&error)));
                status = 1;
                false
            }
        });
        Ok(())
    })?;
    Ok(status)
}

/// Lines, words, characters, bytes.
type Counts = [u64; 4];

/// The letters of the counts.
const COUNTED: &str = "lwmc";

fn count(from: &mut dyn BufRead) -> io::Result<Counts> {
    let mut counts = [0; 4];
    let mut in_word = false;
    pass(from, |bytes| {
        for byte in bytes {
            let is_space = byte.is_ascii_whitespace() || *byte == 0x0b;
            counts[0] += u64::from(*byte == b'\n');
            counts[1] += u64::from(!is_space && !in_word);
            // Bytes that go on with a character of UTF-8 do not begin one.
            counts[2] += u64::from(byte & 0xc0 != 0x80);
            in_word = !is_space;
        }
        counts[3] += bytes.len() as u64;
        Ok(())
    })?;
    Ok(counts)
}

pub fn wc(call: &mut Call<'_>) -> Outcome {
    let asked = COUNTED.chars().any(|letter| call.has(letter));
    let shown: Vec<bool> = COUNTED
        .chars()
        .map(|letter| if asked { call.has(letter) } else { letter != 'm' })
        .collect();
    let several = call.operands.len() > 1;
    let nameless = call.operands.is_empty();
    call.or_input();
    let mut total = [0; 4];
    let status = call.each(|call, path| {
        let counts = count(&mut open(path)?)?;
        for (total, count) in total.iter_mut().zip(counts) {
            *total += count;
        }
        let name = if nameless {
            String::new()
        } else {
            path.display().to_string()
        };
        writeln!(call.out, "{}", row(&counts, &shown, &name))
    })?;
    if several {
        writeln!(call.out, "{}", row(&total, &shown, "total"))?;
    }
    Ok(status)
}

/// A single count stands alone, several are in columns.
fn row(counts: &Counts, shown: &[bool], name: &str) -> String {
    let columns: Vec<&u64> = counts
        .iter()
        .zip(shown)
        .filter(|(_, shown)| **shown)
        .map(|(count, _)| count)
        .collect();
    let width = if columns.len() > 1 { 7 } else { 0 };
    let mut row: Vec<String> = columns.iter().map(|count| format!("{count:>width$}")).collect();
    if !name.is_empty() {
        row.push(name.to_owned());
    }
    row.join(" ")
}

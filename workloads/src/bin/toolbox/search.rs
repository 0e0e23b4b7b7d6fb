//! `grep`.

use crate::pattern::{Pattern, Syntax, is_word};
use crate::text::open;
use crate::world::{Kind, look, names};
use crate::{Call, Failure, Outcome, complain, misuse, words};
use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::path::Path;

/// What is looked for, and what is said of it.
struct Search {
    patterns: Vec<Pattern>,
    whole_line: bool,
    whole_word: bool,
    invert: bool,
    most: usize,
    before: usize,
    after: usize,
    named: bool,
    recursive: bool,
    /// Whether links are followed that are found on the way.
    through_links: bool,
    quiet: bool,
    silent: bool,
}

/// How a search went so far.
#[derive(Default)]
struct Progress {
    found: bool,
    failed: bool,
}

pub fn grep(call: &mut Call<'_>) -> Outcome {
    let search = Search::read(call)?;
    if call.operands.is_empty() {
        call.operands
            .push(if search.recursive { "." } else { "-" }.to_owned());
    }
    let mut progress = Progress::default();
    for operand in std::mem::take(&mut call.operands) {
        search.path(call, Path::new(&operand), &mut progress)?;
    }
    Ok(match progress {
        Progress { found: true, failed } if search.quiet || !failed => 0,
        Progress { failed: true, .. } => 2,
        _ => 1,
    })
}

impl Search {
    fn read(call: &mut Call<'_>) -> Result<Self, Failure> {
        let mut texts: Vec<String> = call.options.values('e').map(str::to_owned).collect();
        if texts.is_empty() {
            if call.operands.is_empty() {
                return misuse("a pattern is missing");
            }
            texts.push(call.operands.remove(0));
        }
        let syntax = match call.last_of("EFG") {
            Some('E') => Syntax::Extended,
            Some('F') => Syntax::Fixed,
            _ => Syntax::Basic,
        };
        let fold = call.last_of("iy").is_some();
        let patterns = texts.iter().flat_map(|text| text.split('\n'));
        let patterns = patterns
            .map(|text| Pattern::new(text, syntax, fold))
            .collect::<Result<_, _>>();
        let recursive = call.last_of("rR").is_some();
        let context = call.number('C')?.unwrap_or(0);
        Ok(Self {
            patterns: patterns.map_err(Failure::Misuse)?,
            whole_line: call.has('x'),
            whole_word: call.has('w'),
            invert: call.has('v'),
            most: call.number('m')?.unwrap_or(usize::MAX),
            before: call.number('B')?.unwrap_or(context),
            after: call.number('A')?.unwrap_or(context),
            named: match call.last_of("hH") {
                Some(letter) => letter == 'H',
                None => call.operands.len() > 1 || recursive,
            },
            recursive,
            through_links: call.has('R'),
            quiet: call.has('q'),
            silent: call.has('s'),
        })
    }

    fn path(&self, call: &mut Call<'_>, path: &Path, progress: &mut Progress) -> Result<(), Failure> {
        if progress.found && self.quiet {
            return Ok(());
        }
        let is_directory = look(path, true).is_ok_and(|seen| seen.kind == Kind::Directory);
        let done = match is_directory {
            true if self.recursive => names(path).map(Some),
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => {
                open(path).and_then(|mut from| self.file(call, path, &mut from, progress).map(|()| None))
            }
        };
        match done {
            Ok(None) => Ok(()),
            Ok(Some(names)) => names
                .iter()
                .map(|name| path.join(name))
                .filter(|path| {
                    self.through_links || look(path, false).is_ok_and(|seen| seen.kind != Kind::Link)
                })
                .try_for_each(|path| self.path(call, &path, progress)),
            Err(error) => {
                progress.failed = true;
                if !self.silent {
                    complain(call.name, &format!("{}: {}", path.display(), words(&error)));
                }
                Ok(())
            }
        }
    }

    fn file(
        &self,
        call: &mut Call<'_>,
        path: &Path,
        from: &mut dyn BufRead,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let name = match path == Path::new("-") {
            true => "(standard input)".to_owned(),
            false => path.display().to_string(),
        };
        let only_names = call.last_of("lL");
        let is_told = !self.quiet && only_names.is_none() && !call.has('c');
        let mut page = Page::new(call, self, &name);
        let (mut number, mut matches) = (0, 0);
        let mut line = Vec::new();
        while (matches < self.most || page.after > 0) && from.read_until(b'\n', &mut line)? > 0 {
            number += 1;
            let text = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
            let letters: Vec<char> = text.chars().collect();
            let fits = matches < self.most && self.next(&letters, 0).is_some() != self.invert;
            matches += usize::from(fits);
            match (is_told, fits) {
                (false, true) if self.quiet || only_names.is_some() => break,
                (false, _) => {}
                (true, true) => page.matched(call, self, number, &text, &letters)?,
                (true, false) => page.beside(call, self, number, text)?,
            }
            line.clear();
        }
        let is_listed = only_names.is_some_and(|letter| (letter == 'l') == (matches > 0));
        progress.found |= is_listed || only_names.is_none() && matches > 0;
        match only_names {
            _ if self.quiet => Ok(()),
            Some(_) if is_listed => writeln!(call.out, "{name}"),
            None if call.has('c') => writeln!(call.out, "{}{matches}", page.prefix(':')),
            _ => Ok(()),
        }
    }

    /// The next match that counts, at or after a place.
    fn next(&self, line: &[char], from: usize) -> Option<(usize, usize)> {
        let candidates = self
            .patterns
            .iter()
            .filter_map(|pattern| self.next_of(pattern, line, from));
        candidates.min_by_key(|(begin, end)| (*begin, usize::MAX - end))
    }

    fn next_of(&self, pattern: &Pattern, line: &[char], mut from: usize) -> Option<(usize, usize)> {
        loop {
            let (begin, end) = pattern.find(line, from)?;
            let is_line = begin == 0 && end == line.len();
            let is_beside = |place: Option<&char>| place.is_some_and(|letter| is_word(*letter));
            let before = begin.checked_sub(1).and_then(|before| line.get(before));
            let is_whole = !is_beside(before) && !is_beside(line.get(end));
            if (!self.whole_line || is_line) && (!self.whole_word || is_whole) {
                return Some((begin, end));
            }
            from = begin + 1;
        }
    }
}

/// The lines of one file that are shown.
struct Page {
    /// Before each line, if it is to be.
    name: Option<String>,
    numbered: bool,
    /// Matches and not the lines they are in.
    parts: bool,
    /// Lines before a match that may come.
    held: VecDeque<(usize, String)>,
    /// Lines after a match that are still to be shown.
    after: usize,
    /// The number of the line shown last.
    last: usize,
}

impl Page {
    fn new(call: &Call<'_>, search: &Search, name: &str) -> Self {
        Self {
            name: search.named.then(|| name.to_owned()),
            numbered: call.has('n'),
            parts: call.has('o') && !search.invert,
            held: VecDeque::new(),
            after: 0,
            last: 0,
        }
    }

    fn prefix(&self, mark: char) -> String {
        self.name
            .as_ref()
            .map_or_else(String::new, |name| format!("{name}{mark}"))
    }

    fn matched(
        &mut self,
        call: &mut Call<'_>,
        search: &Search,
        number: usize,
        text: &str,
        letters: &[char],
    ) -> io::Result<()> {
        let begin = self.held.front().map_or(number, |(number, _)| *number);
        if self.last > 0 && begin > self.last + 1 && search.before + search.after > 0 {
            writeln!(call.out, "--")?;
        }
        for (number, line) in std::mem::take(&mut self.held) {
            self.line(call, number, &line, '-')?;
        }
        self.after = search.after;
        if !self.parts {
            return self.line(call, number, text, ':');
        }
        let mut from = 0;
        while let Some((begin, end)) = search.next(letters, from) {
            if end > begin {
                let part: String = letters[begin..end].iter().collect();
                self.line(call, number, &part, ':')?;
            }
            from = end.max(begin + 1);
            if from > letters.len() {
                break;
            }
        }
        Ok(())
    }

    fn beside(
        &mut self,
        call: &mut Call<'_>,
        search: &Search,
        number: usize,
        text: String,
    ) -> io::Result<()> {
        if self.parts {
            return Ok(());
        }
        if self.after > 0 {
            self.after -= 1;
            return self.line(call, number, &text, '-');
        }
        self.held.push_back((number, text));
        if self.held.len() > search.before {
            self.held.pop_front();
        }
        Ok(())
    }

    fn line(&mut self, call: &mut Call<'_>, number: usize, text: &str, mark: char) -> io::Result<()> {
        self.last = number;
        let name = self.prefix(mark);
        let number = if self.numbered {
            format!("{number}{mark}")
        } else {
            String::new()
        };
        writeln!(call.out, "{name}{number}{text}")?;
        call.out.flush()
    }
}

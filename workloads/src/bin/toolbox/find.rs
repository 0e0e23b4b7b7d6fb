//! `find`: names beneath a directory, by tests that are all to be met.

use crate::glob::glob;
use crate::world::{Kind, Seen, look, names};
use crate::{Call, Failure, Outcome, complain, misuse, words};
use std::io;
use std::path::Path;

/// One thing asked of a file.
enum Test {
    Name { glob: String, fold: bool },
    Path(String),
    Kind(Kind),
    Newer(u64),
    Empty,
}

/// What is looked for, and how deep.
struct Search {
    tests: Vec<Test>,
    least: usize,
    most: usize,
    end: char,
}

pub fn find(call: &mut Call<'_>) -> Outcome {
    let is_test = |word: &String| word.starts_with(['-', '(', '!']);
    let tests = call
        .operands
        .iter()
        .position(is_test)
        .unwrap_or(call.operands.len());
    let search = Search::read(&call.operands.split_off(tests))?;
    if call.operands.is_empty() {
        call.operands.push(".".to_owned());
    }
    let mut clean = true;
    let status = call.each(|call, path| {
        look(path, false)?;
        clean &= walk(call, &search, path, 0)?;
        Ok(())
    })?;
    Ok(status.max(u8::from(!clean)))
}

impl Search {
    fn read(args: &[String]) -> Result<Self, Failure> {
        let mut search = Self {
            tests: Vec::new(),
            least: 0,
            most: usize::MAX,
            end: '\n',
        };
        let mut args = args.iter();
        while let Some(word) = args.next() {
            match word.as_str() {
                "-print" => search.end = '\n',
                "-print0" => search.end = '\0',
                "-empty" => search.tests.push(Test::Empty),
                "-name" | "-iname" | "-path" | "-type" | "-newer" | "-maxdepth" | "-mindepth" => {
                    let Some(value) = args.next() else {
                        return misuse(format!("missing argument to '{word}'"));
                    };
                    search.take(word, value)?;
                }
                _ => return misuse(format!("unknown predicate '{word}'")),
            }
        }
        Ok(search)
    }

    fn take(&mut self, word: &str, value: &str) -> Result<(), Failure> {
        let unknown = || misuse(format!("unknown argument to {word}: {value}"));
        let test = match (word, value) {
            ("-name" | "-iname", _) => Test::Name {
                glob: value.to_owned(),
                fold: word == "-iname",
            },
            ("-path", _) => Test::Path(value.to_owned()),
            ("-type", "f") => Test::Kind(Kind::File),
            ("-type", "d") => Test::Kind(Kind::Directory),
            ("-type", "l") => Test::Kind(Kind::Link),
            ("-newer", _) => Test::Newer(look(Path::new(value), true)?.modified),
            ("-maxdepth" | "-mindepth", _) => match value.parse() {
                Ok(depth) if word == "-maxdepth" => {
                    self.most = depth;
                    return Ok(());
                }
                Ok(depth) => {
                    self.least = depth;
                    return Ok(());
                }
                Err(_) => return unknown(),
            },
            _ => return unknown(),
        };
        self.tests.push(test);
        Ok(())
    }

    fn is_met(&self, path: &Path, seen: Seen) -> bool {
        self.tests.iter().all(|test| match test {
            Test::Name { glob: pattern, fold } => {
                let name = path.file_name().unwrap_or(path.as_os_str());
                glob(pattern, &name.to_string_lossy(), *fold)
            }
            Test::Path(pattern) => glob(pattern, &path.to_string_lossy(), false),
            Test::Kind(kind) => seen.kind == *kind,
            Test::Newer(than) => seen.modified > *than,
            Test::Empty if seen.kind == Kind::Directory => names(path).is_ok_and(|names| names.is_empty()),
            Test::Empty => seen.kind == Kind::File && seen.size == 0,
        })
    }
}

/// Answers whether all could be looked at.
fn walk(call: &mut Call<'_>, search: &Search, path: &Path, depth: usize) -> io::Result<bool> {
    let within = look(path, false).and_then(|seen| {
        let goes_on = seen.kind == Kind::Directory && depth < search.most;
        Ok((seen, if goes_on { names(path)? } else { Vec::new() }))
    });
    let (seen, below) = match within {
        Ok(within) => within,
        Err(error) => {
            complain(call.name, &format!("{}: {}", path.display(), words(&error)));
            return Ok(false);
        }
    };
    if depth >= search.least && search.is_met(path, seen) {
        write!(call.out, "{}{}", path.display(), search.end)?;
    }
    let mut clean = true;
    for name in below {
        clean &= walk(call, search, &path.join(name), depth + 1)?;
    }
    Ok(clean)
}

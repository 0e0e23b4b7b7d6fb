//! `test` and `[`: what is true decides the exit status (POSIX, test).

use crate::world::{Kind, look};
use crate::{Call, Failure, Outcome, misuse};
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::Path;

pub fn test(call: &mut Call<'_>) -> Outcome {
    let mut words = Words {
        words: &call.operands,
        place: 0,
    };
    if words.words.is_empty() {
        return Ok(1);
    }
    let holds = words.any()?;
    match words.next() {
        Some(extra) => misuse(format!("unexpected '{extra}'")),
        None => Ok(u8::from(!holds)),
    }
}

pub fn bracket(call: &mut Call<'_>) -> Outcome {
    match call.operands.pop().as_deref() {
        Some("]") => test(call),
        _ => misuse("missing ']'"),
    }
}

/// The words of an expression, read from left to right.
struct Words<'a> {
    words: &'a [String],
    place: usize,
}

impl<'a> Words<'a> {
    fn peek(&self, ahead: usize) -> Option<&'a str> {
        self.words.get(self.place + ahead).map(String::as_str)
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek(0);
        self.place += 1;
        word
    }

    fn is_next(&mut self, word: &str) -> bool {
        let found = self.peek(0) == Some(word);
        self.place += usize::from(found);
        found
    }

    fn any(&mut self) -> Result<bool, Failure> {
        let mut holds = self.all()?;
        while self.is_next("-o") {
            holds |= self.all()?;
        }
        Ok(holds)
    }

    fn all(&mut self) -> Result<bool, Failure> {
        let mut holds = self.one()?;
        while self.is_next("-a") {
            holds &= self.one()?;
        }
        Ok(holds)
    }

    fn one(&mut self) -> Result<bool, Failure> {
        if let Some(operator) = self
            .peek(1)
            .filter(|word| is_binary(word) && self.peek(2).is_some())
        {
            let (left, right) = (self.peek(0).unwrap_or_default(), self.peek(2).unwrap_or_default());
            self.place += 3;
            return binary(left, operator, right);
        }
        if self.peek(1).is_some() && self.is_next("!") {
            return Ok(!self.one()?);
        }
        if self.peek(1).is_some() && self.is_next("(") {
            let holds = self.any()?;
            return match self.is_next(")") {
                true => Ok(holds),
                false => misuse("missing ')'"),
            };
        }
        match (self.next(), self.peek(0)) {
            (Some(operator), Some(operand)) if operator.len() == 2 && operator.starts_with('-') => {
                self.place += 1;
                unary(operator, operand)
            }
            (Some(word), _) => Ok(!word.is_empty()),
            (None, _) => misuse("argument expected"),
        }
    }
}

fn is_binary(word: &str) -> bool {
    const OPERATORS: &[&str] = &[
        "=", "==", "!=", "-eq", "-ne", "-gt", "-ge", "-lt", "-le", "-nt", "-ot",
    ];
    OPERATORS.contains(&word)
}

fn binary(left: &str, operator: &str, right: &str) -> Result<bool, Failure> {
    let modified = |path: &str| look(Path::new(path), true).ok().map(|seen| seen.modified);
    Ok(match operator {
        "=" | "==" => left == right,
        "!=" => left != right,
        "-nt" => modified(left) > modified(right),
        "-ot" => modified(left) < modified(right),
        _ => {
            let (left, right) = (number(left)?, number(right)?);
            match operator {
                "-eq" => left == right,
                "-ne" => left != right,
                "-gt" => left > right,
                "-ge" => left >= right,
                "-lt" => left < right,
                _ => left <= right,
            }
        }
    })
}

fn number(text: &str) -> Result<i64, Failure> {
    match text.trim().parse() {
        Ok(number) => Ok(number),
        Err(_) => misuse(format!("{text}: integer expected")),
    }
}

/// There is no `-x`: a guest runs modules of any mode. Whether it may write is tried, as far as that changes nothing.
fn unary(operator: &str, operand: &str) -> Result<bool, Failure> {
    let path = Path::new(operand);
    let seen = look(path, true);
    let is = |kind: Kind| seen.as_ref().is_ok_and(|seen| seen.kind == kind);
    Ok(match operator {
        "-n" => !operand.is_empty(),
        "-z" => operand.is_empty(),
        "-e" => seen.is_ok(),
        "-f" => is(Kind::File),
        "-d" => is(Kind::Directory),
        "-h" | "-L" => look(path, false).is_ok_and(|seen| seen.kind == Kind::Link),
        "-s" => seen.is_ok_and(|seen| seen.size > 0),
        "-r" if is(Kind::Directory) => crate::world::names(path).is_ok(),
        "-r" => File::open(path).is_ok(),
        "-w" if is(Kind::Directory) => return misuse("-w: whether a directory may be written is not told"),
        "-w" => OpenOptions::new().append(true).open(path).is_ok(),
        "-t" => match operand {
            "0" => std::io::stdin().is_terminal(),
            "1" => std::io::stdout().is_terminal(),
            "2" => std::io::stderr().is_terminal(),
            _ => false,
        },
        _ => return misuse(format!("{operator}: unary operator expected")),
    })
}

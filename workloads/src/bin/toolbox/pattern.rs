//! Regular expressions, basic and extended (POSIX, base definitions 9).
//!
//! A regular expression becomes a list of steps, all of whose ways through a text are followed at once: none takes
//! longer than the text is long, times the pattern. Refuses back-references, which could.

use std::iter::Peekable;
use std::str::Chars;

/// Most copies of a part that `{n,m}` may ask for.
const MOST_COPIES: usize = 255;

/// Most steps of a pattern: copies of copies grow quickly.
const MOST_STEPS: usize = 100_000;

/// How a pattern is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    Basic,
    Extended,
    Fixed,
}

#[derive(Debug, Clone)]
enum Step {
    Any,
    Letter(char),
    Set {
        parts: Vec<Part>,
        inverted: bool,
    },
    Begin,
    End,
    /// The edge of a word: `\b`; its beginning `\<`, its end `\>`.
    Edge {
        begin: bool,
        end: bool,
    },
    /// Goes on at both places, counted from here.
    Fork(isize, isize),
    Jump(isize),
}

#[derive(Debug, Clone)]
enum Part {
    Range(char, char),
    Class(fn(char) -> bool),
}

/// A pattern that was understood.
#[derive(Debug, Clone)]
pub struct Pattern {
    steps: Vec<Step>,
    fold: bool,
}

impl Pattern {
    /// Reads a pattern; case does not count when it is to `fold`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str, syntax: Syntax, fold: bool) -> Result<Self, String> {
        let folded = if fold {
            text.to_lowercase()
        } else {
            text.to_owned()
        };
        let steps = match syntax {
            Syntax::Fixed => folded.chars().map(Step::Letter).collect(),
            Syntax::Basic | Syntax::Extended => {
                let mut reader = Reader {
                    letters: text.chars().peekable(),
                    extended: syntax == Syntax::Extended,
                    fold,
                };
                let steps = reader.alternatives()?;
                match reader.letters.next() {
                    Some(_) => return Err("Unmatched ) or \\)".to_owned()),
                    None => steps,
                }
            }
        };
        Ok(Self { steps, fold })
    }

    /// The first match at or after a place, the longest of those that begin there: its places among `text`.
    pub fn find(&self, text: &[char], from: usize) -> Option<(usize, usize)> {
        let folded: Vec<char>;
        let text = if self.fold {
            folded = text.iter().map(|letter| lower(*letter)).collect();
            &folded
        } else {
            text
        };
        (from..=text.len()).find_map(|begin| Some((begin, self.match_at(text, begin)?)))
    }

    fn match_at(&self, text: &[char], begin: usize) -> Option<usize> {
        let mut ways = Ways::new(self.steps.len());
        self.follow(&mut ways, 0, text, begin);
        let mut longest = ways.arrived.then_some(begin);
        for (place, letter) in text.iter().enumerate().skip(begin) {
            let mut next = Ways::new(self.steps.len());
            for at in ways.places {
                if self.steps[at].takes(*letter) {
                    self.follow(&mut next, at + 1, text, place + 1);
                }
            }
            if next.arrived {
                longest = Some(place + 1);
            }
            if next.places.is_empty() {
                break;
            }
            ways = next;
        }
        longest
    }

    /// Adds the steps that take a letter, as far as they are reached from `step` without one.
    fn follow(&self, ways: &mut Ways, step: usize, text: &[char], place: usize) {
        let mut waiting = vec![step];
        while let Some(at) = waiting.pop() {
            let Some(step) = self.steps.get(at) else {
                ways.arrived = true;
                continue;
            };
            if std::mem::replace(&mut ways.seen[at], true) {
                continue;
            }
            match step {
                Step::Fork(one, other) => {
                    waiting.extend([at.wrapping_add_signed(*other), at.wrapping_add_signed(*one)])
                }
                Step::Jump(by) => waiting.push(at.wrapping_add_signed(*by)),
                Step::Any | Step::Letter(_) | Step::Set { .. } => ways.places.push(at),
                Step::Begin if place == 0 => waiting.push(at + 1),
                Step::End if place == text.len() => waiting.push(at + 1),
                Step::Edge { begin, end } => {
                    let before = place.checked_sub(1).is_some_and(|before| is_word(text[before]));
                    let after = text.get(place).is_some_and(|letter| is_word(*letter));
                    if *begin && !before && after || *end && before && !after {
                        waiting.push(at + 1);
                    }
                }
                Step::Begin | Step::End => {}
            }
        }
    }
}

/// The steps at which a match may go on.
struct Ways {
    places: Vec<usize>,
    seen: Vec<bool>,
    arrived: bool,
}

impl Ways {
    fn new(steps: usize) -> Self {
        Self {
            places: Vec::new(),
            seen: vec![false; steps],
            arrived: false,
        }
    }
}

impl Step {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Any => true,
            Self::Letter(wanted) => *wanted == letter,
            Self::Set { parts, inverted } => parts.iter().any(|part| part.has(letter)) != *inverted,
            _ => false,
        }
    }
}

impl Part {
    fn has(&self, letter: char) -> bool {
        match self {
            Self::Range(from, to) => (*from..=*to).contains(&letter),
            Self::Class(is) => is(letter),
        }
    }
}

/// Whether a letter belongs to a word, as `grep -w` has it.
pub fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

struct Reader<'a> {
    letters: Peekable<Chars<'a>>,
    extended: bool,
    fold: bool,
}

/// How often a part is there; without an end when there is no most.
type Times = (usize, Option<usize>);

impl Reader<'_> {
    /// Whether an operator comes next: `(` in an extended expression, `\(` in a basic one. Takes it then.
    fn operator(&mut self, operator: char) -> bool {
        let mut ahead = self.letters.clone();
        let found = match self.extended {
            true => ahead.next() == Some(operator),
            false => ahead.next() == Some('\\') && ahead.next() == Some(operator),
        };
        if found {
            self.letters = ahead;
        }
        found
    }

    fn is_before(&self, operator: char) -> bool {
        let mut ahead = Self {
            letters: self.letters.clone(),
            ..*self
        };
        ahead.operator(operator)
    }

    fn alternatives(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = self.sequence()?;
        while self.operator('|') {
            let other = self.sequence()?;
            let (one, two) = (steps.len() as isize, other.len() as isize);
            steps.insert(0, Step::Fork(1, one + 2));
            steps.push(Step::Jump(two + 1));
            steps.extend(other);
        }
        Ok(steps)
    }

    fn sequence(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            let at_end = self.letters.peek().is_none() || self.is_before('|') || self.is_before(')');
            if at_end {
                return Ok(steps);
            }
            let is_first = steps.is_empty();
            let mut part = self.part(is_first)?;
            while let Some(times) = self.times(&part)? {
                part = repeated(&part, times)?;
            }
            steps.extend(part);
        }
    }

    fn part(&mut self, is_first: bool) -> Result<Vec<Step>, String> {
        if self.operator('(') {
            let within = self.alternatives()?;
            return match self.operator(')') {
                true => Ok(within),
                false => Err("Unmatched ( or \\(".to_owned()),
            };
        }
        let letter = self.letters.next().unwrap_or_default();
        let last = self.letters.peek().is_none() || self.is_before('|') || self.is_before(')');
        let step = match letter {
            '.' => Step::Any,
            '[' => self.set()?,
            '^' if self.extended || is_first => Step::Begin,
            '$' if self.extended || last => Step::End,
            '\\' => self.escaped()?,
            letter => self.letter(letter),
        };
        Ok(vec![step])
    }

    fn letter(&self, letter: char) -> Step {
        Step::Letter(if self.fold { lower(letter) } else { letter })
    }

    fn escaped(&mut self) -> Result<Step, String> {
        let class = |is: fn(char) -> bool, inverted| Step::Set {
            parts: vec![Part::Class(is)],
            inverted,
        };
        Ok(match self.letters.next() {
            None => return Err("Trailing backslash".to_owned()),
            Some('1'..='9') => return Err("back-references are not known here".to_owned()),
            Some('<') => Step::Edge {
                begin: true,
                end: false,
            },
            Some('>') => Step::Edge {
                begin: false,
                end: true,
            },
            Some('b') => Step::Edge {
                begin: true,
                end: true,
            },
            Some('w') => class(is_word, false),
            Some('W') => class(is_word, true),
            Some('s') => class(char::is_whitespace, false),
            Some('S') => class(char::is_whitespace, true),
            Some(letter) => self.letter(letter),
        })
    }

    /// What follows a part and repeats it. At the beginning, and after `^`, a basic `*` is a letter.
    fn times(&mut self, part: &[Step]) -> Result<Option<Times>, String> {
        if !self.extended && matches!(part, [Step::Begin]) {
            return Ok(None);
        }
        if self.letters.next_if_eq(&'*').is_some() {
            return Ok(Some((0, None)));
        }
        if self.operator('+') {
            return Ok(Some((1, None)));
        }
        if self.operator('?') {
            return Ok(Some((0, Some(1))));
        }
        if !self.operator('{') {
            return Ok(None);
        }
        let mut text = String::new();
        while !self.operator('}') {
            text.push(self.letters.next().ok_or("Unmatched { or \\{")?);
        }
        let number = |text: &str| match text.parse() {
            Ok(number) if number <= MOST_COPIES => Ok(number),
            _ => Err(format!("Invalid content of \\{{\\}}: {text}")),
        };
        Ok(Some(match text.split_once(',') {
            None => (number(&text)?, Some(number(&text)?)),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        }))
    }

    /// A bracket expression; a `]` at its beginning is one of its letters.
    fn set(&mut self) -> Result<Step, String> {
        let unmatched = || "Unmatched [, [^, [:, [., or [=".to_owned();
        let inverted = self.letters.next_if_eq(&'^').is_some();
        let mut parts = Vec::new();
        loop {
            let letter = self.letters.next().ok_or_else(unmatched)?;
            if letter == ']' && !parts.is_empty() {
                return Ok(Step::Set { parts, inverted });
            }
            if letter == '[' && self.letters.next_if_eq(&':').is_some() {
                let name: String =
                    std::iter::from_fn(|| self.letters.next_if(|letter| *letter != ':')).collect();
                self.letters.next();
                self.letters.next_if_eq(&']').ok_or_else(unmatched)?;
                parts.push(Part::Class(class(&name)?));
                continue;
            }
            let mut ahead = self.letters.clone();
            let end = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(end)) if end != ']' => {
                    self.letters = ahead;
                    end
                }
                _ => letter,
            };
            parts.push(Part::Range(letter, end));
            if self.fold {
                parts.push(Part::Range(lower(letter), lower(end)));
            }
        }
    }
}

fn class(name: &str) -> Result<fn(char) -> bool, String> {
    Ok(match name {
        "alpha" => char::is_alphabetic,
        "digit" => |letter| letter.is_ascii_digit(),
        "alnum" => char::is_alphanumeric,
        "upper" => char::is_uppercase,
        "lower" => char::is_lowercase,
        "space" => char::is_whitespace,
        "blank" => |letter| letter == ' ' || letter == '\t',
        "punct" => |letter| letter.is_ascii_punctuation(),
        "cntrl" => char::is_control,
        "xdigit" => |letter| letter.is_ascii_hexdigit(),
        "print" => |letter| !letter.is_control(),
        "graph" => |letter| !letter.is_control() && !letter.is_whitespace(),
        _ => return Err(format!("Invalid character class name {name}")),
    })
}

fn repeated(part: &[Step], (least, most): Times) -> Result<Vec<Step>, String> {
    let copies = most.unwrap_or(least + 1);
    if copies < least {
        return Err("Invalid content of \\{\\}".to_owned());
    }
    if (part.len() + 2) * copies > MOST_STEPS {
        return Err("Regular expression too big".to_owned());
    }
    let length = part.len() as isize;
    let mut steps = Vec::new();
    (0..least).for_each(|_| steps.extend_from_slice(part));
    for _ in least..copies {
        steps.push(Step::Fork(1, length + if most.is_none() { 2 } else { 1 }));
        steps.extend_from_slice(part);
    }
    if most.is_none() {
        steps.push(Step::Jump(-length - 1));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::Syntax::{Basic, Extended, Fixed};
    use super::*;

    fn found(pattern: &str, syntax: Syntax, fold: bool, text: &str) -> Option<String> {
        let text: Vec<char> = text.chars().collect();
        let (begin, end) = Pattern::new(pattern, syntax, fold).unwrap().find(&text, 0)?;
        Some(text[begin..end].iter().collect())
    }

    #[test]
    fn expressions() {
        for (pattern, syntax, text, expected) in [
            ("b.d", Basic, "abcd", Some("bcd")),
            ("a*", Basic, "aab", Some("aa")),
            ("*a", Basic, "b*a", Some("*a")),
            ("^*a", Basic, "*a", Some("*a")),
            ("a+", Basic, "aa+", Some("a+")),
            (r"a\+", Basic, "aa+", Some("aa")),
            (r"a\|bc", Basic, "xbc", Some("bc")),
            (r"\(ab\)*c", Basic, "ababc", Some("ababc")),
            ("a^b$c", Basic, "a^b$c", Some("a^b$c")),
            ("a|b|cd", Extended, "xcd", Some("cd")),
            ("(a|ab)(c|bcd)", Extended, "abcd", Some("abcd")),
            ("^(error|warn)s?$", Extended, "warns", Some("warns")),
            ("x{2,3}", Extended, "xxxx", Some("xxx")),
            ("x{3}", Extended, "xx", None),
            ("[^a-c]+", Extended, "abcdef", Some("def")),
            ("[]a]+", Extended, "x]a", Some("]a")),
            ("[[:digit:]-]+", Extended, "a1-2b", Some("1-2")),
            (r"\<b\w*", Extended, "ab bc", Some("bc")),
            (r"a\.b", Extended, "axb", None),
            ("(a*)*b", Extended, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", None),
            ("a.b*", Fixed, "xa.b*", Some("a.b*")),
            ("", Extended, "x", Some("")),
        ] {
            let got = found(pattern, syntax, false, text);
            assert_eq!(got.as_deref(), expected, "{pattern} in {text}");
        }
        assert_eq!(
            found("ERR[O-P]r", Extended, true, "Error").as_deref(),
            Some("Error")
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (pattern, why) in [
            ("(a", "Unmatched ("),
            ("a)", "Unmatched )"),
            ("[a", "Unmatched ["),
            ("a{2", "Unmatched {"),
            ("a{x}", "Invalid content"),
            ("a\\", "Trailing backslash"),
            (r"(a)\1", "back-references"),
            ("((a{200}){200}){200}", "too big"),
        ] {
            let error = Pattern::new(pattern, Extended, false).unwrap_err();
            assert!(
                error.starts_with(why) || error.contains(why),
                "{pattern}: {error}"
            );
        }
    }
}

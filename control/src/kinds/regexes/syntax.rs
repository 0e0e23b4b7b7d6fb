//! What Go's parser refuses of a regular expression, in its words and with the part that it shows.
//!
//! Syntax and limits: <https://pkg.go.dev/regexp/syntax>. Refuses to know what a pattern matches.
use super::size::{ATOM, Group, Part};
use regex::Regex;

/// Copies of one part that repetitions within each other may make, depth of the tree, and instructions it may come to.
const REPEATS: u64 = 1000;
const HEIGHT: u64 = 1000;
const SIZE: u64 = (128 << 20) / 40;

/// What is wrong, and the part of the pattern that is.
type Wrong = (&'static str, String);

/// Fails with Go's sentence.
pub(super) fn check(source: &str) -> Result<(), String> {
    let parsed = Parser::new(source).parse();
    parsed.map_err(|(what, part)| format!("error parsing regexp: {what}: `{part}`"))
}

struct Parser<'p> {
    whole: &'p str,
    rest: &'p str,
    /// The group being read, and those around it.
    group: Group,
    around: Vec<Group>,
}

/// Whether what follows `(?` gives the group a name.
fn named(rest: &str) -> bool {
    let rest = rest.strip_prefix('P').unwrap_or(rest);
    rest.starts_with('<') && rest.len() > 1
}

/// What of `text` comes before its end `rest`.
fn until<'t>(text: &'t str, rest: &str) -> &'t str {
    &text[..text.len() - rest.len()]
}

impl<'p> Parser<'p> {
    fn new(whole: &'p str) -> Self {
        Parser {
            whole,
            rest: whole,
            group: Group::default(),
            around: Vec::new(),
        }
    }

    fn parse(mut self) -> Result<(), Wrong> {
        let mut last = None;
        while let Some(c) = self.rest.chars().next() {
            let (before, mut repetition) = (self.rest, None);
            match c {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => {
                    self.next();
                    self.group.alternative();
                }
                '[' => self.class()?,
                '*' | '+' | '?' => {
                    self.next();
                    let most = (c == '?').then_some(1);
                    self.repeat(u64::from(c == '+'), most, before, last)?;
                    repetition = Some(before);
                }
                '{' => match self.counted()? {
                    Some((least, most)) => {
                        self.repeat(least, most, before, last)?;
                        repetition = Some(before);
                    }
                    None => self.atom(),
                },
                '\\' => self.escaped()?,
                _ => self.atom(),
            }
            last = repetition;
        }
        if !self.around.is_empty() {
            return Err(("missing closing )", self.whole.to_owned()));
        }
        let whole = std::mem::take(&mut self.group).closed();
        self.fits(whole)
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    /// One character that stands for one.
    fn atom(&mut self) {
        self.next();
        self.group.parts.push(ATOM);
    }

    fn fits(&self, part: Part) -> Result<(), Wrong> {
        match part {
            _ if part.size > SIZE => Err(("expression too large", self.whole.to_owned())),
            _ if part.height > HEIGHT => Err(("expression nests too deeply", self.whole.to_owned())),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Wrong> {
        self.next();
        let around = self.around.pop();
        let around = around.ok_or_else(|| ("unexpected )", self.whole.to_owned()))?;
        let part = std::mem::replace(&mut self.group, around).closed();
        self.fits(part)?;
        self.group.parts.push(part);
        Ok(())
    }

    fn open(&mut self) -> Result<(), Wrong> {
        let captures = match self.rest.strip_prefix("(?") {
            None => {
                self.next();
                true
            }
            Some(rest) if named(rest) => {
                self.name()?;
                true
            }
            Some(rest) => {
                if !self.flags(rest)? {
                    return Ok(());
                }
                false
            }
        };
        let group = Group::open(captures);
        self.around.push(std::mem::replace(&mut self.group, group));
        Ok(())
    }

    /// `(?P<name>` or `(?<name>`.
    fn name(&mut self) -> Result<(), Wrong> {
        let wrong = |part: &str| ("invalid named capture", part.to_owned());
        let (capture, rest) = self.rest.split_once('>').ok_or_else(|| wrong(self.rest))?;
        let (_, name) = capture.split_once('<').unwrap_or_default();
        let fit = |c: char| c == '_' || c.is_ascii_alphanumeric();
        if name.is_empty() || !name.chars().all(fit) {
            return Err(wrong(&format!("{capture}>")));
        }
        self.rest = rest;
        Ok(())
    }

    /// `(?i)` or `(?i:`; whether a group begins there.
    fn flags(&mut self, flags: &'p str) -> Result<bool, Wrong> {
        let (before, mut negated, mut seen) = (self.rest, false, false);
        self.rest = flags;
        while let Some(c) = self.next() {
            match c {
                'i' | 'm' | 's' | 'U' => seen = true,
                '-' if !negated => (negated, seen) = (true, false),
                ':' | ')' if !negated || seen => return Ok(c == ':'),
                _ => break,
            }
        }
        let part = until(before, self.rest).to_owned();
        Err(("invalid or unsupported Perl syntax", part))
    }

    /// The part before, several times; `before` is what begins with the repetition, `last` what began with one just before it.
    fn repeat(
        &mut self,
        least: u64,
        most: Option<u64>,
        before: &'p str,
        last: Option<&'p str>,
    ) -> Result<(), Wrong> {
        self.rest = self.rest.strip_prefix('?').unwrap_or(self.rest);
        let shown = |from: &str| until(from, self.rest).to_owned();
        if let Some(last) = last {
            return Err(("invalid nested repetition operator", shown(last)));
        }
        let part = self.group.parts.pop();
        let part = part.ok_or_else(|| ("missing argument to repetition operator", shown(before)))?;
        let part = part.repeated(least, most);
        self.fits(part)?;
        if part.repeats > REPEATS {
            return Err(("invalid repeat count", shown(before)));
        }
        self.group.parts.push(part);
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}`; a brace that begins nothing of the kind stands for itself.
    fn counted(&mut self) -> Result<Option<(u64, Option<u64>)>, Wrong> {
        let Some((body, rest)) = self.rest[1..].split_once('}') else {
            return Ok(None);
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let fit = digits && (text == "0" || !text.starts_with('0'));
            fit.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let (least, most) = match body.split_once(',') {
            None => (number(body), number(body)),
            Some((least, "")) => (number(least), None),
            Some((least, most)) => match number(most) {
                None => return Ok(None),
                most => (number(least), most),
            },
        };
        let Some(least) = least else {
            return Ok(None);
        };
        if least > REPEATS || most.is_some_and(|most| most > REPEATS || most < least) {
            return Err(("invalid repeat count", until(self.rest, rest).to_owned()));
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }

    fn escaped(&mut self) -> Result<(), Wrong> {
        match self.rest[1..].chars().next() {
            Some('A' | 'b' | 'B' | 'z') => {
                self.next();
                self.atom();
                return Ok(());
            }
            Some('C') => return Err(("invalid escape sequence", "\\C".to_owned())),
            Some('Q') => {
                let (text, rest) = self.rest[2..].split_once("\\E").unwrap_or((&self.rest[2..], ""));
                self.group.parts.extend(text.chars().map(|_| ATOM));
                self.rest = rest;
                return Ok(());
            }
            _ => {}
        }
        if !self.many()? {
            self.character()?;
        }
        self.group.parts.push(ATOM);
        Ok(())
    }

    /// An escape that stands for several characters, `\d` or `\p{Greek}`, if there is one.
    fn many(&mut self) -> Result<bool, Wrong> {
        let mut chars = self.rest.chars();
        match (chars.next(), chars.next()) {
            (Some('\\'), Some('d' | 'D' | 's' | 'S' | 'w' | 'W')) => self.rest = chars.as_str(),
            (Some('\\'), Some('p' | 'P')) => self.unicode()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn unicode(&mut self) -> Result<(), Wrong> {
        let (from, wrong) = (self.rest, |part: &str| {
            ("invalid character class range", part.to_owned())
        });
        let name = match from[2..].strip_prefix('{') {
            Some(braced) => {
                let (name, rest) = braced.split_once('}').ok_or_else(|| wrong(from))?;
                self.rest = rest;
                name
            }
            None => {
                let mut chars = from[2..].chars();
                chars.next();
                self.rest = chars.as_str();
                &until(from, self.rest)[2..]
            }
        };
        let name = name.strip_prefix('^').unwrap_or(name);
        // Categories and scripts, but none of the properties that the other knows besides.
        let plain = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_- ".contains(&b));
        let known = |of: &str| Regex::new(&format!("\\p{{{of}={name}}}")).is_ok();
        let known = plain && (known("gc") || known("sc"));
        match known {
            true => Ok(()),
            false => Err(wrong(until(from, self.rest))),
        }
    }

    /// An escape that stands for one character.
    fn character(&mut self) -> Result<char, Wrong> {
        let from = self.rest;
        self.next();
        let Some(c) = self.next() else {
            return Err(("trailing backslash at end of expression", String::new()));
        };
        let found = match c {
            '0' => Some(self.octal(c)),
            '1'..='7' if self.rest.starts_with(|c| ('0'..='7').contains(&c)) => Some(self.octal(c)),
            'x' => self.hexadecimal(),
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c => (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some(c),
        };
        found.ok_or_else(|| ("invalid escape sequence", until(from, self.rest).to_owned()))
    }

    fn octal(&mut self, first: char) -> char {
        let mut value = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else {
                break;
            };
            self.next();
            value = value * 8 + digit;
        }
        char::from_u32(value).unwrap_or_default()
    }

    /// `\x7f` or `\x{10ffff}`; a surrogate is none.
    fn hexadecimal(&mut self) -> Option<char> {
        let digit = |c: char| c.to_digit(16);
        let first = self.next()?;
        if first != '{' {
            let (first, second) = (digit(first), digit(self.next()?));
            return char::from_u32(first? * 16 + second?);
        }
        let mut value = None;
        loop {
            match self.next()? {
                '}' => return char::from_u32(value?),
                c => value = Some(value.unwrap_or(0) * 16 + digit(c)?).filter(|v| *v <= 0x10_ffff),
            }
            value?;
        }
    }

    fn class(&mut self) -> Result<(), Wrong> {
        let whole = self.rest;
        self.next();
        self.rest = self.rest.strip_prefix('^').unwrap_or(self.rest);
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if self.named()? || self.many()? {
                continue;
            }
            let from = self.rest;
            let low = self.member(whole)?;
            let ranges = self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1;
            if ranges {
                self.next();
                if self.member(whole)? < low {
                    let part = until(from, self.rest).to_owned();
                    return Err(("invalid character class range", part));
                }
            }
        }
        self.atom();
        Ok(())
    }

    /// One character of a class.
    fn member(&mut self, whole: &str) -> Result<char, Wrong> {
        match self.rest.starts_with('\\') {
            true => self.character(),
            false => self.next().ok_or_else(|| ("missing closing ]", whole.to_owned())),
        }
    }

    /// `[:alpha:]`, if there is one.
    fn named(&mut self) -> Result<bool, Wrong> {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
            "space", "upper", "word", "xdigit",
        ];
        let Some((name, rest)) = self
            .rest
            .strip_prefix("[:")
            .and_then(|rest| rest.split_once(":]"))
        else {
            return Ok(false);
        };
        if !NAMES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            let part = until(self.rest, rest).to_owned();
            return Err(("invalid character class range", part));
        }
        self.rest = rest;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_go_refuses_is_told_in_its_words() {
        let deep = format!("{}a{}", "(".repeat(1001), ")".repeat(1001));
        for (pattern, want) in [
            ("(", "missing closing ): `(`"),
            (")", "unexpected ): `)`"),
            ("a(b", "missing closing ): `a(b`"),
            ("[", "missing closing ]: `[`"),
            ("a[]b", "missing closing ]: `[]b`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
            (r"\p{Nope}", r"invalid character class range: `\p{Nope}`"),
            (r"\p", r"invalid character class range: `\p`"),
            ("*", "missing argument to repetition operator: `*`"),
            ("a|*?", "missing argument to repetition operator: `*?`"),
            ("(?i)+", "missing argument to repetition operator: `+`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a*?+?", "invalid nested repetition operator: `*?+?`"),
            ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
            ("a{2000}", "invalid repeat count: `{2000}`"),
            ("a{3,2}", "invalid repeat count: `{3,2}`"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            (
                "(a{999999999999999999999})",
                "invalid repeat count: `{999999999999999999999}`",
            ),
            (r"\1", r"invalid escape sequence: `\1`"),
            (r"\Z", r"invalid escape sequence: `\Z`"),
            (r"\xg0", r"invalid escape sequence: `\xg0`"),
            (r"[\b]", r"invalid escape sequence: `\b`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?i-)a", "invalid or unsupported Perl syntax: `(?i-)`"),
            ("(?<!a)", "invalid named capture: `(?<!a)`"),
            ("(?P<n!>a)", "invalid named capture: `(?P<n!>`"),
            ("(?P<na", "invalid named capture: `(?P<na`"),
            (&deep, &format!("expression nests too deeply: `{deep}`")),
        ] {
            let found = check(pattern).expect_err(pattern);
            assert_eq!(found, format!("error parsing regexp: {want}"));
        }
    }

    #[test]
    fn what_go_takes_is_taken() {
        for pattern in [
            "",
            "a{,2}",
            "{",
            "a{1000}",
            "(a{10}){100}",
            "a{0}",
            "(a{1000}){0}",
            "a{01}",
            "()*",
            "(?i)a(?s)*",
            "(?:a|b)+?",
            "^*",
            "[]a]",
            "[^]]",
            "[a-]",
            "[-a]",
            "[a-c-e]",
            "[[:^alpha:][:digit:]]",
            r"[\d\pL-]",
            r"\pN\p{Greek}\P{^Lu}",
            r"\Qa.b",
            r"\Q\E",
            r"\x{10FFFF}\x41\101\0",
            r"\_\-\.",
            "(?P<n>a)(?<m>b)",
            "日本{2}",
            "a||b",
            "(|a)*",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }
}

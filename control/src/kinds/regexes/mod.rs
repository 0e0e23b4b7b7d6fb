//! Go's regular expressions on the `regex` crate. Both run in time linear in the text; their syntax differs a little.
//!
//! Syntax of one: <https://pkg.go.dev/regexp/syntax>; of the other: <https://docs.rs/regex/latest/regex/#syntax>.
mod compact;
mod size;
mod syntax;

use std::iter::Peekable;
use std::ops::Range;
use std::str::Chars;

use compact::Compact;

use regex_automata::meta;
use regex_automata::util::syntax::Config as SyntaxConfig;

/// Bytes a compiled expression may take, and each of two tables that a search fills: most take less than the first; the
/// second is what upstream's patterns need hundreds of times over.
const SIZE_LIMITS: [usize; 2] = [64 << 10, 1 << 20];
/// How deep groups may nest (Go's limit).
const NESTING: u32 = 1000;
const TOO_LARGE: &str = "error parsing regexp: expression too large";

/// A pattern and its text.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub source: String,
    program: Program,
    /// See [`Pattern::weight`].
    weight: usize,
}

#[derive(Debug, Clone)]
enum Program {
    Usual(meta::Regex),
    /// What would be too large.
    Compact(Compact),
}

impl Pattern {
    pub fn is_match(&self, text: &str) -> bool {
        match &self.program {
            Program::Usual(regex) => regex.is_match(text),
            Program::Compact(compact) => compact.is_match(text),
        }
    }

    /// Bytes that it takes at most with what one thread's searches leave in it.
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Where it matches first, in bytes of the text.
    pub fn find(&self, text: &str) -> Option<Range<usize>> {
        self.find_some(text, 1).pop()
    }

    /// Where it matches, one after the other, `most` times at most.
    pub fn find_some(&self, text: &str, most: usize) -> Vec<Range<usize>> {
        match &self.program {
            Program::Usual(regex) => regex
                .find_iter(text)
                .take(most)
                .map(|found| found.range())
                .collect(),
            Program::Compact(compact) => compact.find_some(text, most),
        }
    }
}

/// Compiles an expression written for Go.
pub fn compile(source: &str) -> Result<Pattern, String> {
    syntax::check(source)?;
    let (program, weight) = program(source)?;
    Ok(Pattern {
        source: source.to_owned(),
        program,
        weight,
    })
}

/// The expression in the first form that it fits into, and what that weighs.
fn program(source: &str) -> Result<(Program, usize), String> {
    let translated = translate(source);
    for size in SIZE_LIMITS {
        if let Some(regex) = usual(&translated, size).map_err(|error| why(source, &error))? {
            let weight = regex.memory_usage() + 2 * size;
            return Ok((Program::Usual(regex), weight));
        }
    }
    let [_, size] = SIZE_LIMITS;
    let compact = Compact::new(&translated, NESTING, size).ok_or(TOO_LARGE)?;
    let weight = compact.memory_usage() + 2 * size;
    Ok((Program::Compact(compact), weight))
}

/// None when it does not fit.
fn usual(translated: &str, size: usize) -> Result<Option<meta::Regex>, Box<meta::BuildError>> {
    let config = meta::Config::new()
        .nfa_size_limit(Some(size))
        .hybrid_cache_capacity(size);
    let built = meta::Builder::new()
        .configure(config)
        .syntax(SyntaxConfig::new().nest_limit(NESTING))
        .build(translated);
    match built {
        Ok(regex) => Ok(Some(regex)),
        Err(error) if error.size_limit().is_some() => Ok(None),
        Err(error) => Err(Box::new(error)),
    }
}

fn why(source: &str, error: &meta::BuildError) -> String {
    let text = match error.syntax_error() {
        Some(syntax) => syntax.to_string(),
        None => error.to_string(),
    };
    let last = text
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    format!("error parsing regexp: {last}: `{source}`")
}

/// What Go means, in the other's words: classes are ASCII, `{` may be literal, `\Q…\E` quotes, brackets do not nest, names of
/// groups may come twice.
fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, &mut out, false),
            '[' => class(&mut chars, &mut out),
            '{' if !is_repetition(&chars) => out.push_str("\\{"),
            '(' => group(&mut chars, &mut out),
            c => out.push(c),
        }
    }
    out
}

fn is_repetition(rest: &Peekable<Chars<'_>>) -> bool {
    let body: String = rest.clone().take_while(|c| *c != '}').take(16).collect();
    let closed = rest.clone().any(|c| c == '}');
    let (low, high) = body.split_once(',').unwrap_or((&body, ""));
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
    closed && !low.is_empty() && digits(low) && digits(high)
}

/// A group as it is, without its name.
fn group(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let rest: String = chars.clone().take(3).collect();
    let named = rest.starts_with("?<") || rest.starts_with("?P<");
    if named {
        chars.by_ref().find(|c| *c == '>');
    }
    out.push('(');
}

fn escape(chars: &mut Peekable<Chars<'_>>, out: &mut String, in_class: bool) {
    let shorthand = |inner: &str, negated: bool| match negated {
        false => format!("[{inner}]"),
        true => format!("[^{inner}]"),
    };
    match chars.next() {
        Some('d') => out.push_str(&shorthand("0-9", false)),
        Some('D') => out.push_str(&shorthand("0-9", true)),
        Some('w') => out.push_str(&shorthand("0-9A-Za-z_", false)),
        Some('W') => out.push_str(&shorthand("0-9A-Za-z_", true)),
        Some('s') => out.push_str(&shorthand("\\t\\n\\f\\r ", false)),
        Some('S') => out.push_str(&shorthand("\\t\\n\\f\\r ", true)),
        Some('b') if !in_class => out.push_str("(?-u:\\b)"),
        Some('Q') if !in_class => quoted(chars, out),
        Some(c @ '0'..='7') => octal(c, chars, out),
        // To the other it is where a word begins.
        Some(c @ ('<' | '>')) => out.push(c),
        Some(c @ ('p' | 'P' | 'x')) => braced(c, chars, out),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
        None => out.push('\\'),
    }
}

/// `\101`: three digits at most.
fn octal(first: char, chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut value = first.to_digit(8).unwrap_or(0);
    for _ in 0..2 {
        if let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) {
            chars.next();
            value = value * 8 + digit;
        }
    }
    out.push_str(&format!("\\x{{{value:x}}}"));
}

/// `\p{Greek}` or `\x{41}`; `\p{^Greek}` is `\P{Greek}`.
fn braced(c: char, chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let negated = c != 'x' && chars.clone().take(2).eq(['{', '^']);
    out.push('\\');
    out.push(match (negated, c) {
        (true, 'p') => 'P',
        (true, _) => 'p',
        (false, c) => c,
    });
    if chars.peek() == Some(&'{') {
        let name = chars.by_ref().take_while(|c| *c != '}');
        out.extend(name.filter(|c| *c != '^'));
        out.push('}');
    }
}

fn quoted(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            break;
        }
        text.push(c);
    }
    out.push_str(&regex::escape(&text));
}

fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if chars.peek() == Some(&'^') {
        out.push('^');
        chars.next();
    }
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            ']' if !first => return out.push(']'),
            ']' => out.push_str("\\]"),
            '\\' => escape(chars, out, true),
            '[' if chars.peek() == Some(&':') => named_class(chars, out),
            '[' => out.push_str("\\["),
            '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '-' if first || matches!(chars.peek(), Some(']' | '-')) => out.push_str("\\-"),
            c => out.push(c),
        }
        first = false;
    }
}

fn named_class(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    for c in chars.by_ref() {
        out.push(c);
        if c == ']' {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_syntax_means_what_it_means_in_go() {
        for (pattern, text, want) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "١٢", false),
            (r"^[\w.-]+$", "a_b.c-d", true),
            (r"^[[]$", "[", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[--/]$", ".", true),
            (r"^{x}$", "{x}", true),
            (r"^a{2,3}$", "aaa", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"^[]a]+$", "]a", true),
            (r"^\101\<[\062]$", "A<2", true),
            (r"^(?P<n>a)(?<n>b)$", "ab", true),
            (r"^\p{^Greek}\P{^Greek}$", "aα", true),
            (r"^\p{Greek}[\p{L}\x{31}]{2}$", "αa1", true),
            (r"^a{01}$", "a{01}", true),
        ] {
            assert_eq!(
                compile(pattern).expect(pattern).is_match(text),
                want,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn large_classes_may_be_repeated() {
        for (pattern, text) in [
            (r"^[\p{L}\p{Z}\p{N}_.:/=+\-@]{0,256}$", "Größe 5"),
            (r"^\pL{1,253}$", "ä"),
            (r"^\S{1,1000}$", "x"),
            (r"^(([^:/?#]{0,250})){4}$", "a"),
        ] {
            assert!(compile(pattern).expect(pattern).is_match(text), "{pattern}");
        }
        let words = compile(r"\p{L}{1,900}").expect("compiles");
        assert_eq!(words.find_some("äb 1 cd", 9), [0..3, 6..8]);
        assert_eq!(words.find("1 é"), Some(2..4));
    }

    #[test]
    fn bad_and_huge_expressions_are_refused() {
        for bad in ["(", "[z-a]", r"(?=x)", r"\1", "((((a{1000}){1000}){1000}){1000})"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
        assert!(
            compile("a{2000}").expect_err("refused")
                == "error parsing regexp: invalid repeat count: `{2000}`"
        );
    }

    #[test]
    fn no_expression_takes_exponential_time() {
        let pattern = compile("^(a+)+$").expect("compiles");
        assert!(!pattern.is_match(&format!("{}!", "a".repeat(100_000))));
    }

    proptest! {
        #[test]
        fn translation_never_panics(text in r"[\[\]{}()^$|*+?.\\dwsQE:a-z,0-9&~-]{0,24}") {
            let _ = compile(&text);
        }
    }
}

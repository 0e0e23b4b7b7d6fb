//! The grammar of label selectors: words and signs, then terms. Says what is wrong as upstream does.
use super::Term;
use crate::kinds::{FieldError, names};
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

/// Terms in one label selector; more than anything real, and bounded work per object.
const TERMS: usize = 20_000;

type Parsed<T> = Result<T, String>;

/// A sign, or a word: anything between signs and spaces. `in` and `notin` are words that stand for an operator where one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t str),
    Sign(&'t str),
    End,
}

impl Token<'_> {
    fn shown(&self) -> &str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::End => "",
        }
    }
}

const SIGNS: [&str; 9] = ["!=", "==", "=", "!", "(", ")", ",", ">", "<"];

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_sign(c: char) -> bool {
    "=!(),><".contains(c)
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut rest, mut found) = (text.trim_start_matches(is_space), Vec::new());
    // Upstream reads up to a NUL.
    while !rest.is_empty() && !rest.starts_with('\0') {
        let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
        let token = match sign {
            Some(sign) => Token::Sign(&rest[..sign.len()]),
            None => {
                let ends = |c: char| is_sign(c) || is_space(c) || c == '\0';
                Token::Word(&rest[..rest.find(ends).unwrap_or(rest.len())])
            }
        };
        rest = &rest[token.shown().len()..];
        rest = rest.trim_start_matches(is_space);
        found.push(token);
    }
    found
}

pub(super) fn parse(text: &str) -> Parsed<Vec<Term>> {
    let mut parser = Parser(tokens(text).into_iter().peekable());
    let mut terms = Vec::new();
    match parser.peek() {
        Token::End => return Ok(terms),
        token if begins(token) => {}
        token => {
            return Err(format!(
                "found '{}', expected: !, identifier, or 'end of string'",
                token.shown()
            ));
        }
    }
    loop {
        if terms.len() == TERMS {
            return Err(format!("a label selector may have at most {TERMS} terms"));
        }
        let term = parser.term();
        terms.push(term.map_err(|why| format!("unable to parse requirement: {why}"))?);
        match parser.next() {
            Token::End => return Ok(terms),
            Token::Sign(",") if begins(parser.peek()) => {}
            Token::Sign(",") => {
                let next = parser.peek();
                return Err(format!(
                    "found '{}', expected: identifier after ','",
                    next.shown()
                ));
            }
            other => {
                return Err(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    other.shown()
                ));
            }
        }
    }
}

/// Whether a term can begin with it.
fn begins(token: Token<'_>) -> bool {
    matches!(token, Token::Word(_) | Token::Sign("!"))
}

struct Parser<'t>(Peekable<IntoIter<Token<'t>>>);

impl<'t> Parser<'t> {
    fn peek(&mut self) -> Token<'t> {
        self.0.peek().copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'t> {
        self.0.next().unwrap_or(Token::End)
    }

    fn term(&mut self) -> Parsed<Term> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(text) => key(text)?,
            other => return Err(format!("found '{}', expected: identifier", other.shown())),
        };
        if absent {
            return Ok(Term::Absent(key));
        }
        match self.peek() {
            Token::End | Token::Sign(",") => return Ok(Term::Exists(key)),
            _ => {}
        }
        match self.next() {
            Token::Word("in") => self.values(&key).map(|values| Term::In(key, values)),
            Token::Word("notin") => self.values(&key).map(|values| Term::NotIn(key, values)),
            Token::Sign("=" | "==") => Ok(Term::In(key.clone(), [value(&key, 0, self.exact()?)?].into())),
            Token::Sign("!=") => Ok(Term::NotIn(key.clone(), [value(&key, 0, self.exact()?)?].into())),
            Token::Sign(">") => Ok(Term::Greater(key.clone(), integer(&key, self.exact()?)?)),
            Token::Sign("<") => Ok(Term::Less(key.clone(), integer(&key, self.exact()?)?)),
            other => Err(format!(
                "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                other.shown()
            )),
        }
    }

    /// One value; the empty one where nothing stands.
    fn exact(&mut self) -> Parsed<&'t str> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(""),
            _ => match self.next() {
                Token::Word(text) => Ok(text),
                other => Err(format!("found '{}', expected: identifier", other.shown())),
            },
        }
    }

    /// `(a, b)`: where a value is missing, the empty one is meant.
    fn values(&mut self, key: &str) -> Parsed<BTreeSet<String>> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.shown())),
        }
        match self.peek() {
            Token::Word(_) | Token::Sign("," | ")") => {}
            other => {
                return Err(format!(
                    "found '{}', expected: ',', ')' or identifier",
                    other.shown()
                ));
            }
        }
        let mut found = BTreeSet::new();
        loop {
            let text = match self.peek() {
                Token::Word(text) => {
                    self.next();
                    text
                }
                Token::Sign("," | ")") => "",
                other => return Err(format!("found '{}', expected: ',', or identifier", other.shown())),
            };
            found.insert(text);
            match self.next() {
                Token::Sign(",") => {}
                Token::Sign(")") => break,
                other => return Err(format!("found '{}', expected: ',' or ')'", other.shown())),
            }
        }
        let values = found.into_iter().enumerate();
        values.map(|(i, text)| value(key, i, text)).collect()
    }
}

fn key(text: &str) -> Parsed<String> {
    let complaints = names::qualified(text);
    match complaints.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(FieldError::invalid("<nil>", text, complaints.join("; ")).to_string()),
    }
}

fn value(key: &str, at: usize, text: &str) -> Parsed<String> {
    let complaints = names::label_value(text);
    match complaints.is_empty() {
        true => Ok(text.to_owned()),
        false => {
            let field = format!("values[{at}][{key}]");
            Err(FieldError::invalid(field, text, complaints.join("; ")).to_string())
        }
    }
}

fn integer(key: &str, text: &str) -> Parsed<i64> {
    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
    let number = text.parse();
    let number = number.map_err(|_| FieldError::invalid("values[0]", text, why).to_string())?;
    value(key, 0, text).map(|_| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What upstream's API server said.
    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        for (selector, want) in [
            ("g=l,", "found '', expected: identifier after ','"),
            ("=,", "found '=', expected: !, identifier, or 'end of string'"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,,b", "found ',', expected: identifier after ','"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a in (x,y)z", "found 'z', expected: ',' or 'end of string'"),
            ("a in (x))", "found ')', expected: ',' or 'end of string'"),
        ] {
            assert_eq!(parse(selector).expect_err(selector), want, "{selector}");
        }
        for (selector, want) in [
            ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a!b", "found '!', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in x", "found 'x' expected: '('"),
            ("a notin", "found '' expected: '('"),
            ("a in (x", "found '', expected: ',' or ')'"),
            ("a in (x y)", "found 'y', expected: ',' or ')'"),
            ("a in (=)", "found '=', expected: ',', ')' or identifier"),
            ("a===b", "found '=', expected: identifier"),
            ("!!a", "found '!', expected: identifier"),
            ("!", "found '', expected: identifier"),
            (
                "a>x",
                "values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "/a",
                "<nil>: Invalid value: \"/a\": prefix part must be non-empty",
            ),
        ] {
            let want = format!("unable to parse requirement: {want}");
            assert_eq!(parse(selector).expect_err(selector), want, "{selector}");
        }
        for selector in ["a=-b", "a>-1", "-a=b", "a/b/c", "a=é", "X/="] {
            assert!(parse(selector).is_err(), "{selector}");
        }
    }

    #[test]
    fn words_of_the_grammar_are_labels_too() {
        let list = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<BTreeSet<_>>();
        let of = |selector: &str| parse(selector).expect(selector);
        assert_eq!(
            of("in in (in,notin)"),
            [Term::In("in".into(), list(&["in", "notin"]))]
        );
        assert_eq!(of("a in ()"), [Term::In("a".into(), list(&[""]))]);
        assert_eq!(of("a in (,x)"), [Term::In("a".into(), list(&["", "x"]))]);
        assert_eq!(of("a\tin\n(b)"), [Term::In("a".into(), list(&["b"]))]);
        assert_eq!(
            of("a=,in"),
            [Term::In("a".into(), list(&[""])), Term::Exists("in".into())]
        );
        assert_eq!(of("a <5"), [Term::Less("a".into(), 5)]);
    }
}

//! What is told of a token in the wrong place: in the words of upstream's parser generator.
use super::super::Mistake;
use super::super::lex::Token;
use super::Parser;

/// What a value may begin with, as the grammar of upstream names it.
pub(super) const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, \
                       BYTES, IDENTIFIER}";

pub(super) fn begins(token: &Token) -> bool {
    match token {
        Token::Name(_) | Token::Literal(_) => true,
        Token::Sign(sign) => ["[", "{", "(", ".", "-", "!"].contains(sign),
        Token::End => false,
    }
}

impl Parser<'_> {
    /// A token that nothing was waiting for, where the one after it is what was `expected`; else [`Self::mismatched`].
    pub(super) fn unexpected(&self, expected: &str, fits: impl Fn(&Token) -> bool) -> Mistake {
        match self.tokens.get(self.next + 1) {
            Some((_, after)) if fits(after) => self.wrong("extraneous", expected),
            _ => self.mismatched(expected),
        }
    }

    pub(super) fn mismatched(&self, expected: &str) -> Mistake {
        self.wrong("mismatched", expected)
    }

    /// After a dot.
    pub(super) fn unnamed(&self) -> Mistake {
        let shown = match self.peek() {
            Token::End => "",
            _ => self.shown(),
        };
        Mistake::new(
            self.at(),
            format!("Syntax error: no viable alternative at input '.{shown}'"),
        )
    }

    pub(super) fn shown(&self) -> &str {
        let place = |i: usize| self.tokens.get(i).map_or(self.source.len(), |(at, _)| *at);
        self.source
            .get(place(self.next)..place(self.next + 1))
            .unwrap_or_default()
            .trim_end()
    }

    /// In the words of upstream's parser generator.
    pub(super) fn wrong(&self, how: &str, expected: &str) -> Mistake {
        let shown = match self.peek() {
            Token::End => "<EOF>",
            _ => self.shown(),
        };
        let why = format!("Syntax error: {how} input '{shown}' expecting {expected}");
        Mistake::new(self.at(), why)
    }
}

//! The patterns that an expression spells out, compiled when they are first used and kept as long as it: upstream compiles
//! them with the expression. What is made only while it runs is compiled each time.
use super::syntax::{Expr, Literal, Node};
use crate::kinds::regexes::{self, Pattern};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that kept patterns of the whole process may take, so that nobody fills its memory with expressions: some hundred
/// patterns, of which most take a tenth of what they are counted for.
const ROOM: usize = 64 << 20;

/// Functions whose argument is a pattern.
const FUNCTIONS: [&str; 3] = ["matches", "find", "findAll"];

/// What they take now.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// The patterns of one expression, by their text.
#[derive(Debug, Default)]
pub(super) struct Patterns(BTreeMap<String, OnceLock<Kept>>);

impl Patterns {
    pub fn of(expr: &Expr) -> Patterns {
        let mut found = Patterns::default();
        found.collect(expr);
        found
    }

    fn collect(&mut self, expr: &Expr) {
        if let Node::Call { function, args, .. } = &expr.node
            && FUNCTIONS.contains(&function.as_str())
        {
            // `matches(text, pattern)` or `text.find(pattern, limit)`: a text that is none costs nothing before it is used.
            let texts = args.iter().filter_map(|arg| match &arg.node {
                Node::Literal(Literal::String(text)) => Some(text.to_string()),
                _ => None,
            });
            self.0.extend(texts.map(|text| (text, OnceLock::new())));
        }
        expr.children(&mut |child| self.collect(child));
    }

    /// The pattern of this text; the error says why it is none.
    pub fn get(&self, text: &str) -> Result<Cow<'_, Pattern>, String> {
        let Some(place) = self.0.get(text) else {
            return regexes::compile(text).map(Cow::Owned);
        };
        if let Some(kept) = place.get() {
            return Ok(Cow::Borrowed(&kept.0));
        }
        let pattern = regexes::compile(text)?;
        Ok(match Kept::new(pattern) {
            Ok(kept) => Cow::Borrowed(&place.get_or_init(|| kept).0),
            Err(pattern) => Cow::Owned(pattern),
        })
    }
}

/// A pattern with its part of [`ROOM`].
#[derive(Debug)]
struct Kept(Pattern);

impl Kept {
    /// Gives it back when there is no room.
    fn new(pattern: Pattern) -> Result<Kept, Pattern> {
        let before = TAKEN.fetch_add(pattern.weight(), Ordering::Relaxed);
        let kept = Kept(pattern);
        match before.saturating_add(kept.0.weight()) <= ROOM {
            true => Ok(kept),
            false => Err(kept.0.clone()),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0.weight(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    #[test]
    fn what_an_expression_spells_out_is_compiled_once_while_there_is_room() {
        let expr = parse("[a, 'b'].all(x, x.matches('^a+$') || x.find(a) == 'c+') && matches(a, 'd')");
        let patterns = Patterns::of(&expr.expect("parses"));
        for (text, is_kept) in [("^a+$", true), ("d", true), ("c+", false), ("e", false)] {
            for _ in 0..2 {
                let pattern = patterns.get(text).expect("compiles");
                assert_eq!(matches!(pattern, Cow::Borrowed(_)), is_kept, "{text}");
            }
        }
        let pattern = regexes::compile("^a+$").expect("compiles");
        let fitting = ROOM / pattern.weight();
        let kept: Vec<_> = (0..=fitting).map(|_| Kept::new(pattern.clone())).collect();
        assert!(kept.last().is_some_and(Result::is_err));
        assert!(kept.first().is_some_and(Result::is_ok));
        drop(kept);
        assert!(Kept::new(pattern).is_ok());
    }

    #[test]
    fn what_is_no_pattern_is_told_each_time() {
        let expr = parse("'a'.matches('(')").expect("parses");
        let patterns = Patterns::of(&expr);
        for _ in 0..2 {
            assert!(patterns.get("(").is_err());
        }
    }
}

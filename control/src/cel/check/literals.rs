//! Arguments that are wrong whatever the rest of the expression is: patterns, durations and times that are written out.
use crate::cel::Mistake;
use crate::cel::moment::Moment;
use crate::cel::syntax::{Expr, Literal, Node};
use crate::cel::text;
use crate::kinds::regexes;

/// The mistake of text that the function cannot read. Upstream looks at the first argument, which of `matches(text, pattern)` is
/// the text.
pub(super) fn valid(function: &str, args: &[Expr]) -> Option<Mistake> {
    let Some(Expr {
        at,
        node: Node::Literal(literal),
        ..
    }) = args.first()
    else {
        return None;
    };
    let is_valid = match (function, literal) {
        ("duration", Literal::String(text)) => text::duration(text).is_some(),
        ("timestamp", Literal::String(text)) => Moment::written(text).is_some(),
        ("timestamp", Literal::Int(second)) => Moment::from_second(*second).is_some(),
        ("matches", Literal::String(text)) => regexes::compile(text).is_ok(),
        ("duration" | "timestamp", Literal::Null) => false,
        _ => true,
    };
    (!is_valid).then(|| Mistake::new(*at, format!("invalid {function} argument")))
}

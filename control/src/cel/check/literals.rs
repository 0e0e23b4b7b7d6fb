//! Arguments that are wrong whatever the rest of the expression is: patterns, durations and times that are written out.
use crate::cel::Mistake;
use crate::cel::moment::Moment;
use crate::cel::syntax::{Expr, Literal, Node};
use crate::cel::text;
use crate::kinds::regexes;

/// Fails for text that the function cannot read.
pub(super) fn valid(function: &str, args: &[Expr]) -> Result<(), Mistake> {
    let readable: fn(&str) -> bool = match function {
        "duration" => |text| text::duration(text).is_some(),
        "timestamp" => |text| Moment::parse(text).is_some(),
        "matches" => |text| regexes::compile(text).is_ok(),
        _ => return Ok(()),
    };
    let Some(Expr {
        at,
        node: Node::Literal(literal),
        ..
    }) = args.last()
    else {
        return Ok(());
    };
    let is_valid = match literal {
        Literal::String(text) => readable(text),
        other => *other != Literal::Null,
    };
    match is_valid {
        true => Ok(()),
        false => Err(Mistake::new(*at, format!("invalid {function} argument"))),
    }
}

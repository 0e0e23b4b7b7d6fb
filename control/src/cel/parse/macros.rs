//! What looks like a method and binds names: `all`, `map`, `optMap` and the like.
use super::Parsed;
use crate::cel::Mistake;
use crate::cel::syntax::{Binding, Each, EachKind, Expr, Node};

const SIMPLE: &str = "argument must be a simple name";

fn variable(expr: Expr, why: &str) -> Result<String, Mistake> {
    match expr.node {
        Node::Name(name) => Ok(name),
        _ => Err(Mistake::new(expr.at, why)),
    }
}

/// The second variable of a loop.
fn other_variable(expr: Expr, first: &str) -> Result<String, Mistake> {
    let at = expr.at;
    match variable(expr, SIMPLE)? {
        name if name == first => Err(Mistake::new(at, format!("duplicate variable name: {name}"))),
        name => Ok(name),
    }
}

pub(super) fn bind(at: usize, how: Binding, value: Expr, args: Vec<Expr>) -> Parsed {
    let mut args = args.into_iter();
    let missing = || Mistake::new(at, "a binding needs a name and a body");
    let why = match how {
        Binding::Always => "cel.bind() variable names must be simple identifiers",
        Binding::Map => "optMap() variable name must be a simple identifier",
        Binding::FlatMap => "optFlatMap() variable name must be a simple identifier",
    };
    let name = variable(args.next().ok_or_else(missing)?, why)?;
    let body = args.next().ok_or_else(missing)?.into();
    Ok(Expr::new(
        at,
        Node::Bind {
            how,
            name,
            value: value.into(),
            body,
        },
    ))
}

/// The macro of a name and a number of arguments, and how many of them are variables.
pub(super) fn each_kind(function: &str, args: usize) -> Option<(EachKind, usize)> {
    Some(match (function, args) {
        ("all", 2 | 3) => (EachKind::All, args - 1),
        ("exists", 2 | 3) => (EachKind::Exists, args - 1),
        ("exists_one", 2) => (EachKind::ExistsOne, 1),
        ("exists_one" | "existsOne", 3) => (EachKind::ExistsOne, 2),
        ("filter", 2) => (EachKind::Filter, 1),
        ("map", 2 | 3) => (EachKind::Map, 1),
        ("sortBy", 2) => (EachKind::SortBy, 1),
        ("transformList", 3 | 4) => (EachKind::TransformList, 2),
        ("transformMap", 3 | 4) => (EachKind::TransformMap, 2),
        ("transformMapEntry", 3 | 4) => (EachKind::TransformMapEntry, 2),
        _ => return None,
    })
}

pub(super) fn each(at: usize, kind: EachKind, over: Expr, names: usize, args: Vec<Expr>) -> Parsed {
    let mut args = args.into_iter();
    let missing = || Mistake::new(at, "a macro needs a variable and a body");
    let why = match kind {
        EachKind::Map | EachKind::Filter => "argument is not an identifier",
        _ => SIMPLE,
    };
    let name = variable(args.next().ok_or_else(missing)?, why)?;
    let second = match names {
        2 => Some(other_variable(args.next().ok_or_else(missing)?, &name)?),
        _ => None,
    };
    let first = args.next().ok_or_else(missing)?;
    let (condition, body) = match args.next() {
        Some(body) => (Some(first), body),
        None => (None, first),
    };
    let each = Each {
        kind,
        over,
        name,
        second,
        condition,
        body,
    };
    Ok(Expr::new(at, Node::Each(Box::new(each))))
}

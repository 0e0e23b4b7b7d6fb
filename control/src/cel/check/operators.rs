//! What operators take and give, and the sentence for what they do not take.
use crate::cel::Mistake;
use crate::cel::syntax::Operator;
use crate::cel::types::Type;

pub(super) fn joined(types: &[Type]) -> String {
    types
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

pub(super) fn no_overload(word: &str, types: &[Type], at: usize) -> Mistake {
    let types = joined(types);
    Mistake::new(
        at,
        format!("found no matching overload for '{word}' applied to '({types})'"),
    )
}

/// The sentence for what should be of one type and is of another.
pub(super) fn expected(wanted: &Type, found: &Type, at: usize) -> Mistake {
    Mistake::new(at, format!("expected type '{wanted}' but found '{found}'"))
}

/// The type that an operator makes of two.
pub(super) fn operated(operator: Operator, a: &Type, b: &Type) -> Option<Type> {
    match operator {
        Operator::Equal | Operator::Unequal => a.fits(b).then_some(Type::Bool),
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            is_compared(a, b).then_some(Type::Bool)
        }
        Operator::In => match b {
            Type::List(item, _) => a.fits(item).then_some(Type::Bool),
            Type::Map(key, _, _) => a.fits(key).then_some(Type::Bool),
            Type::Dyn | Type::Open => Some(Type::Bool),
            _ => None,
        },
        _ => calculated(operator, a, b),
    }
}

/// Values of one type that has an order, or numbers of any; what may be null has one too.
fn is_compared(a: &Type, b: &Type) -> bool {
    let number = |ty: &Type| matches!(ty, Type::Int | Type::Uint | Type::Double | Type::Dyn | Type::Open);
    let orders = |ty: &Type| ty.is_ordered() || *ty == Type::Null;
    orders(a) && orders(b) && (a.fits(b) || number(a) && number(b))
}

/// The result of all overloads that take both; anything where they differ.
fn calculated(operator: Operator, a: &Type, b: &Type) -> Option<Type> {
    let mut found: Option<Type> = None;
    for (left, right, result) in overloads(operator) {
        if a.fits(left) && b.fits(right) {
            match &found {
                Some(before) if before != result => return Some(Type::Dyn),
                _ => found = Some(result.clone()),
            }
        }
    }
    let list = match operator {
        Operator::Add => added_lists(a, b),
        _ => None,
    };
    match (found, list) {
        (Some(_), Some(_)) => Some(Type::Dyn),
        (Some(Type::String(_)), None) => Some(Type::String(added_length(a, b))),
        (found, list) => found.or(list),
    }
}

fn overloads(operator: Operator) -> &'static [(Type, Type, Type)] {
    const NUMBERS: [(Type, Type, Type); 3] = [
        (Type::Int, Type::Int, Type::Int),
        (Type::Uint, Type::Uint, Type::Uint),
        (Type::Double, Type::Double, Type::Double),
    ];
    const WHOLE: [(Type, Type, Type); 2] = [
        (Type::Int, Type::Int, Type::Int),
        (Type::Uint, Type::Uint, Type::Uint),
    ];
    const SUMS: [(Type, Type, Type); 8] = [
        (Type::Int, Type::Int, Type::Int),
        (Type::Uint, Type::Uint, Type::Uint),
        (Type::Double, Type::Double, Type::Double),
        (Type::String(None), Type::String(None), Type::String(None)),
        (Type::Bytes, Type::Bytes, Type::Bytes),
        (Type::Duration, Type::Duration, Type::Duration),
        (Type::Duration, Type::Timestamp, Type::Timestamp),
        (Type::Timestamp, Type::Duration, Type::Timestamp),
    ];
    const DIFFERENCES: [(Type, Type, Type); 6] = [
        (Type::Int, Type::Int, Type::Int),
        (Type::Uint, Type::Uint, Type::Uint),
        (Type::Double, Type::Double, Type::Double),
        (Type::Duration, Type::Duration, Type::Duration),
        (Type::Timestamp, Type::Duration, Type::Timestamp),
        (Type::Timestamp, Type::Timestamp, Type::Duration),
    ];
    match operator {
        Operator::Add => &SUMS,
        Operator::Subtract => &DIFFERENCES,
        Operator::Modulo => &WHOLE,
        _ => &NUMBERS,
    }
}

fn added_lists(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::List(x, m), Type::List(y, n)) if x.fits(y) => {
            let item = x.as_ref().clone().join(y.as_ref().clone());
            let length = m.zip(*n).map(|(m, n)| m.saturating_add(n));
            Some(Type::List(item.into(), length))
        }
        (Type::List(item, _), Type::Dyn | Type::Open) | (Type::Dyn | Type::Open, Type::List(item, _)) => {
            Some(Type::List(item.clone(), None))
        }
        (Type::Dyn | Type::Open, Type::Dyn | Type::Open) => Some(Type::Dyn),
        _ => None,
    }
}

fn added_length(a: &Type, b: &Type) -> Option<u64> {
    match (a, b) {
        (Type::String(x), Type::String(y)) => x.zip(*y).map(|(x, y)| x.saturating_add(y)),
        _ => None,
    }
}

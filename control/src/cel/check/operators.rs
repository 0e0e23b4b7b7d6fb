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

/// The type that an operator makes of two.
pub(super) fn operated(operator: Operator, a: &Type, b: &Type) -> Option<Type> {
    let ordered = |ty: &Type| {
        matches!(
            ty,
            Type::Bool
                | Type::Int
                | Type::Uint
                | Type::Double
                | Type::String(_)
                | Type::Bytes
                | Type::Timestamp
                | Type::Duration
                | Type::Dyn
        )
    };
    let number = |ty: &Type| matches!(ty, Type::Int | Type::Uint | Type::Double | Type::Dyn);
    let any = matches!(a, Type::Dyn) || matches!(b, Type::Dyn);
    match operator {
        Operator::Equal | Operator::Unequal => a.fits(b).then_some(Type::Bool),
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
            let comparable = ordered(a) && ordered(b) && (a.fits(b) || number(a) && number(b));
            comparable.then_some(Type::Bool)
        }
        Operator::In => match b {
            Type::List(item, _) => a.fits(item).then_some(Type::Bool),
            Type::Map(key, _, _) => a.fits(key).then_some(Type::Bool),
            Type::Dyn => Some(Type::Bool),
            _ => None,
        },
        _ if any => Some(Type::Dyn),
        Operator::Modulo => {
            matches!((a, b), (Type::Int, Type::Int) | (Type::Uint, Type::Uint)).then(|| a.clone())
        }
        Operator::Multiply | Operator::Divide => (number(a) && a == b).then(|| a.clone()),
        Operator::Add | Operator::Subtract => sum_type(operator, a, b),
    }
}

fn sum_type(operator: Operator, a: &Type, b: &Type) -> Option<Type> {
    let adds = operator == Operator::Add;
    match (a, b) {
        (Type::Int, Type::Int) | (Type::Uint, Type::Uint) | (Type::Double, Type::Double) => Some(a.clone()),
        (Type::Duration, Type::Duration) => Some(Type::Duration),
        (Type::Timestamp, Type::Duration) => Some(Type::Timestamp),
        (Type::Duration, Type::Timestamp) if adds => Some(Type::Timestamp),
        (Type::Timestamp, Type::Timestamp) if !adds => Some(Type::Duration),
        (Type::String(x), Type::String(y)) if adds => {
            Some(Type::String(x.zip(*y).map(|(x, y)| x.saturating_add(y))))
        }
        (Type::Bytes, Type::Bytes) if adds => Some(Type::Bytes),
        (Type::List(x, m), Type::List(y, n)) if adds && x.fits(y) => {
            let item = x.as_ref().clone().join(y.as_ref().clone());
            Some(Type::List(
                item.into(),
                m.zip(*n).map(|(m, n)| m.saturating_add(n)),
            ))
        }
        _ => None,
    }
}

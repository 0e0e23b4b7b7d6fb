//! What operators take and give, and the sentence for what they do not take.
use super::cost::{FORMATS, compared, sum, tenth};
use super::sizes::{Known, Size};
use super::{Checked, is_any};
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
            Type::List(item) => a.fits(item).then_some(Type::Bool),
            Type::Map(key, _) => a.fits(key).then_some(Type::Bool),
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
        (Type::String, Type::String, Type::String),
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
        (Type::List(x), Type::List(y)) if x.fits(y) => {
            Some(Type::list(x.as_ref().clone().join(y.as_ref().clone())))
        }
        (Type::List(item), Type::Dyn | Type::Open) | (Type::Dyn | Type::Open, Type::List(item)) => {
            Some(Type::List(item.clone()))
        }
        (Type::Dyn | Type::Open, Type::Dyn | Type::Open) => Some(Type::Dyn),
        _ => None,
    }
}

/// What an operator makes of two, with what it costs and how large it is.
pub(super) fn counted(operator: Operator, ty: Type, a: &Checked, b: &Checked) -> Checked {
    let cost = match operator {
        Operator::Add => return added(ty, a, b),
        Operator::Equal => equal(a, b),
        Operator::Unequal => compared(&a.known, &b.known),
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => before(a, b),
        Operator::In if matches!(b.ty, Type::List(_)) => b.known.size().most,
        Operator::In if is_any(&b.ty) => b.known.size().most.max(1),
        _ => 1,
    };
    let known = Known::made(&ty);
    Checked::of(ty, sum(&[a.cost, b.cost, cost]), known)
}

/// Kubernetes' own types are compared at once.
fn equal(a: &Checked, b: &Checked) -> u64 {
    match (&a.ty, &b.ty) {
        (Type::Ip, Type::Ip)
        | (Type::Cidr, Type::Cidr)
        | (Type::Quantity, Type::Quantity)
        | (Type::Semver, Type::Semver) => 1,
        (Type::Asking(a), Type::Asking(b)) if a == b => 1,
        (Type::Format, Type::Format) => FORMATS,
        (Type::Url, Type::Url) => tenth(b.known.size.unwrap_or(Size::ONE).most),
        _ => compared(&a.known, &b.known),
    }
}

/// Texts are gone through until they differ; of what can be anything, upstream counts the dearest overload.
fn before(a: &Checked, b: &Checked) -> u64 {
    let text = |ty: &Type| matches!(ty, Type::String | Type::Bytes);
    match (&a.ty, &b.ty) {
        (x, y) if text(x) || text(y) => compared(&a.known, &b.known),
        (x, y) if is_any(x) && is_any(y) => compared(&a.known, &b.known).max(1),
        _ => 1,
    }
}

fn added(ty: Type, a: &Checked, b: &Checked) -> Checked {
    let size = a.known.size().plus(b.known.size());
    let kind = |of: fn(&Type) -> bool| of(&a.ty) || of(&b.ty);
    let (cost, size) = match () {
        () if kind(|ty| matches!(ty, Type::String | Type::Bytes)) => (tenth(size.most), Some(size)),
        () if kind(|ty| matches!(ty, Type::List(_))) => (1, Some(size)),
        () if is_any(&a.ty) && is_any(&b.ty) => (tenth(size.most).max(1), Some(size)),
        () => (1, None),
    };
    let mut known = Known::made(&ty);
    if size.is_some() {
        known.entries = a.known.entries.zip(b.known.entries).map(|(a, b)| a.or(b));
    }
    Checked::of(ty, sum(&[a.cost, b.cost, cost]), known).sized(size)
}

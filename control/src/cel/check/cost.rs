//! What a call costs, by the sizes of what it is given, and how large its result is.
use super::UNBOUNDED;
use crate::cel::functions::lists::comparing;
use crate::cel::types::Type;

/// What a function costs beyond its call, by the sizes of what it is given.
pub(super) fn own_cost(name: &str, sizes: &[u64]) -> u64 {
    let first = sizes.first().copied().unwrap_or(0);
    let second = sizes.get(1).copied().unwrap_or(0);
    match name {
        "matches" | "find" | "findAll" => tenth(first).saturating_mul(second.div_ceil(4).max(1)),
        "contains" => tenth(first).saturating_mul(tenth(second).max(1)),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => first.saturating_mul(second),
        "sort" | "distinct" => comparing(first),
        "isSorted" | "sum" | "min" | "max" | "join" | "flatten" | "indexOf" | "lastIndexOf" => first,
        "size" | "type" | "dyn" | "hasValue" | "value" | "orValue" | "or" => 0,
        "startsWith" | "endsWith" => tenth(second),
        _ => sizes
            .iter()
            .fold(0, |total: u64, s| total.saturating_add(tenth(*s))),
    }
}

/// Results are no larger than what they were made of.
pub(super) fn sized(ty: Type, name: &str, sizes: &[u64]) -> Type {
    let all = sizes.iter().fold(0, |total: u64, s| total.saturating_add(*s));
    match (ty, name) {
        (Type::String(None), "replace") => Type::String(Some(all.saturating_mul(all.max(1)).min(UNBOUNDED))),
        (Type::String(None), _) => Type::String(Some(all.saturating_mul(4).max(64))),
        (Type::List(item, None), _) => Type::List(item, Some(all.max(1))),
        (other, _) => other,
    }
}

/// The most parts that a value of this type can have.
pub(super) fn size(ty: &Type) -> u64 {
    match ty {
        Type::String(max) => max.unwrap_or(UNBOUNDED),
        Type::List(_, max) | Type::Map(_, _, max) => max.unwrap_or(UNBOUNDED),
        Type::Bytes => UNBOUNDED,
        _ => 1,
    }
}

pub(super) fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

pub(super) fn sum(costs: &[u64]) -> u64 {
    costs
        .iter()
        .fold(0, |total: u64, cost| total.saturating_add(*cost))
}

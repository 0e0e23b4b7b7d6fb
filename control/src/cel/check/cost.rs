//! What a call costs, by the sizes of what it is given, and how large its result is.
//!
//! What is unbounded here is so upstream too: there, a text that a function makes has a known size only where it follows
//! from what went in.
use super::UNBOUNDED;
use crate::cel::functions::lists::comparing;
use crate::cel::types::Type;

/// What the longest pattern of a named format counts for.
const FORMAT_PATTERN: u64 = 32;
/// Comparing two addresses, or two ranges.
const ADDRESSES: u64 = 4;
const RANGES: u64 = 7;

/// What a call is given: the types of its target and its arguments.
pub(super) struct Given<'a> {
    pub types: &'a [&'a Type],
    /// Whether the first is part of what is declared. The elements of a list that was made are of no known size.
    pub declared: bool,
}

impl Given<'_> {
    fn first(&self) -> u64 {
        self.types.first().map_or(0, |ty| size(ty))
    }

    fn second(&self) -> u64 {
        self.types.get(1).map_or(0, |ty| size(ty))
    }

    /// The size of an element, when the first is a list of texts.
    fn element(&self) -> Option<u64> {
        match self.types.first() {
            Some(Type::List(item, _)) if matches!(**item, Type::String(_) | Type::Bytes) => {
                match self.declared {
                    true => Some(size(item)),
                    false => Some(u64::MAX),
                }
            }
            _ => None,
        }
    }

    /// The length of all elements joined.
    fn joined(&self) -> u64 {
        let elements = self.first().saturating_mul(self.element().unwrap_or(0));
        let between = self.first().saturating_sub(1).saturating_mul(self.second());
        elements.saturating_add(between)
    }

    /// What going through the first costs: all of a list, or the characters of a text.
    fn passed(&self) -> u64 {
        match self.types.first() {
            Some(Type::String(_)) => tenth(self.first()),
            _ => {
                let element = self.element().map_or(1, |size| tenth(size).saturating_add(1));
                self.first().saturating_mul(element)
            }
        }
    }
}

/// What a function costs beside what it is given.
pub(super) fn own_cost(name: &str, given: &Given<'_>) -> u64 {
    let (first, second) = (given.first(), given.second());
    match name {
        "matches" | "find" | "findAll" => pattern(first, second.div_ceil(4)),
        "validate" => pattern(second, FORMAT_PATTERN),
        "contains" => tenth(first).saturating_mul(tenth(second)),
        "startsWith" | "endsWith" => tenth(second),
        "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" => given.passed(),
        "join" => tenth(given.joined()),
        "split" | "replace" | "ip.isCanonical" => tenth(first.saturating_mul(2)),
        "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "format"
        | "bytes"
        | "strings.quote"
        | "url"
        | "jsonpatch.escapeKey"
        | "ip"
        | "isIP"
        | "cidr"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => tenth(first),
        "string" if matches!(given.types, [Type::Bytes]) => tenth(first),
        "containsIP" => tenth(second).saturating_add(ADDRESSES),
        "containsCIDR" => tenth(second).saturating_add(RANGES),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => first.saturating_mul(second),
        "sort" | "distinct" => comparing(first),
        "flatten" => first,
        _ => 1,
    }
}

/// The empty text is searched too.
fn pattern(text: u64, pattern: u64) -> u64 {
    tenth(text.saturating_add(1)).saturating_mul(pattern)
}

pub(super) fn sized(ty: Type, name: &str, given: &Given<'_>) -> Type {
    let sizes = given.types.iter().map(|ty| size(ty));
    let all = sizes.fold(0, u64::saturating_add);
    match (ty, name) {
        (Type::String(_), _) => Type::String(length(name, given, all)),
        // Parts are counted for their number alone.
        (Type::List(_, None), "split" | "findAll") => {
            Type::List(Type::String(Some(0)).into(), Some(given.first()))
        }
        (Type::List(item, None), _) => Type::List(item, Some(all.max(1))),
        (other, _) => other,
    }
}

/// The most characters of a text that a function makes, where they are known.
fn length(name: &str, given: &Given<'_>, all: u64) -> Option<u64> {
    let first = given.first();
    match name {
        "lowerAscii" | "upperAscii" | "substring" | "trim" | "find" | "jsonpatch.escapeKey" => Some(first),
        "string" if matches!(given.types, [Type::Bytes | Type::Dyn | Type::Open]) => Some(first),
        "strings.quote" => Some(first.saturating_mul(2).saturating_add(2)),
        "replace" => Some(all.saturating_mul(all.max(1)).min(UNBOUNDED)),
        "join" => Some(given.joined()),
        _ => None,
    }
}

/// The most parts that a value of this type can have.
pub(super) fn size(ty: &Type) -> u64 {
    match ty {
        Type::String(max) => max.unwrap_or(u64::MAX),
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

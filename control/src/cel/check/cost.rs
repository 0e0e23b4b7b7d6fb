//! What a call costs, by the sizes of what it is given, and how large its result is: as Kubernetes' libraries and cel-go's
//! estimate both. What decides which definitions are taken is not ours to judge anew.
use super::sizes::{Known, Size};
use super::{Checked, is_any};
use crate::cel::syntax::{Expr, Literal, Node};
use crate::cel::types::Type;

/// Going through a text once, for each character.
const TEXT: f64 = 0.1;
/// A pattern has an expression in every four characters.
const PATTERN: f64 = 0.25;
/// What the longest pattern of a named format counts for.
const FORMAT_PATTERN: f64 = 32.0;
/// Comparing two addresses, or two ranges; two formats.
const ADDRESSES: u64 = 4;
const RANGES: u64 = 7;
pub(super) const FORMATS: u64 = 7;
/// Making a list.
const LIST: u64 = 10;

/// What a call is given.
pub(super) struct Given<'a> {
    pub target: Option<&'a Checked>,
    pub args: &'a [Checked],
    pub written: &'a [Expr],
}

/// What a call costs beside what it is given, and the size of its result where that follows.
pub(super) struct Charge {
    pub cost: u64,
    pub size: Option<Size>,
}

fn only(cost: u64) -> Option<Charge> {
    Some(Charge { cost, size: None })
}

fn sized(cost: u64, size: Size) -> Option<Charge> {
    Some(Charge {
        cost,
        size: Some(size),
    })
}

impl Given<'_> {
    fn on(&self) -> Size {
        self.target.map_or(Size::UNKNOWN, |target| target.known.size())
    }

    fn arg(&self, at: usize) -> Size {
        self.args.get(at).map_or(Size::UNKNOWN, |arg| arg.known.size())
    }

    fn takes(&self, ty: &Type) -> bool {
        self.args.first().is_some_and(|arg| arg.ty == *ty)
    }

    fn takes_any(&self) -> bool {
        self.args.first().is_some_and(|arg| is_any(&arg.ty))
    }

    /// A whole number that is written out, as long as it is none below zero.
    fn number(&self, at: usize) -> Option<u64> {
        match self.written.get(at).map(|arg| &arg.node) {
            Some(Node::Literal(Literal::Int(n))) => Some(u64::try_from(*n).unwrap_or(0)),
            _ => None,
        }
    }

    /// The type and size of an element of the target.
    fn element(&self) -> Option<(&Type, Size)> {
        let target = self.target?;
        match &target.ty {
            Type::List(item) => Some((item, target.known.element())),
            _ => None,
        }
    }
}

pub(super) fn charge(name: &str, given: &Given<'_>) -> Charge {
    let found = texts(name, given).or_else(|| lists(name, given));
    found
        .or_else(|| parsed(name, given))
        .unwrap_or(Charge { cost: 1, size: None })
}

fn texts(name: &str, given: &Given<'_>) -> Option<Charge> {
    let (on, first) = (given.on(), given.arg(0));
    match name {
        "matches" if given.target.is_some() => only(searched(on, first)),
        "find" | "findAll" => sized(searched(on, first), Size::to(on.most)),
        "contains" => only(tenth(on.most).saturating_mul(tenth(first.most))),
        "startsWith" | "endsWith" => only(tenth(first.most)),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => sized(tenth(on.most), on),
        "url" | "jsonpatch.escapeKey" => sized(tenth(first.most), first),
        "format" => only(tenth(on.most)),
        "strings.quote" => sized(
            tenth(first.most),
            first.times(Size { least: 1, most: 2 }).plus(Size::fixed(2)),
        ),
        "split" => sized(
            factor(on.most, 2.0 * TEXT),
            Size::to(given.number(1).unwrap_or(on.most)),
        ),
        "replace" => sized(factor(on.most, 2.0 * TEXT), replaced(on, first, given.arg(1))),
        "join" => {
            let size = joined(given);
            sized(tenth(size.most), size)
        }
        "bytes" if given.takes(&Type::String) || given.takes_any() => {
            sized(converted(given), first.times(Size { least: 1, most: 4 }))
        }
        "string" if given.takes(&Type::Bytes) || given.takes_any() => sized(
            converted(given),
            Size {
                least: first.least / 4,
                most: first.most,
            },
        ),
        _ => None,
    }
}

/// Other overloads, which take what can be anything, cost one.
fn converted(given: &Given<'_>) -> u64 {
    tenth(given.arg(0).most).max(u64::from(given.takes_any()))
}

/// The empty text is searched too.
fn searched(text: Size, pattern: Size) -> u64 {
    tenth(text.most.saturating_add(1)).saturating_mul(factor(pattern.most, PATTERN))
}

/// A text of which parts are replaced: the most that is put in, and what of the text is counted beside it.
fn replaced(on: Size, part: Size, by: Size) -> Size {
    let (count, kept) = if part.least == 0 {
        (on.most.saturating_add(1), on.most)
    } else if by.most <= part.least {
        (0, on.most)
    } else {
        (times_within(on.most, part.least), 0)
    };
    let (fewest, left) = if part.most == 0 {
        (on.least.saturating_add(1), on.least)
    } else if part.most <= by.least {
        (0, on.least)
    } else {
        (times_within(on.least, part.most), 0)
    };
    Size {
        least: fewest.saturating_mul(by.least).saturating_add(left),
        most: count.saturating_mul(by.most).saturating_add(kept),
    }
}

fn times_within(whole: u64, part: u64) -> u64 {
    (whole as f64 / part as f64).ceil() as u64
}

fn joined(given: &Given<'_>) -> Size {
    let on = given.on();
    let all = match given.element() {
        Some((_, size)) => on.times(size),
        None => Size::fixed(0),
    };
    let between = Size {
        least: on.least.saturating_sub(1),
        most: on.most.saturating_sub(1),
    };
    match given.args.is_empty() {
        true => all,
        false => all.plus(given.arg(0).times(between)),
    }
}

fn lists(name: &str, given: &Given<'_>) -> Option<Charge> {
    let on = given.on();
    match name {
        "isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf" => only(match given.element() {
            Some((Type::String | Type::Bytes, size)) => {
                on.most.saturating_mul(tenth(size.most).saturating_add(1))
            }
            Some(_) => on.most,
            None => tenth(on.most),
        }),
        "slice" => {
            let end = given.number(1).unwrap_or(on.most);
            made(1.0, Size::fixed(end.wrapping_sub(given.number(0).unwrap_or(0))))
        }
        "lists.range" => made(1.0, Size::fixed(given.number(0).unwrap_or(u64::MAX))),
        "reverse" => made(1.0, on),
        "flatten" => {
            let depth = match given.args.is_empty() {
                true => 1,
                false => given.number(0).unwrap_or(u64::MAX),
            };
            made(depth as f64, on)
        }
        "distinct" => made(2.0, on.times(on)),
        "sort" => {
            let element = given.element().map(|(ty, _)| ty.clone());
            let (cost, size) = sorted(&element.unwrap_or(Type::Dyn), on);
            sized(cost, size)
        }
        "sets.contains" | "sets.intersects" => only(given.arg(0).times(given.arg(1)).most.saturating_add(1)),
        "sets.equivalent" => only(factor(given.arg(0).times(given.arg(1)).most, 2.0).saturating_add(1)),
        _ => None,
    }
}

/// A list that a function makes, by what each of so many costs.
fn made(each: f64, size: Size) -> Option<Charge> {
    sized(allocated(each, size), size)
}

fn allocated(each: f64, size: Size) -> u64 {
    factor(size.most, each).saturating_add(LIST + 1)
}

/// The cost of sorting by keys of this type, and the size that the result is taken for: that of all comparisons.
pub(super) fn sorted(keys: &Type, count: Size) -> (u64, Size) {
    let each = match keys {
        Type::String | Type::Bytes | Type::Dyn | Type::Open => 2.0 + TEXT,
        _ => 2.0,
    };
    let compared = count.times(count);
    (allocated(each, compared), compared)
}

/// What is read from a text.
fn parsed(name: &str, given: &Given<'_>) -> Option<Charge> {
    let first = given.arg(0).most;
    let text = match given.takes(&Type::String) || given.takes_any() {
        true => tenth(first),
        false => 0,
    };
    match name {
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => only(tenth(first)),
        // Of a range it is there already.
        "ip" if given.target.is_none() => only(tenth(first)),
        "ip.isCanonical" => only(factor(first, 2.0 * TEXT)),
        "containsIP" => only(text.saturating_add(ADDRESSES)),
        "containsCIDR" => only(text.saturating_add(RANGES)),
        "validate" => only(factor(tenth(first), FORMAT_PATTERN)),
        _ => None,
    }
}

/// What comparing two values costs: going through the shorter.
pub(super) fn compared(a: &Known, b: &Known) -> u64 {
    tenth(a.size().most.min(b.size().most))
}

pub(super) fn tenth(size: u64) -> u64 {
    factor(size, TEXT)
}

/// So many times so much, rounded up as floating point has it.
fn factor(size: u64, each: f64) -> u64 {
    (size as f64 * each).ceil() as u64
}

pub(super) fn sum(costs: &[u64]) -> u64 {
    costs
        .iter()
        .fold(0, |total: u64, cost| total.saturating_add(*cost))
}

//! What is done with lists: slices, sets, sums, orders. Every element that is made is charged.
use super::{count, failed, to_text};
use crate::cel::eval::{EvalError, Evaluated, Run};
use crate::cel::operators::equal;
use crate::cel::value::{List, Value};
use std::rc::Rc;

pub(super) fn on_list<'a>(
    run: &mut Run<'a, '_>,
    name: &str,
    list: &List<'a>,
    args: &[Value<'a>],
) -> Evaluated<'a> {
    run.charge(list.len() as u64)?;
    let items: Vec<Value<'a>> = list.iter().collect();
    let optional = |item: Option<&Value<'a>>| Ok(Value::Optional(item.cloned().map(Rc::new)));
    match (name, args) {
        ("size", []) => Ok(count(items.len())),
        ("join", rest) => {
            let by = match rest {
                [Value::String(by)] => by.to_string(),
                _ => String::new(),
            };
            let texts = items.iter().map(to_text).collect::<Result<Vec<_>, _>>()?;
            let total = texts.iter().map(|t| t.len() + by.len()).sum::<usize>();
            run.charge_text(total as u64)?;
            Ok(Value::text(texts.join(&by)))
        }
        ("isSorted", []) => Ok(Value::Bool(
            items
                .windows(2)
                .all(|w| w[0].order(&w[1]).is_some_and(|o| o.is_le())),
        )),
        ("min" | "max", []) => extreme(items, name == "min"),
        ("sum", []) => summed(items),
        ("indexOf" | "lastIndexOf", [wanted]) => {
            let mut at = None;
            for (i, item) in items.iter().enumerate() {
                if (at.is_none() || name == "lastIndexOf") && equal(run, item, wanted)? {
                    at = Some(i);
                }
            }
            Ok(at.map_or(Value::Int(-1), count))
        }
        ("first", []) => optional(items.first()),
        ("last", []) => optional(items.last()),
        ("reverse", []) => Ok(Value::list(items.into_iter().rev().collect())),
        ("slice", [Value::Int(from), Value::Int(to)]) => match (usize::try_from(*from), usize::try_from(*to))
        {
            (Ok(a), Ok(b)) if a <= b && b <= items.len() => Ok(Value::list(items[a..b].to_vec())),
            _ => failed(format!("index out of bounds: [{from}, {to}]")),
        },
        ("distinct", []) => distinct(run, items),
        ("sort", []) => {
            let keys = items.clone();
            sorted(run, items, &keys)
        }
        ("flatten", rest) => {
            let depth = match rest {
                [Value::Int(n)] => u8::try_from(*n).unwrap_or(32).min(32),
                _ => 1,
            };
            let mut out = Vec::new();
            flatten(run, items, depth, &mut out)?;
            Ok(Value::list(out))
        }
        _ => Err(EvalError::no_overload()),
    }
}

/// What it costs to compare so many elements with each other (cel-go's `trackListSelfCompare`).
pub fn comparing(count: u64) -> u64 {
    count.saturating_mul(count).saturating_mul(2)
}

/// Items in the order of their keys, which are of one type: between types there is no order of all of them.
pub fn sorted<'a>(run: &mut Run<'a, '_>, items: Vec<Value<'a>>, keys: &[Value<'a>]) -> Evaluated<'a> {
    run.charge(comparing(items.len() as u64))?;
    for pair in keys.windows(2) {
        if pair[0].type_name() != pair[1].type_name() {
            return failed("list elements must have the same type");
        }
        if pair[0].order(&pair[1]).is_none() {
            return Err(EvalError::no_overload());
        }
    }
    let mut pairs: Vec<(Value<'a>, &Value<'a>)> = items.into_iter().zip(keys).collect();
    pairs.sort_by(|(_, a), (_, b)| a.order(b).unwrap_or(std::cmp::Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(item, _)| item).collect()))
}

fn flatten<'a>(
    run: &mut Run<'a, '_>,
    items: Vec<Value<'a>>,
    depth: u8,
    out: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    run.charge(items.len() as u64)?;
    for item in items {
        match item {
            Value::List(inner) if depth > 0 => flatten(run, inner.iter().collect(), depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn distinct<'a>(run: &mut Run<'a, '_>, items: Vec<Value<'a>>) -> Evaluated<'a> {
    let mut out: Vec<Value<'a>> = Vec::new();
    for item in items {
        let mut known = false;
        for other in &out {
            run.charge(1)?;
            if equal(run, &item, other)? {
                known = true;
                break;
            }
        }
        if !known {
            out.push(item);
        }
    }
    Ok(Value::list(out))
}

fn extreme<'a>(items: Vec<Value<'a>>, least: bool) -> Evaluated<'a> {
    let mut items = items.into_iter();
    let first = items.next().ok_or_else(|| {
        EvalError::new(format!(
            "{} called on empty list",
            if least { "min" } else { "max" }
        ))
    })?;
    items.try_fold(first, |best, item| {
        let order = item.order(&best).ok_or_else(EvalError::no_overload)?;
        Ok(if order.is_lt() == least && order.is_ne() {
            item
        } else {
            best
        })
    })
}

fn summed<'a>(items: Vec<Value<'a>>) -> Evaluated<'a> {
    let overflow = || EvalError::new("integer overflow");
    let mut items = items.into_iter();
    let Some(first) = items.next() else {
        return Ok(Value::Int(0));
    };
    items.try_fold(first, |total, item| match (total, item) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::Duration(a), Value::Duration(b)) => {
            a.checked_add(b).map(Value::Duration).ok_or_else(overflow)
        }
        _ => Err(EvalError::no_overload()),
    })
}

pub(super) fn has<'a>(run: &mut Run<'a, '_>, list: &List<'a>, wanted: &Value<'a>) -> Result<bool, EvalError> {
    for item in list.iter() {
        run.charge(1)?;
        if equal(run, &item, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether every element of `a` is in `b`.
pub(super) fn subset<'a>(run: &mut Run<'a, '_>, a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    for item in a.iter() {
        if !has(run, b, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

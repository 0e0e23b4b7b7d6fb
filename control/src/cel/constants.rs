//! What can be told of an expression without its variables: conversions of constants, and patterns. Upstream makes both when
//! it plans a program, and has none of an expression in which one fails, even where it would never be run.
use super::functions;
use super::syntax::{Expr, Node};
use super::value::{Key, Value, constant};
use crate::kinds::regexes;
use std::collections::{BTreeMap, BTreeSet};

/// Fails with the words of the first conversion or pattern that cannot be, or of a type that is to be a key.
pub(super) fn check(expr: &Expr) -> Result<(), String> {
    folded(expr)?;
    let (mut bound, mut keys) = (BTreeSet::new(), BTreeSet::new());
    names(expr, &mut bound, &mut keys);
    let is_type = |name: &&str| functions::type_named(name).is_some() && !bound.contains(name);
    match keys.into_iter().find(is_type) {
        Some(_) => Err("invalid qualifier type: *types.Type".to_owned()),
        None => Ok(()),
    }
}

/// The names that the expression gives to something, and those between brackets.
fn names<'a>(expr: &'a Expr, bound: &mut BTreeSet<&'a str>, keys: &mut BTreeSet<&'a str>) {
    match &expr.node {
        Node::Each(each) => {
            bound.insert(&each.name);
            bound.extend(each.second.as_deref());
        }
        Node::Bind { name, .. } => {
            bound.insert(name);
        }
        Node::Index { index, .. } => {
            if let Node::Name(name) = &index.node {
                keys.insert(name);
            }
        }
        _ => {}
    }
    expr.children(&mut |part| names(part, bound, keys));
}

/// The value of a part that is constant.
fn folded(expr: &Expr) -> Result<Option<Value<'_>>, String> {
    match &expr.node {
        Node::Literal(literal) => Ok(Some(constant(literal))),
        Node::List(items) => list(items),
        Node::Map(entries) => map(entries),
        Node::Call {
            target,
            function,
            args,
        } => call(target.as_deref(), function, args),
        Node::Index { of, index, .. } => {
            folded(of)?;
            folded(index)?.map_or(Ok(()), |index| index.qualifier())?;
            Ok(None)
        }
        _ => {
            let mut found = Ok(None);
            expr.children(&mut |part| {
                if found.is_ok() {
                    found = folded(part).map(|_| None);
                }
            });
            found
        }
    }
}

fn list(items: &[(Expr, bool)]) -> Result<Option<Value<'_>>, String> {
    let mut values = Vec::with_capacity(items.len());
    for (item, optional) in items {
        values.push(folded(item)?.filter(|_| !optional));
    }
    let values: Option<Vec<Value<'_>>> = values.into_iter().collect();
    Ok(values.map(Value::list))
}

fn map(entries: &[(Expr, Expr, bool)]) -> Result<Option<Value<'_>>, String> {
    let mut members: Option<BTreeMap<Key, Value<'_>>> = Some(BTreeMap::new());
    for (key, value, optional) in entries {
        let (key, value) = (folded(key)?, folded(value)?.filter(|_| !optional));
        let member = key.and_then(|key| key.key()).zip(value);
        members = members.zip(member).map(|(mut members, (key, value))| {
            members.insert(key, value);
            members
        });
    }
    Ok(members.map(Value::map))
}

fn call<'a>(target: Option<&'a Expr>, function: &str, args: &'a [Expr]) -> Result<Option<Value<'a>>, String> {
    let mut values = Vec::with_capacity(args.len() + 1);
    for part in target.into_iter().chain(args) {
        values.push(folded(part)?);
    }
    match (function, values.as_slice()) {
        ("matches" | "find" | "findAll", [_, Some(Value::String(pattern)), ..]) => {
            regexes::compile(pattern)?;
            Ok(None)
        }
        ("dyn", [Some(value)]) => Ok(Some(value.clone())),
        (name, [Some(value)]) if functions::is_conversion(name) && target.is_none() => {
            functions::convert(name, value)
                .map(Some)
                .map_err(|e| e.to_string())
        }
        _ => Ok(None),
    }
}

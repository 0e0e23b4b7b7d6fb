//! Who owns what of a new object, written down at once: all of it is its creator's.
//!
//! Most objects are created by somebody who says nothing of owners, and stored as they were made. Their `fieldsV1` is
//! written from the object itself, without sets in between; it is what [`super::update`] would come to (a test says so).
//! Whatever is not that plain is left to it.
use super::compare::{is_bare, mixed};
use super::element::Element;
use super::fields::grouped;
use super::managers::{Manager, NOT_OWNED, Operation};
use super::reset::Filter;
use super::shape::{Form, Items, Shape};
use super::update::{Writer, empty};
use crate::kinds::Kind;
use serde_json::{Map, Value};

/// The `metadata.managedFields` of a new object, as text. None when it takes the long way.
pub fn first(kind: &Kind, writer: Writer<'_>, new: &mut Value) -> Option<String> {
    if !writer.subresource.is_empty() || !new["metadata"]["managedFields"].is_null() {
        return None;
    }
    kind.normalise(new);
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(b"[{\"apiVersion\":");
    let version = kind.api_version();
    text(&mut out, &version);
    out.extend_from_slice(b",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
    object(&mut out, kind, new)?;
    out.extend_from_slice(b",\"manager\":");
    text(
        &mut out,
        &Manager::new(Operation::Update, writer.name, &version, "").name,
    );
    out.extend_from_slice(b",\"operation\":\"Update\",\"time\":");
    text(&mut out, writer.now);
    out.extend_from_slice(b"}]");
    String::from_utf8(out).ok()
}

/// The fields of the whole object. None when nothing is owned, or it is not plain.
fn object(out: &mut Vec<u8>, kind: &Kind, new: &Value) -> Option<()> {
    let passed = Filter::of(kind, "").top()?;
    let (shape, old) = (Shape::of(kind), empty(kind));
    let mut level = Level::begin(out);
    for (name, value) in new.as_object()? {
        let Some(inner) = shape.member(name) else { continue };
        let before = old.get(name);
        match name.as_str() {
            "apiVersion" | "kind" => {}
            name if passed.contains(&name) => {}
            "metadata" => level.member(out, name, |out| metadata(out, inner, before, value))?,
            name => level.member(out, name, |out| changed(out, inner, before, value))?,
        }
    }
    level.end(out).then_some(())
}

fn metadata(out: &mut Vec<u8>, shape: Shape<'_>, old: Option<&Value>, new: &Value) -> Option<bool> {
    let mut level = Level::begin(out);
    for (name, value) in new.as_object()? {
        if NOT_OWNED.contains(&name.as_str()) {
            continue;
        }
        let Some(inner) = shape.member(name) else { continue };
        let before = old.and_then(|old| old.get(name));
        level.member(out, name, |out| changed(out, inner, before, value))?;
    }
    Some(level.end(out))
}

/// What of a value is new; whether anything is.
fn changed(out: &mut Vec<u8>, shape: Shape<'_>, old: Option<&Value>, new: &Value) -> Option<bool> {
    let Some(old) = old else {
        whole(out, shape, new);
        return Some(true);
    };
    let either = if new.is_null() { old } else { new };
    let bare = is_bare(Some(old)) && is_bare(Some(new));
    if shape.is_leaf(either) || bare || mixed(Some(old), Some(new)) {
        out.extend_from_slice(b"{}");
        return Some(old != new);
    }
    match new {
        Value::Object(map) => {
            let mut level = Level::begin(out);
            for (name, value) in map {
                let Some(inner) = shape.member(name) else { continue };
                level.member(out, name, |out| changed(out, inner, old.get(name), value))?;
            }
            Some(level.end(out))
        }
        Value::Array(list) if is_bare(Some(old)) => {
            let mut level = Level::begin(out);
            items(out, &mut level, shape, list);
            Some(level.end(out))
        }
        Value::Array(_) => None,
        _ => Some(false),
    }
}

/// Everything of a value where there was none, itself included.
fn whole(out: &mut Vec<u8>, shape: Shape<'_>, new: &Value) {
    if shape.is_leaf(new) {
        out.extend_from_slice(b"{}");
        return;
    }
    let mut level = Level::begin(out);
    level.own(out);
    match new {
        Value::Object(map) => members(out, &mut level, shape, map),
        Value::Array(list) => items(out, &mut level, shape, list),
        _ => {}
    }
    level.end(out);
}

fn members(out: &mut Vec<u8>, level: &mut Level, shape: Shape<'_>, map: &Map<String, Value>) {
    for (name, value) in map {
        if let Some(inner) = shape.member(name) {
            level.field(out, name);
            whole(out, inner, value);
        }
    }
}

/// In the order of their names, as members of an object are kept. Items that share their element are one leaf.
fn items(out: &mut Vec<u8>, level: &mut Level, shape: Shape<'_>, list: &[Value]) {
    let mut found = named(shape, list).unwrap_or_else(|| elements(shape, list));
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    for same in found.chunk_by(|(a, _), (b, _)| a == b) {
        level.next(out);
        text(out, &same[0].0);
        out.push(b':');
        match same {
            [(_, only)] => whole(out, shape.item(), only),
            _ => out.extend_from_slice(b"{}"),
        }
    }
}

/// The items with the names of their elements.
fn elements<'v>(shape: Shape<'_>, list: &'v [Value]) -> Vec<(String, &'v Value)> {
    let groups = grouped(shape, list).into_iter();
    let named = groups.flat_map(|(element, items)| {
        let name = element.encoded();
        items.into_iter().map(move |item| (name.clone(), item))
    });
    named.collect()
}

/// As [`elements`], without making any. None where what is equal may be written in two ways.
fn named<'v>(shape: Shape<'_>, list: &'v [Value]) -> Option<Vec<(String, &'v Value)>> {
    let mut found = Vec::with_capacity(list.len());
    for item in list {
        let name = match shape.form {
            Form::List(_, Items::ByKeys(keys)) if keys.is_sorted() => keyed(shape, keys, item)?,
            Form::List(_, Items::ByValue) if is_plain(item) => Some(format!("v:{item}")),
            _ => return None,
        };
        found.extend(name.map(|name| (name, item)));
    }
    Some(found)
}

/// The name of an item by its keys; none of what has no keys.
fn keyed(shape: Shape<'_>, keys: &[String], item: &Value) -> Option<Option<String>> {
    let Value::Object(map) = item else {
        return Some(None);
    };
    let mut name = b"k:{".to_vec();
    let bare = name.len();
    for key in keys {
        let Some(value) = map.get(key).or_else(|| shape.item().default_of(key)) else {
            continue;
        };
        if !is_plain(value) {
            return None;
        }
        if name.len() > bare {
            name.push(b',');
        }
        text(&mut name, key);
        name.push(b':');
        // A Vec takes all bytes: nothing can fail.
        let _ = serde_json::to_writer(&mut name, value);
    }
    let is_named = name.len() > bare;
    name.push(b'}');
    Some(String::from_utf8(name).ok().filter(|_| is_named))
}

/// A scalar that is written in one way only.
fn is_plain(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Bool(_)) || value.is_i64()
}

/// An object of `fieldsV1` that is being written.
struct Level {
    start: usize,
    /// Beside the mark of the object itself.
    below: bool,
    own: bool,
}

/// The mark of a level that is owned itself beside what is below it.
const OWN: &[u8] = b"\".\":{}";

impl Level {
    fn begin(out: &mut Vec<u8>) -> Level {
        let start = out.len();
        out.push(b'{');
        Level {
            start,
            below: false,
            own: false,
        }
    }

    fn own(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(OWN);
        self.own = true;
    }

    fn next(&mut self, out: &mut Vec<u8>) {
        if self.below || self.own {
            out.push(b',');
        }
        self.below = true;
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &str) {
        self.next(out);
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            out.extend_from_slice(b"\"f:");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
        } else {
            text(out, &Element::field(name).encoded());
            out.push(b':');
        }
    }

    /// A field with what `write` has to say of it; it is as if it had not been there when that is nothing.
    fn member(
        &mut self,
        out: &mut Vec<u8>,
        name: &str,
        write: impl FnOnce(&mut Vec<u8>) -> Option<bool>,
    ) -> Option<()> {
        let (mark, below) = (out.len(), self.below);
        self.field(out, name);
        if !write(out)? {
            out.truncate(mark);
            self.below = below;
        }
        Some(())
    }

    /// Whether there is anything in it. What is owned with nothing below bears no mark.
    fn end(self, out: &mut Vec<u8>) -> bool {
        if !self.below {
            out.truncate(self.start + 1);
        }
        out.push(b'}');
        self.below || self.own
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    // A Vec takes all bytes: nothing can fail.
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::super::update;
    use super::*;
    use crate::kinds::Registry;
    use crate::kinds::schema::{Definition, Schemas, Type};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Bytes that decide what an object looks like; zeros when they are used up.
    struct Dice<'a>(std::slice::Iter<'a, u8>);

    impl Dice<'_> {
        fn roll(&mut self, sides: usize) -> usize {
            usize::from(self.0.next().copied().unwrap_or(0)) % sides
        }
    }

    fn any_of(schemas: &Schemas, ty: &Type, dice: &mut Dice<'_>, depth: usize) -> Value {
        let count = if depth == 0 { 0 } else { dice.roll(3) };
        match ty {
            Type::Bool => (dice.roll(2) == 0).into(),
            Type::Int32 | Type::Int64 | Type::IntOrString => dice.roll(3).into(),
            Type::Float => 1.5.into(),
            Type::List(item) => (0..count)
                .map(|_| any_of(schemas, item, dice, depth - 1))
                .collect(),
            Type::Map(item) => {
                let keys = ["a", "b.c/d", "\"é"].into_iter().take(count);
                let members = keys.map(|key| (key.to_owned(), any_of(schemas, item, dice, depth - 1)));
                Value::Object(members.collect())
            }
            Type::Ref(_) => match schemas.resolve(ty) {
                Some(definition) => of(schemas, definition, dice, depth),
                None => Value::Null,
            },
            Type::Any => [Value::Null, 1.into(), serde_json::json!({"x": [1]})][dice.roll(3)].clone(),
            _ => ["", "a", "b"][dice.roll(3)].into(),
        }
    }

    fn of(schemas: &Schemas, definition: &Definition, dice: &mut Dice<'_>, depth: usize) -> Value {
        if let Some(alias) = &definition.alias {
            return any_of(schemas, alias, dice, depth);
        }
        let mut map = Map::new();
        for field in &definition.fields {
            if depth > 0 && dice.roll(3) == 0 {
                map.insert(field.name.clone(), any_of(schemas, &field.ty, dice, depth - 1));
            }
        }
        Value::Object(map)
    }

    fn writer() -> Writer<'static> {
        Writer {
            name: "m",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
        }
    }

    fn long_way(kind: &Arc<Kind>, mut object: Value) -> Value {
        update(kind, writer(), None, &mut object, &|value, _| {
            Some((kind.clone(), value.clone()))
        });
        object
    }

    proptest! {
        #[test]
        fn it_is_what_the_long_way_comes_to(at: prop::sample::Index, dice in prop::collection::vec(any::<u8>(), 0..400)) {
            let kinds: Vec<_> = Registry::builtin().iter().cloned().collect();
            let kind = at.get(&kinds);
            let mut object = of(&kind.schemas, &kind.definition, &mut Dice(dice.iter()), 7);
            object["metadata"]["name"] = "o".into();
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
            let long = long_way(kind, object.clone());
            if let Some(short) = first(kind, writer(), &mut object) {
                prop_assert_eq!(short, long["metadata"]["managedFields"].to_string());
                let mut rest = long;
                rest["metadata"].as_object_mut().unwrap().remove("managedFields");
                prop_assert_eq!(object, rest);
            }
        }
    }

    #[test]
    fn a_pod_is_plain_and_what_says_who_owns_it_is_not() {
        let kind = Registry::builtin().resource("", "v1", "pods").unwrap();
        let mut pod = serde_json::json!({
            "metadata": {"name": "p", "labels": {"a.b/c": "x"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
        });
        let long = long_way(kind, pod.clone());
        let short = first(kind, writer(), &mut pod).expect("plain");
        assert_eq!(short, long["metadata"]["managedFields"].to_string());
        pod["metadata"]["managedFields"] = serde_json::json!([{}]);
        assert_eq!(first(kind, writer(), &mut pod), None);
    }
}

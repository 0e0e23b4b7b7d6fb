//! What a create, an update or a patch does to ownership.
use super::Convert;
use super::compare::{Comparison, compare};
use super::managers::{Manager, Managers, Operation, Owned, is_reset, strip};
use super::reset::Filter;
use super::set::Set;
use super::shape::{Form, Shape};
use crate::kinds::Kind;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who writes, and on which path.
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    pub name: &'a str,
    pub subresource: &'a str,
    /// RFC 3339.
    pub now: &'a str,
}

/// Sets `metadata.managedFields` of an object that is about to be stored. It comes in wire form, as
/// `old` is, which is none for a new object. Objects that differ in nothing keep their entries.
pub fn update(kind: &Kind, writer: Writer<'_>, old: Option<&Value>, new: &mut Value, convert: &Convert<'_>) {
    let said = take(new);
    kind.normalise(new);
    let creates = old.is_none();
    let mut old = old.cloned().unwrap_or_else(|| empty(kind));
    let before = take(&mut old);
    let states = States::new(kind, &old, new, writer.subresource, convert);
    let comparison = states.compare(kind, &old, new);
    if comparison.is_same() && (said.is_null() || said == before) {
        return put_back(new, before);
    }
    let Some(mut managers) = starting(&said, &before, writer.subresource, creates) else {
        return;
    };
    reconcile_all(kind, &old, &mut managers, convert);
    if !comparison.is_same() {
        let manager = Manager::new(
            Operation::Update,
            writer.name,
            &kind.api_version(),
            writer.subresource,
        );
        own(&mut managers, manager, &states, comparison, writer.now);
        managers.cap();
    }
    put(new, &managers);
}

/// Adds what changed to the manager's fields, and takes it from all others.
fn own(managers: &mut Managers, manager: Manager, states: &States<'_>, changes: Comparison, now: &str) {
    let version = manager.version.clone();
    let mut gained = match managers.is_empty() {
        true => changes.into_taken(),
        false => {
            let gained = changes.taken();
            states.yield_to(managers, None, changes);
            gained
        }
    };
    strip(&mut gained);
    if gained.is_empty() {
        return;
    }
    let owned = managers.0.entry(manager).or_insert_with(|| Owned {
        set: Set::default(),
        version,
        time: None,
    });
    owned.set.add(gained);
    owned.time = Some(now.to_owned());
}

/// The owners that a write begins with; none when ownership of the object is not tracked.
fn starting(said: &Value, before: &Value, subresource: &str, creates: bool) -> Option<Managers> {
    let of_object = || Managers::parse(before).unwrap_or_default();
    let managers = match said {
        _ if !subresource.is_empty() => of_object(),
        said if is_reset(said) => Managers::default(),
        said => match Managers::parse(said) {
            Ok(managers) if !managers.is_empty() => managers,
            _ => of_object(),
        },
    };
    (creates || !managers.is_empty()).then_some(managers)
}

/// An object of the kind with nothing set, in wire form.
pub fn empty(kind: &Kind) -> Value {
    let mut value = Value::Object(Map::new());
    kind.normalise(&mut value);
    value
}

pub fn take(object: &mut Value) -> Value {
    let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
    meta.and_then(|meta| meta.remove("managedFields"))
        .unwrap_or(Value::Null)
}

pub fn without_managers(mut object: Value) -> Value {
    take(&mut object);
    object
}

pub fn put(object: &mut Value, managers: &Managers) {
    put_back(object, managers.encoded().unwrap_or_default());
}

fn put_back(object: &mut Value, entries: Value) {
    let meta = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let (Some(meta), false) = (meta, entries.is_null()) {
        meta.insert("managedFields".into(), entries);
    }
}

/// The object before and after, and as other versions show it.
pub struct States<'a> {
    version: String,
    old: &'a Value,
    new: &'a Value,
    subresource: &'a str,
    filter: Filter,
    convert: &'a Convert<'a>,
}

impl<'a> States<'a> {
    pub fn new(
        kind: &Kind,
        old: &'a Value,
        new: &'a Value,
        subresource: &'a str,
        convert: &'a Convert<'a>,
    ) -> Self {
        States {
            version: kind.api_version(),
            old,
            new,
            subresource,
            filter: Filter::of(kind, subresource),
            convert,
        }
    }

    pub fn compare(&self, kind: &Kind, old: &Value, new: &Value) -> Comparison {
        let mut comparison = compare(Shape::of(kind), old, new);
        for set in [
            &mut comparison.added,
            &mut comparison.modified,
            &mut comparison.removed,
        ] {
            self.filter.apply(set);
        }
        comparison
    }

    /// The comparison in another version; none when that is not served any more.
    fn compare_at(&self, version: &str) -> Option<Comparison> {
        let (kind, old): (Arc<Kind>, Value) = (self.convert)(self.old, version)?;
        let (_, new) = (self.convert)(self.new, version)?;
        let other = States {
            version: version.to_owned(),
            filter: Filter::of(&kind, self.subresource),
            ..*self
        };
        Some(other.compare(&kind, &old, &new))
    }

    /// Who, but `except`, owns what the new object adds or changes.
    pub fn conflicts(
        &self,
        managers: &Managers,
        except: &Manager,
        changes: &Comparison,
    ) -> Vec<(Manager, Set)> {
        let mut taken: BTreeMap<&str, Set> = BTreeMap::from([(self.version.as_str(), changes.taken())]);
        let mut found = Vec::new();
        for (manager, owned) in managers.0.iter().filter(|(m, _)| *m != except) {
            let taken = taken.entry(&owned.version).or_insert_with(|| {
                self.compare_at(&owned.version)
                    .map_or_else(Set::default, |c| c.taken())
            });
            let conflict = owned.set.common(taken);
            if !conflict.is_empty() {
                found.push((manager.clone(), conflict));
            }
        }
        found
    }

    /// Takes from everybody but `except` what the new object adds, changes or has no more. Owners in versions that are
    /// not served any more are forgotten.
    pub fn yield_to(&self, managers: &mut Managers, except: Option<&Manager>, changes: Comparison) {
        let mut lost: BTreeMap<String, Option<Set>> = BTreeMap::new();
        lost.insert(self.version.clone(), Some(everything(changes)));
        managers.0.retain(|manager, owned| {
            if Some(manager) == except {
                return true;
            }
            let lost = lost
                .entry(owned.version.clone())
                .or_insert_with(|| self.compare_at(&owned.version).map(everything));
            let Some(lost) = lost else { return false };
            owned.set.subtract(lost);
            !owned.set.is_empty()
        });
    }
}

fn everything(changes: Comparison) -> Set {
    let mut set = changes.taken();
    set.add(changes.removed);
    set
}

/// Brings the sets of all owners to what the schemas say now.
pub fn reconcile_all(kind: &Kind, live: &Value, managers: &mut Managers, convert: &Convert<'_>) {
    let own = kind.api_version();
    for owned in managers.0.values_mut() {
        if owned.version == own {
            reconcile(Shape::of(kind), &mut owned.set);
        } else if let Some((kind, _)) = convert(live, &owned.version) {
            reconcile(Shape::of(&kind), &mut owned.set);
        }
    }
}

/// Brings sets to what the schema says now: where something is owned as a whole by now, what is owned below it
/// becomes the whole.
fn reconcile(shape: Shape<'_>, set: &mut Set) {
    for (element, node) in set.iter_mut() {
        let inner = match (shape.form, element) {
            (Form::List(..), _) => Some(shape.item()),
            (_, super::element::Element::Field(name)) => shape.member(name),
            _ => None,
        };
        let Some(inner) = inner else { continue };
        match inner.atomic && !node.below.is_empty() {
            true => *node = super::set::Node::leaf(),
            false => reconcile(inner, &mut node.below),
        }
    }
}

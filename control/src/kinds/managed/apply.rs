//! Server-side apply: a configuration merged into an object, with conflicts, and without what its manager applied
//! before and does not any more.
use super::Convert;
use super::check::check;
use super::fields::fields;
use super::last_applied;
use super::managers::{Manager, Managers, Operation, Owned, strip};
use super::merge::merge;
use super::remove::{remove, with_named};
use super::reset::Filter;
use super::set::{Path, Set, shown};
use super::shape::Shape;
use super::update::{States, Writer, empty, put, reconcile_all, take, update, without_managers};
use crate::kinds::Kind;
use crate::kinds::bounded::{MOST, ROOM};
use serde_json::Value;

/// Fields that another manager owns with another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    pub manager: Manager,
    pub path: Path,
}

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration does not fit the schema.
    #[error("failed to create typed patch object ({0}): {1}")]
    Typed(String, String),
    #[error("failed to decode managed fields: {0}")]
    Managers(String),
    /// As many of them as are told, and how many there are.
    #[error("{1} conflicts")]
    Conflicts(Vec<Conflict>, usize),
}

impl Conflict {
    pub fn field(&self) -> String {
        shown(&self.path)
    }
}

/// Who owned the fields of an object that had no owners when it was first applied to.
const BEFORE: &str = "before-first-apply";

/// What applying `config` makes of `old` (none when it is not there yet). The result is to be decoded, defaulted and
/// validated like any update. The configuration has the kind's own version and no managed fields.
pub fn apply(
    kind: &Kind,
    writer: Writer<'_>,
    force: bool,
    old: Option<&Value>,
    config: &Value,
    convert: &Convert<'_>,
) -> Result<Value, ApplyError> {
    fits(kind, config)?;
    let mut live = old.cloned().unwrap_or_else(|| empty(kind));
    let mut managers = Managers::parse(&live["metadata"]["managedFields"]).map_err(ApplyError::Managers)?;
    if managers.is_empty() && old.is_some() {
        let before = Writer {
            name: BEFORE,
            ..writer
        };
        update(kind, before, None, &mut live, convert);
        managers = Managers::parse(&live["metadata"]["managedFields"]).map_err(ApplyError::Managers)?;
    }
    let live = without_managers(live);
    let applying = Applying {
        kind,
        writer,
        live: &live,
        config,
        convert,
    };
    match applying.run(managers.clone(), force) {
        Err(conflicts) => {
            let left = last_applied::conflicts_left(kind, writer.name, &live, conflicts);
            if !left.is_empty() {
                return Err(listed(left));
            }
            applying.run(managers, true).map_err(listed)
        }
        Ok(new) => Ok(new),
    }
    .map(|mut new| {
        last_applied::refresh(writer.name, &mut new, config);
        new
    })
}

/// Whether a configuration fits its kind's schema.
pub fn fits(kind: &Kind, config: &Value) -> Result<(), ApplyError> {
    check(Shape::of(kind), config).map_err(|why| ApplyError::Typed(described(kind, config), why))
}

/// `namespace/name; apps/v1, Kind=Deployment`.
fn described(kind: &Kind, config: &Value) -> String {
    let text = |key: &str| config["metadata"][key].as_str().unwrap_or_default();
    let (group, version) = (&kind.group, &kind.version);
    format!(
        "{}/{}; {group}/{version}, Kind={}",
        text("namespace"),
        text("name"),
        kind.kind
    )
}

/// Who owns what an apply would change.
pub type Conflicting = Vec<(Manager, Set)>;

struct Applying<'a> {
    kind: &'a Kind,
    writer: Writer<'a>,
    live: &'a Value,
    config: &'a Value,
    convert: &'a Convert<'a>,
}

impl Applying<'_> {
    fn run(&self, mut managers: Managers, force: bool) -> Result<Value, Conflicting> {
        let (kind, subresource) = (self.kind, self.writer.subresource);
        reconcile_all(kind, self.live, &mut managers, self.convert);
        let me = Manager::new(Operation::Apply, self.writer.name, "", subresource);
        let last = managers.0.remove(&me);
        let mut set = fields(Shape::of(kind), self.config);
        Filter::of(kind, subresource).apply(&mut set);
        let mine = Owned {
            set,
            version: kind.api_version(),
            time: last.as_ref().and_then(|last| last.time.clone()),
        };
        managers.0.insert(me.clone(), mine);
        let merged = merge(Shape::of(kind), self.live, self.config);
        let mut new = match last {
            Some(last) if !last.set.is_empty() => self.prune(merged, &managers, &last),
            _ => merged,
        };
        take(&mut new);
        self.settle(&mut managers, &me, &new, force)?;
        put(&mut new, &managers);
        Ok(new)
    }

    /// Takes what changes from its owners, or says who they are.
    fn settle(
        &self,
        managers: &mut Managers,
        me: &Manager,
        new: &Value,
        force: bool,
    ) -> Result<(), Conflicting> {
        let states = States::new(self.kind, self.live, new, self.writer.subresource, self.convert);
        let changes = states.compare(self.kind, self.live, new);
        if !force {
            let conflicts = states.conflicts(managers, me, &changes);
            if !conflicts.is_empty() {
                return Err(conflicts);
            }
        }
        states.yield_to(managers, Some(me), changes);
        if let Some(mine) = managers.0.get_mut(me) {
            strip(&mut mine.set);
            if self.live != new {
                mine.time = Some(self.writer.now.to_owned());
            }
        }
        managers.sweep();
        Ok(())
    }

    /// Removes what this manager applied last time, does not apply this time, and nobody else owns.
    fn prune(&self, merged: Value, managers: &Managers, last: &Owned) -> Value {
        let own = self.kind.api_version();
        let Some((kind, at_last)) = self.at(&merged, &last.version) else {
            return merged;
        };
        let shape = Shape::of(&kind);
        let last_set = with_named(Some(shape), &last.set);
        let pruned = remove(shape, &at_last, &last_set);
        let pruned = self.add_back_owned(&at_last, pruned, &last.version, managers);
        let pruned = add_back_dangling(shape, &at_last, &pruned, &last_set);
        self.at(&pruned, &own).map_or(merged, |(_, pruned)| pruned)
    }

    /// Puts back what somebody owns, version by version, the one that was pruned first.
    fn add_back_owned(&self, merged: &Value, pruned: Value, version: &str, managers: &Managers) -> Value {
        let mut owned: std::collections::BTreeMap<&str, Set> = std::collections::BTreeMap::new();
        for theirs in managers.0.values() {
            owned.entry(&theirs.version).or_default().add(theirs.set.clone());
        }
        let first = owned.remove_entry(version);
        let mut states = (merged.clone(), pruned);
        let mut at = version;
        for (version, set) in first.into_iter().chain(owned) {
            let (Some((kind, merged)), Some((_, pruned))) =
                (self.at(&states.0, version), self.at(&states.1, version))
            else {
                continue;
            };
            let pruned = add_back(Shape::of(&kind), &merged, &pruned, &set);
            states = (merged, pruned);
            at = version;
        }
        if at == version {
            return states.1;
        }
        self.at(&states.1, version).map_or(states.1, |(_, pruned)| pruned)
    }

    fn at(&self, value: &Value, version: &str) -> Option<(std::sync::Arc<Kind>, Value)> {
        (self.convert)(value, version)
    }
}

/// What is in the merged object, was pruned, and is not owned, is removed; the rest stays.
fn add_back(shape: Shape<'_>, merged: &Value, pruned: &Value, owned: &Set) -> Value {
    let named = |set: &Set| with_named(Some(shape), set);
    let mut gone = named(&fields(shape, merged));
    gone.subtract(&named(&fields(shape, pruned)));
    gone.subtract(&named(owned));
    remove(shape, merged, &gone)
}

/// Puts back what went with its parents and was never this manager's.
fn add_back_dangling(shape: Shape<'_>, merged: &Value, pruned: &Value, last: &Set) -> Value {
    let mut gone = with_named(Some(shape), &fields(shape, merged));
    gone.subtract(&with_named(Some(shape), &fields(shape, pruned)));
    remove(shape, merged, &gone.common(last))
}

/// Each path of each manager, as long as there is room for what is told of them.
fn listed(conflicts: Conflicting) -> ApplyError {
    let count = conflicts.iter().map(|(_, set)| set.len()).sum();
    let (mut told, mut left) = (Vec::new(), ROOM);
    for (manager, set) in conflicts {
        set.each_path(&mut |path| {
            if left > 0 && told.len() < MOST {
                left = left.saturating_sub(shown(path).len());
                told.push(Conflict {
                    manager: manager.clone(),
                    path: path.to_vec(),
                });
            }
        });
    }
    ApplyError::Conflicts(told, count)
}

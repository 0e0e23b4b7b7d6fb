//! Ownership of the number of replicas when it is set by way of the Scale.
use super::apply::Conflict;
use super::element::Element;
use super::managers::{Manager, Managers, Operation, Owned};
use super::set::{Path, Set};
use serde_json::Value;

const SUBRESOURCE: &str = "scale";

/// What conflicts name as the version of who updated the number.
const VERSION: &str = "autoscaling/v1";

/// As a Scale has it, and most of what is scaled.
fn replicas() -> Path {
    vec![Element::field("spec"), Element::field("replicas")]
}

/// A write of a Scale: by whom, and whether it changes the number of replicas.
pub struct Rescaling<'a> {
    pub writer: &'a str,
    pub operation: Operation,
    /// The version of the object.
    pub version: &'a str,
    /// Where the object has the number, when it is a custom resource.
    pub path: Option<&'a [String]>,
    /// Whether the Scale has a number: who applies one without gives theirs up.
    pub says: bool,
    pub changes: bool,
}

impl Manager {
    /// As who applies a Scale is told of it: appliers have no version.
    fn by_scale(mut self) -> Self {
        if !self.version.is_empty() {
            VERSION.clone_into(&mut self.version);
        }
        self
    }
}

impl Rescaling<'_> {
    fn path(&self) -> Path {
        match self.path {
            Some(names) => names.iter().map(|name| Element::field(name)).collect(),
            None => replicas(),
        }
    }

    fn manager(&self) -> Manager {
        Manager::new(self.operation, self.writer, self.version, SUBRESOURCE)
    }
}

/// Whether the number goes because who applied it no longer says it, and nobody else owns it.
pub fn given_up(entries: &Value, rescaling: &Rescaling<'_>) -> bool {
    let managers = Managers::parse(entries).unwrap_or_default();
    let path = rescaling.path();
    let mut owners = managers.0.iter().filter(|(_, owned)| owned.set.has(&path));
    !rescaling.says
        && owners.next().is_some_and(|(m, _)| *m == rescaling.manager())
        && owners.next().is_none()
}

/// Who else owns the replicas that an apply would change.
pub fn conflicts(entries: &Value, rescaling: &Rescaling<'_>) -> Vec<Conflict> {
    let managers = Managers::parse(entries).unwrap_or_default();
    let me = rescaling.manager();
    let path = rescaling.path();
    let owns = |owned: &Owned| rescaling.says && rescaling.changes && owned.set.has(&path);
    let others = managers
        .0
        .into_iter()
        .filter(|(m, owned)| *m != me && owns(owned));
    others
        .map(|(manager, _)| Conflict {
            manager: manager.by_scale(),
            path: replicas(),
        })
        .collect()
}

/// The managed fields of an object after its replicas were set by its Scale; none when nothing changes about them. As
/// upstream has it, a new owner's entry has no time.
pub fn rescaled(entries: &Value, rescaling: &Rescaling<'_>) -> Option<Value> {
    let mut managers = Managers::parse(entries).unwrap_or_default();
    if managers.is_empty() || (!rescaling.changes && rescaling.operation == Operation::Update) {
        return None;
    }
    let me = rescaling.manager();
    let mut set = Set::default();
    set.insert(&rescaling.path());
    let time = managers.0.get(&me).and_then(|owned| owned.time.clone());
    if rescaling.changes {
        managers.0.values_mut().for_each(|owned| owned.set.subtract(&set));
    } else if let Some(mine) = managers.0.get_mut(&me) {
        mine.set.subtract(&set);
    }
    managers.sweep();
    if !rescaling.says {
        return managers.encoded();
    }
    let version = rescaling.version.to_owned();
    managers.0.insert(me, Owned { set, version, time });
    managers.encoded()
}

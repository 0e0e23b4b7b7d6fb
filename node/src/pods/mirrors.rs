//! What is known of the mirrors of static Pods. Two tell of them in no common order: the watch, which may lag, and the answers
//! to what this node does itself. Owns what is believed, and what is under way; refuses to know what is due and how it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// `namespace/name` of a Pod.
pub type Name = String;

#[derive(Default)]
pub struct Mirrors {
    known: BTreeMap<Name, Arc<Pod>>,
    /// Those that are made, removed or looked for; whether the watch told of one meanwhile.
    busy: BTreeMap<Name, bool>,
}

impl Mirrors {
    pub fn get(&self, name: &Name) -> Option<&Arc<Pod>> {
        self.known.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        self.known.keys()
    }

    /// The watch tells of a mirror, or that it is gone, maybe long after its successor was made.
    pub fn hear(&mut self, name: Name, mirror: Pod, gone: bool) {
        if let Some(heard) = self.busy.get_mut(&name) {
            *heard = true;
        }
        if !gone {
            self.known.insert(name, Arc::new(mirror));
        } else if self
            .known
            .get(&name)
            .is_some_and(|known| known.metadata.uid == mirror.metadata.uid)
        {
            self.known.remove(&name);
        }
    }

    /// After a listing: only these uids exist.
    pub fn keep(&mut self, listed: &BTreeSet<String>) {
        self.busy.values_mut().for_each(|heard| *heard = true);
        let exists = |mirror: &Arc<Pod>| {
            mirror
                .metadata
                .uid
                .as_ref()
                .is_some_and(|uid| listed.contains(uid))
        };
        self.known.retain(|_, mirror| exists(mirror));
    }

    pub fn is_busy(&self, name: &Name) -> bool {
        self.busy.contains_key(name)
    }

    pub fn begin(&mut self, name: Name) {
        self.busy.insert(name, false);
    }

    /// What was begun failed: nothing is learnt.
    pub fn fail(&mut self, name: &Name) {
        self.busy.remove(name);
    }

    /// Takes the mirror that the API server had when it answered. False when the watch told something meanwhile: nobody knows
    /// which of the two is newer, and the API server must be asked.
    #[must_use]
    pub fn end(&mut self, name: &Name, mirror: Option<Pod>) -> bool {
        if self.busy.remove(name) == Some(true) {
            return false;
        }
        match mirror {
            Some(mirror) => self.known.insert(name.clone(), Arc::new(mirror)),
            None => self.known.remove(name),
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::pods::mirror::{Due, due};
    use crate::static_pods::manifest::MIRROR;

    const NAME: &str = "default/web-n";

    /// An API server with one static Pod's mirror, a watch that lags, and this node's answers that lag too.
    struct World {
        wanted: Arc<Pod>,
        mirrors: Mirrors,
        there: Option<Pod>,
        made: u32,
        events: VecDeque<(Pod, bool)>,
        asked: Option<Due>,
        answer: Option<Result<Option<Pod>, ()>>,
    }

    fn pod(uid: &str, of: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid, "annotations": {MIRROR: of}}})).unwrap()
    }

    impl World {
        fn new() -> Self {
            let mut world = World {
                wanted: Arc::new(pod("h", "")),
                mirrors: Mirrors::default(),
                there: None,
                made: 0,
                events: VecDeque::new(),
                asked: None,
                answer: None,
            };
            world.reflect();
            world
        }

        fn reflect(&mut self) {
            if self.mirrors.is_busy(&NAME.into()) {
                return;
            }
            let due = due(Some(&self.wanted), self.mirrors.get(&NAME.into()), true);
            if let Some(due) = due {
                self.begin(due);
            }
        }

        fn begin(&mut self, due: Due) {
            self.mirrors.begin(NAME.into());
            self.asked = Some(due);
        }

        /// As `mirror::carry_out` has it from the API server.
        fn serve(&mut self) {
            let Some(due) = self.asked.take() else { return };
            let there = self.there.clone();
            self.answer = Some(match (due, there) {
                (Due::Create(_), None) => {
                    self.made += 1;
                    self.there = Some(pod(&format!("m{}", self.made), "h"));
                    self.events.push_back((self.there.clone().unwrap(), false));
                    Ok(self.there.clone())
                }
                (Due::Create(_), Some(there)) if there.metadata.deletion_timestamp.is_some() => Err(()),
                (Due::Delete(old), Some(there)) if old.metadata.uid == there.metadata.uid => {
                    self.events.extend(self.there.take().map(|old| (old, true)));
                    Ok(None)
                }
                (_, there) => Ok(there),
            });
        }

        fn be_answered(&mut self) {
            match self.answer.take() {
                None => {}
                Some(Err(())) => {
                    self.mirrors.fail(&NAME.into());
                    self.reflect();
                }
                Some(Ok(found)) => match self.mirrors.end(&NAME.into(), found) {
                    true => self.reflect(),
                    false => self.begin(Due::Look(NAME.into())),
                },
            }
        }

        fn watch(&mut self) {
            if let Some((pod, gone)) = self.events.pop_front() {
                self.mirrors.hear(NAME.into(), pod, gone);
                self.reflect();
            }
        }

        /// Somebody deletes the mirror (`force`: at once), or writes its status.
        fn meddle(&mut self, delete: bool, force: bool) {
            let Some(pod) = &mut self.there else { return };
            if delete && force {
                self.events.extend(self.there.take().map(|old| (old, true)));
                return;
            }
            if delete {
                pod.metadata.deletion_timestamp =
                    Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
            }
            self.events.push_back((pod.clone(), false));
        }

        fn is_settled(&self) -> bool {
            self.events.is_empty() && self.asked.is_none() && self.answer.is_none()
        }
    }

    proptest! {
        #[test]
        fn there_is_a_mirror_in_the_end_whatever_is_told_when(steps in proptest::collection::vec(0u8..6, 0..40)) {
            let mut world = World::new();
            for step in steps {
                match step {
                    0 => world.serve(),
                    1 => world.be_answered(),
                    2 => world.watch(),
                    3 => world.meddle(true, false),
                    4 => world.meddle(true, true),
                    _ => world.meddle(false, false),
                }
            }
            for _ in 0..200 {
                world.serve();
                world.be_answered();
                world.watch();
            }
            prop_assert!(world.is_settled());
            let uid = |pod: &Pod| pod.metadata.uid.clone();
            let known = world.mirrors.get(&NAME.into()).map(|pod| uid(pod));
            prop_assert!(known.is_some() && known == world.there.as_ref().map(uid), "{known:?}");
        }
    }
}

//! One change as watchers see it, encoded once for all of them.
use super::super::object::{Object, metadata_only};
use crate::kinds::protobuf;
use crate::store::Revision;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// `type` of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

impl ChangeKind {
    pub fn word(self) -> &'static str {
        match self {
            ChangeKind::Added => "ADDED",
            ChangeKind::Modified => "MODIFIED",
            ChangeKind::Deleted => "DELETED",
        }
    }
}

/// A change of one object, shared by every watcher.
#[derive(Debug)]
pub struct Shown {
    pub revision: Revision,
    pub now: Option<Arc<Object>>,
    pub before: Option<Arc<Object>>,
    frames: [OnceLock<Bytes>; 3],
    metadata_frames: [OnceLock<Bytes>; 3],
    /// The same without who owns the fields.
    light_frames: [OnceLock<Bytes>; 3],
    protobuf_frames: [OnceLock<Bytes>; 3],
}

impl Shown {
    pub fn new(revision: Revision, now: Option<Arc<Object>>, before: Option<Arc<Object>>) -> Self {
        Shown {
            revision,
            now,
            before,
            frames: Default::default(),
            metadata_frames: Default::default(),
            light_frames: Default::default(),
            protobuf_frames: Default::default(),
        }
    }

    /// Bytes of the object.
    pub fn size(&self) -> usize {
        let object = self.now.as_ref().or(self.before.as_ref());
        object.map_or(0, |object| object.line.len())
    }

    /// An object that is there, as the start of a watch shows it.
    pub fn existing(object: Arc<Object>) -> Self {
        Self::new(object.revision, Some(object), None)
    }

    /// What the change is to a watcher who sees only what `matches`: leaving the selection is a deletion, entering it
    /// an addition.
    pub fn seen_by(&self, matches: impl Fn(&Object) -> bool) -> Option<ChangeKind> {
        let now = self.now.as_deref().is_some_and(&matches);
        let before = self.before.as_deref().is_some_and(&matches);
        match (before, now) {
            (false, true) => Some(ChangeKind::Added),
            (true, true) => Some(ChangeKind::Modified),
            (true, false) => Some(ChangeKind::Deleted),
            (false, false) => None,
        }
    }

    /// The served bytes of the object that an event of this type shows.
    pub fn object(&self, kind: ChangeKind) -> Bytes {
        match (kind, &self.now, &self.before) {
            (ChangeKind::Deleted, _, Some(last)) => last.at(self.revision),
            (_, Some(now), _) => now.json(),
            (_, None, Some(last)) => last.at(self.revision),
            (_, None, None) => Bytes::new(),
        }
    }

    /// One line of a watch response, in the storage kind's own form.
    pub fn frame(&self, kind: ChangeKind) -> Bytes {
        self.frames[kind as usize]
            .get_or_init(|| frame(kind.word(), &self.object(kind)))
            .clone()
    }

    /// As [`Shown::frame`], of the object's metadata only.
    pub fn metadata_frame(&self, kind: ChangeKind) -> Bytes {
        self.metadata_frames[kind as usize]
            .get_or_init(|| frame(kind.word(), &metadata_only(&self.object(kind))))
            .clone()
    }

    /// As [`Shown::frame`], without who owns the fields where that can be cut out.
    pub fn light_frame(&self, kind: ChangeKind) -> Bytes {
        let light = || match (kind, &self.now) {
            (ChangeKind::Deleted, _) | (_, None) => self.frame(kind),
            (_, Some(now)) => framed(kind.word(), &now.without_owners()),
        };
        self.light_frames[kind as usize].get_or_init(light).clone()
    }

    /// As [`Shown::frame`], in protobuf.
    pub fn protobuf_frame(&self, kind: ChangeKind) -> serde_json::Result<Bytes> {
        let cell = &self.protobuf_frames[kind as usize];
        if let Some(frame) = cell.get() {
            return Ok(frame.clone());
        }
        let object = serde_json::from_slice(&self.object(kind))?;
        let body = protobuf::encode(&object).unwrap_or_default();
        let frame = protobuf::frame(kind.word(), &body).into();
        Ok(cell.get_or_init(|| frame).clone())
    }
}

/// `{"type":…,"object":…}` and a newline.
pub fn frame(word: &str, object: &[u8]) -> Bytes {
    framed(word, &[object])
}

/// As [`frame`], of an object in pieces.
fn framed(word: &str, object: &[&[u8]]) -> Bytes {
    let size: usize = object.iter().map(|piece| piece.len()).sum();
    let mut out = Vec::with_capacity(size + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(word.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object.iter().for_each(|piece| out.extend_from_slice(piece));
    out.extend_from_slice(b"}\n");
    out.into()
}

/// A change on its way to one watcher.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub kind: ChangeKind,
    pub shown: Arc<Shown>,
}

/// What a watch shows before its queue. Objects that are there become changes when they are sent: who does not read waits with a
/// pointer for each, not with the room for all of its encodings.
#[derive(Clone, Debug)]
pub enum First {
    There(Arc<Object>),
    Past(Delivery),
}

impl From<First> for Delivery {
    fn from(first: First) -> Self {
        match first {
            First::There(object) => Delivery {
                kind: ChangeKind::Added,
                shown: Arc::new(Shown::existing(object)),
            },
            First::Past(delivery) => delivery,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::texts::Lookup;
    use super::*;
    use crate::kinds::Registry;
    use crate::store::KeyValue;
    use serde_json::{Value, json};

    fn object(revision: Revision, label: &str) -> Arc<Object> {
        let value = super::super::super::object::encode(&json!({
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "c", "namespace": "n", "labels": {"l": label}},
        }));
        let kv = KeyValue {
            key: "/k/n/c".into(),
            value,
            create_revision: 1,
            mod_revision: revision,
            version: 1,
        };
        Arc::new(Object::read(Registry::builtin().resource("", "v1", "configmaps").unwrap(), &kv).unwrap())
    }

    #[test]
    fn selection_turns_changes_into_additions_and_deletions() {
        let shown = Shown::new(9, Some(object(9, "new")), Some(object(5, "old")));
        let by = |label: &str| shown.seen_by(|o| o.labels.find("l") == Some(label));
        assert_eq!(shown.seen_by(|_| true), Some(ChangeKind::Modified));
        assert_eq!(by("new"), Some(ChangeKind::Added));
        assert_eq!(by("old"), Some(ChangeKind::Deleted));
        assert_eq!(by("other"), None);
    }

    #[test]
    fn a_deletion_shows_the_last_state_at_the_new_revision() {
        let shown = Shown::new(9, None, Some(object(5, "old")));
        let line: Value = serde_json::from_slice(&shown.frame(ChangeKind::Deleted)).unwrap();
        assert_eq!(line["type"], "DELETED");
        assert_eq!(line["object"]["metadata"]["resourceVersion"], "9");
        assert_eq!(line["object"]["metadata"]["labels"]["l"], "old");
        let bare: Value = serde_json::from_slice(&shown.metadata_frame(ChangeKind::Deleted)).unwrap();
        assert_eq!(bare["object"]["metadata"], line["object"]["metadata"]);
        assert_eq!(bare["object"]["kind"], "PartialObjectMetadata");
    }
}

//! An object as stored bytes and as served bytes.
//!
//! Stored bytes are `{"kind":K,"apiVersion":V,"metadata":{…},…}` without `resourceVersion`, which is the store's
//! `mod_revision` and known only after the write. Served bytes are the same with it put in first place of the
//! metadata, made once per revision and shared by all readers.
use super::glance::{Glance, glance};
use super::texts::Texts;
use crate::kinds::Kind;
use crate::store::{KeyValue, Revision};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

const METADATA: &[u8] = b"\"metadata\":{";
const LINE_FEED: &[u8] = b"\n";

/// A stored object that is not an object any more.
#[derive(Debug, thiserror::Error)]
#[error("the stored object {key} is damaged: {why}")]
pub struct Damaged {
    key: String,
    why: String,
}

/// One object at one revision, as its storage kind serves it.
#[derive(Debug)]
pub struct Object {
    pub key: Arc<str>,
    pub revision: Revision,
    /// What [`encode`] wrote, with the resource version, and a line feed: what upstream ends documents with.
    pub line: Bytes,
    /// Where `"metadata":{` begins in `line`.
    metadata_at: usize,
    /// Where in `line` it is told who owns the fields, with the comma behind; empty where that was not looked for.
    owners: Range<u32>,
    /// Whether `line` is what lies in the store, and not that in a newer form.
    as_stored: bool,
    pub labels: Texts,
    /// Field labels of the storage kind.
    pub fields: Texts,
    /// What was made of it.
    made: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Object {
    /// Reads stored bytes; `kind` is the kind they are stored as.
    pub fn read(kind: &Kind, kv: &KeyValue) -> Result<Self, Damaged> {
        let damaged = |why: String| Damaged {
            key: kv.key.to_string(),
            why,
        };
        let (seen, newer) = match &kind.custom {
            None => (glance(&kv.value).map_err(|e| damaged(e.to_string()))?, None),
            Some(_) => {
                let mut value = serde_json::from_slice(&kv.value).map_err(|e| damaged(e.to_string()))?;
                let newer = kind.modernise(&mut value).then(|| encode(&value));
                (Glance { value, owners: None }, newer)
            }
        };
        let Glance { value, owners } = seen;
        let as_stored = newer.is_none();
        let stored = newer.unwrap_or_else(|| kv.value.clone());
        let metadata_at = find(&stored, METADATA).ok_or_else(|| damaged("it has no metadata".into()))?;
        let owners = owners.and_then(|owners| member(&stored, OWNERS, owners));
        let shift = revision_member(kv.mod_revision).len();
        let shifted = |at: usize| u32::try_from(at + shift).ok();
        let owners = owners.and_then(|owners| Some(shifted(owners.start)?..shifted(owners.end)?));
        Ok(Object {
            owners: owners.unwrap_or_default(),
            key: kv.key.clone(),
            revision: kv.mod_revision,
            line: with_revision(&stored, metadata_at, kv.mod_revision),
            metadata_at,
            as_stored,
            labels: texts(&value["metadata"]["labels"]),
            fields: kind.selectable_fields(&value).into_iter().collect(),
            made: OnceLock::new(),
        })
    }

    /// What [`encode`] wrote, with the resource version.
    pub fn json(&self) -> Bytes {
        self.line.slice(..self.line.len() - LINE_FEED.len())
    }

    /// The whole object, with its resource version.
    pub fn value(&self) -> Result<Value, Damaged> {
        serde_json::from_slice(&self.line).map_err(|e| Damaged {
            key: self.key.to_string(),
            why: e.to_string(),
        })
    }

    /// What is made of the object, kept from the first time on: for what is small, or of few objects, and often asked for.
    /// There is room for one type; another is made anew each time.
    pub fn made<T: Send + Sync + 'static>(&self, make: impl FnOnce(Value) -> T) -> Option<Arc<T>> {
        if let Some(Ok(made)) = self.made.get().map(|made| made.clone().downcast()) {
            return Some(made);
        }
        let new = Arc::new(make(self.value().ok()?));
        let kept = self.made.get_or_init(|| new.clone()).clone();
        Some(kept.downcast().unwrap_or(new))
    }

    /// As [`Object::made`], of what begins empty; none when there is something else.
    pub fn kept<T: Default + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let kept = self.made.get_or_init(|| Arc::new(T::default()));
        kept.clone().downcast().ok()
    }

    /// Whether these are the stored bytes.
    pub fn is_stored_as(&self, stored: &[u8]) -> bool {
        let start = self.metadata_at + METADATA.len();
        let end = start + revision_member(self.revision).len();
        let head_and_tail = stored.split_at_checked(start);
        self.as_stored
            && head_and_tail
                .is_some_and(|(head, tail)| head == &self.line[..start] && tail == &self.json()[end..])
    }

    /// The object without who owns the fields.
    pub fn without_owners(&self) -> [&[u8]; 2] {
        let (start, end) = (self.owners.start as usize, self.owners.end as usize);
        [
            &self.line[..start],
            &self.line[end..self.line.len() - LINE_FEED.len()],
        ]
    }

    /// The bytes after `{"kind":…,"apiVersion":…,`: items of built-in lists carry neither.
    pub fn list_item(&self) -> Bytes {
        self.json().slice(self.metadata_at..)
    }

    /// The last state under the revision that deleted it, as a watch shows deletions.
    pub fn at(&self, revision: Revision) -> Bytes {
        let start = self.metadata_at + METADATA.len();
        let end = start + revision_member(self.revision).len();
        let mut out = Vec::with_capacity(self.line.len() + 4);
        out.extend_from_slice(&self.line[..start]);
        out.extend_from_slice(revision_member(revision).as_bytes());
        out.extend_from_slice(&self.json()[end..]);
        out.into()
    }
}

/// A member that another follows, with its key and the comma behind; none when it is not written as [`encode`] does.
fn member(json: &[u8], key: &str, value: Range<usize>) -> Option<Range<usize>> {
    let key = format!("\"{key}\":");
    let start = value.start.checked_sub(key.len())?;
    let found = json.get(start..value.start)? == key.as_bytes() && json.get(value.end)? == &b',';
    found.then_some(start..value.end + 1)
}

fn with_revision(stored: &[u8], metadata_at: usize, revision: Revision) -> Bytes {
    let at = metadata_at + METADATA.len();
    let member = revision_member(revision);
    let mut out = Vec::with_capacity(stored.len() + member.len() + LINE_FEED.len());
    out.extend_from_slice(&stored[..at]);
    out.extend_from_slice(member.as_bytes());
    out.extend_from_slice(&stored[at..]);
    out.extend_from_slice(LINE_FEED);
    out.into()
}

/// Metadata is never empty (it has a name), so a comma always follows.
fn revision_member(revision: Revision) -> String {
    format!("\"resourceVersion\":\"{revision}\",")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn texts(value: &Value) -> Texts {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(k, v)| Some((k, v.as_str()?))).collect()
}

/// Stored bytes as served at the revision that wrote them, with a line feed.
pub fn served(stored: &[u8], revision: Revision) -> Option<Bytes> {
    Some(with_revision(stored, find(stored, METADATA)?, revision))
}

/// The `PartialObjectMetadata` of an object's bytes as [`encode`] writes them.
pub fn metadata_only(json: &[u8]) -> Bytes {
    let metadata = find(json, METADATA).map_or(&b"{}"[..], |at| {
        let from = &json[at + METADATA.len() - 1..];
        &from[..length(from)]
    });
    let mut out = Vec::with_capacity(PARTIAL.len() + metadata.len() + 1);
    out.extend_from_slice(PARTIAL);
    out.extend_from_slice(metadata);
    out.push(b'}');
    out.into()
}

const PARTIAL: &[u8] = br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;

/// How long the JSON object is that the bytes begin with.
fn length(json: &[u8]) -> usize {
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for (i, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' if !text => depth += 1,
            b'}' if !text => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    json.len()
}

/// The bytes to store: kind, version and metadata first, no resource version.
pub fn encode(object: &Value) -> Bytes {
    encode_owned(object, None)
}

/// As [`encode`], with the text of who owns its fields, where the object does not have that itself.
pub fn encode_owned(object: &Value, owners: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(ROOM + owners.map_or(0, str::len));
    out.push(b'{');
    let members = object.as_object().into_iter().flatten();
    let (mut head, tail): (Vec<_>, Vec<_>) = members.partition(|(k, _)| rank(k) < LAST);
    head.sort_by_key(|(k, _)| rank(k));
    for (i, (key, value)) in head.into_iter().chain(tail).enumerate() {
        separate(&mut out, i);
        write_key(&mut out, key);
        match (key.as_str(), value) {
            ("metadata", Value::Object(map)) => write_metadata(&mut out, map, owners),
            (_, value) => write(&mut out, value),
        }
    }
    out.push(b'}');
    out.into()
}

/// Bytes to begin with: what a Pod takes without its owners.
const ROOM: usize = 3072;
const OWNERS: &str = "managedFields";
const LAST: usize = 3;

fn rank(key: &str) -> usize {
    ["kind", "apiVersion", "metadata"]
        .iter()
        .position(|k| *k == key)
        .unwrap_or(LAST)
}

/// The owners have their place in the order of the names.
fn write_metadata(out: &mut Vec<u8>, map: &Map<String, Value>, owners: Option<&str>) {
    let mut owners = owners.filter(|_| !map.contains_key(OWNERS));
    let members = map.iter().filter(|(key, _)| *key != "resourceVersion");
    out.push(b'{');
    let mut written = 0;
    for (key, value) in members {
        if key.as_str() > OWNERS
            && let Some(owners) = owners.take()
        {
            separate(out, written);
            write_owners(out, owners);
            written += 1;
        }
        separate(out, written);
        write_key(out, key);
        write(out, value);
        written += 1;
    }
    if let Some(owners) = owners {
        separate(out, written);
        write_owners(out, owners);
    }
    out.push(b'}');
}

fn write_owners(out: &mut Vec<u8>, owners: &str) {
    write_key(out, OWNERS);
    out.extend_from_slice(owners.as_bytes());
}

fn separate(out: &mut Vec<u8>, member: usize) {
    if member > 0 {
        out.push(b',');
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    write(out, &key);
    out.push(b':');
}

fn write(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // JSON values have string keys only and a Vec takes all bytes: nothing can fail.
    let _ = serde_json::to_writer(out, value);
}

/// Any JSON value as a document: what it is comes first, as upstream has it, and a line feed last.
pub fn document(value: &Value) -> Bytes {
    let Value::Object(map) = value else {
        return [&bytes(value)[..], LINE_FEED].concat().into();
    };
    let mut out = Vec::with_capacity(1024);
    let (mut head, tail): (Vec<_>, Vec<_>) = map.iter().partition(|(k, _)| rank(k) < LAST);
    head.sort_by_key(|(k, _)| rank(k));
    out.push(b'{');
    for (i, (key, value)) in head.into_iter().chain(tail).enumerate() {
        separate(&mut out, i);
        write_key(&mut out, key);
        write(&mut out, value);
    }
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Any JSON value as bytes; faster than its text by `Display`.
pub fn bytes(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    write(&mut out, value);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::super::texts::Lookup;
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn stored() -> KeyValue {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "\"metadata\":{"},
            "metadata": {"name": "c", "namespace": "n", "labels": {"x": "y"}, "resourceVersion": "77"},
        });
        let value = encode(&object);
        KeyValue {
            key: "/registry/configmaps/n/c".into(),
            value,
            create_revision: 5,
            mod_revision: 9,
            version: 2,
        }
    }

    fn read() -> Object {
        Object::read(
            Registry::builtin().resource("", "v1", "configmaps").unwrap(),
            &stored(),
        )
        .unwrap()
    }

    #[test]
    fn stored_bytes_have_no_version_and_served_bytes_the_stores() {
        assert!(!stored().value.windows(15).any(|w| w == b"resourceVersion"));
        assert_eq!(read().value().unwrap()["metadata"]["resourceVersion"], "9");
        assert_eq!(read().labels.find("x"), Some("y"));
        assert!(read().is_stored_as(&stored().value));
        assert!(!read().is_stored_as(b"{}"));
    }

    #[test]
    fn owners_can_be_left_out() {
        let object = |metadata: Value| {
            let value = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"a": "managedFields"}});
            let kv = KeyValue {
                value: encode(&value),
                ..stored()
            };
            Object::read(Registry::builtin().resource("", "v1", "pods").unwrap(), &kv).unwrap()
        };
        let bare = object(json!({"labels": {"managedFields": "[],"}, "name": "p"}));
        let owned =
            object(json!({"labels": {"managedFields": "[],"}, "managedFields": [{"a": []}], "name": "p"}));
        assert_eq!(owned.without_owners().concat(), bare.json());
        assert_eq!(bare.without_owners().concat(), bare.json());
    }

    #[test]
    fn owners_come_where_they_would_be_if_the_object_had_them() {
        let owners = json!([{"manager": "m"}]);
        for metadata in [
            json!({}),
            json!({"labels": {}, "name": "c"}),
            json!({"labels": {}}),
        ] {
            let mut object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata});
            let told = encode_owned(&object, Some(&owners.to_string()));
            object["metadata"][OWNERS] = owners.clone();
            assert_eq!(told, encode(&object));
        }
    }

    #[test]
    fn metadata_is_cut_out_whole() {
        let object = json!({
            "kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"},
            "metadata": {"name": "c", "annotations": {"a": "}\\\"{", "b\"": "\\"}},
        });
        let partial: Value = serde_json::from_slice(&metadata_only(&encode(&object))).unwrap();
        assert_eq!(partial["metadata"], object["metadata"]);
        assert_eq!(partial.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_deletion_has_its_own_version() {
        let gone: Value = serde_json::from_slice(&read().at(1234)).unwrap();
        assert_eq!(gone["metadata"]["resourceVersion"], "1234");
        assert_eq!(gone["data"]["a"], "\"metadata\":{");
    }

    #[test]
    fn a_list_item_is_the_object_without_its_kind() {
        let text = format!("{{{}", String::from_utf8(read().list_item().to_vec()).unwrap());
        let item: Value = serde_json::from_str(&text).unwrap();
        assert!(item.get("kind").is_none());
        assert_eq!(item["metadata"]["name"], "c");
    }
}

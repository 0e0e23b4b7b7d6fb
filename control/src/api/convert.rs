//! Custom resources in the version that was asked for, where it takes their definition's converter (KEP-598).
//!
//! Objects lie in the cache in the version they were stored in. Whoever shows one passes it through here; what needs no
//! converter passes unchanged. All objects of a list go in a few calls. Refuses to know what a review looks like.
use super::object::{self, Object};
use super::render;
use super::status::{ApiError, Result};
use super::{Api, Call, depth};
use crate::callout;
use crate::kinds::Kind;
use crate::kinds::custom::Converter;
use crate::store::KeyValue;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// An object as `kind` serves it.
pub async fn value(api: &Api, kind: &Kind, object: &Object) -> Result<Value> {
    if kind.converter().is_none() {
        return render::value(kind, object);
    }
    let value = object.value().map_err(ApiError::internal)?;
    let mut values = values(api, kind, vec![value], false).await?;
    Ok(values.pop().unwrap_or_default())
}

/// As [`value`], for objects that are shown together: each as if it lay in the cache in the version of `kind`. What is known
/// of one is not asked again, so that it is listed and watched while the converter is away, as upstream's caches have it.
pub async fn objects(api: &Api, kind: &Kind, mut found: Vec<Arc<Object>>) -> Result<Vec<Arc<Object>>> {
    let Some(custom) = kind.custom.as_ref().filter(|_| kind.converter().is_some()) else {
        return Ok(found);
    };
    let mut unknown = Vec::new();
    for object in &mut found {
        match Versions::of(object).and_then(|versions| versions.get(kind, custom.fingerprint)) {
            Some(known) => *object = known,
            None => unknown.push(object),
        }
    }
    let read = unknown.iter().map(|object| object.value());
    let read = read
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(ApiError::internal)?;
    let wanted = kind.api_version();
    let foreign: Vec<bool> = read.iter().map(|value| value["apiVersion"] != *wanted).collect();
    let converted = values(api, kind, read, true).await?;
    for ((object, value), foreign) in unknown.into_iter().zip(&converted).zip(foreign) {
        let shown = Arc::new(as_if_stored(kind, object, value)?);
        if let Some(versions) = Versions::of(object).filter(|_| foreign) {
            versions.keep(kind, custom.fingerprint, shown.clone());
        }
        *object = shown;
    }
    Ok(found)
}

fn as_if_stored(kind: &Kind, object: &Object, value: &Value) -> Result<Object> {
    let kv = KeyValue {
        key: object.key.clone(),
        value: object::encode(value),
        create_revision: 0,
        mod_revision: object.revision,
        version: 0,
    };
    Object::read(kind, &kv).map_err(ApiError::internal)
}

/// How an object of the cache looks in other versions, kept with it: at most one for each version that is served, as long as
/// the object and its definition stay what they are.
#[derive(Default)]
struct Versions(Mutex<BTreeMap<String, (u64, Arc<Object>)>>);

impl Versions {
    fn of(object: &Object) -> Option<Arc<Versions>> {
        object.kept()
    }

    fn get(&self, kind: &Kind, definition: u64) -> Option<Arc<Object>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, known) = all.get(&kind.version)?;
        (*of == definition).then(|| known.clone())
    }

    fn keep(&self, kind: &Kind, definition: u64, shown: Arc<Object>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (of, _)| *of == definition);
        all.insert(kind.version.clone(), (definition, shown));
    }
}

/// The bytes to store of an object of the call's kind. Owners as text are for kinds that are stored as they are served.
pub async fn stored_form(call: &Call, value: &Value, owners: Option<&str>) -> Result<Bytes> {
    let kind = &call.target.kind;
    depth::check(value, owners.is_some())?;
    if kind.stored_as_served() {
        return Ok(object::encode_owned(value, owners));
    }
    let storage = call.api.cache.resource(kind)?.kind.clone();
    let mut value = value.clone();
    match kind.converter() {
        Some(converter) if storage.version != kind.version => {
            let mut converted = convert(&call.api, converter, &storage, vec![value], false).await?;
            value = converted.pop().unwrap_or_default();
            // What the schema of the stored version does not know is not stored.
            storage
                .prune(&mut value)
                .map_err(|e| ApiError::unconvertible(e.to_string()))?;
        }
        _ => kind.to_storage(&mut value),
    }
    storage.normalise(&mut value);
    depth::check(&value, false)?;
    Ok(object::encode(&value))
}

/// What a write left behind as readers of its version see it: what is stored comes back through the converter, which
/// may change more than it is asked for. `value` is what was written.
pub async fn reread(call: &Call, stored: &[u8], value: Value) -> Result<Value> {
    let kind = &call.target.kind;
    if kind.converter().is_none() || kind.stored_as_served() {
        return Ok(value);
    }
    let stored: Value = serde_json::from_slice(stored).map_err(ApiError::internal)?;
    if stored["apiVersion"] == *kind.api_version() {
        return Ok(value);
    }
    let mut values = values(&call.api, kind, vec![stored], false).await?;
    Ok(values.pop().unwrap_or_default())
}

async fn values(api: &Api, kind: &Kind, mut values: Vec<Value>, list: bool) -> Result<Vec<Value>> {
    let Some(converter) = kind.converter() else {
        return Ok(values);
    };
    let wanted = kind.api_version();
    let foreign = values.iter_mut().filter(|value| value["apiVersion"] != *wanted);
    let foreign: Vec<&mut Value> = foreign.collect();
    let asked = foreign.iter().map(|value| (**value).clone()).collect();
    let converted = convert(api, converter, kind, asked, list).await?;
    for (place, value) in foreign.into_iter().zip(converted) {
        *place = value;
    }
    for value in &mut values {
        kind.from_storage(value);
        kind.normalise(value);
    }
    Ok(values)
}

async fn convert(
    api: &Api,
    converter: &Converter,
    kind: &Kind,
    asked: Vec<Value>,
    list: bool,
) -> Result<Vec<Value>> {
    let converted = callout::convert(api.objects.as_ref(), converter, kind, asked, list).await;
    converted.map_err(ApiError::unconvertible)
}

//! `/openapi/v2` and `/openapi/v3`: the documents that `kinds` writes, made at first use and kept.
//!
//! JSON whatever is asked for, as clients that would like protobuf read it too, by its content type. The exception is
//! version 2 for kubectl before 1.28, which reads protobuf only.
use super::negotiate;
use super::query::Query;
use crate::kinds::{Live, Registry, openapi};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What kubectl before 1.28 accepts.
const GNOSTIC_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What upstream calls its answer to that.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What version 2 may be asked for as.
const OFFERED: [&str; 3] = ["application/json", GNOSTIC_ACCEPT, GNOSTIC];
const V2: &str = "/openapi/v2";
const V3: &str = "/openapi/v3";
/// What never changes may be kept for a year.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, immutable");
const KEPT: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Key of the protobuf form beside the paths.
const GNOSTIC_PATH: &str = "/openapi/v2 protobuf";

/// A document and the name of its content.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// The documents of one registry, by path: at most one per group, one per version of it, and a few more.
pub struct OpenApi {
    kinds: Arc<Live>,
    version: &'static str,
    made: Mutex<Made>,
    hashes: Mutex<Hashes>,
}

/// By path of version 3: the number of what the document was written from, and the name of its content.
type Hashes = BTreeMap<String, (u64, String)>;

/// What was written, and of which registry.
#[derive(Default)]
struct Made {
    of: Option<Arc<Registry>>,
    documents: HashMap<String, Document>,
}

impl OpenApi {
    pub fn new(kinds: Arc<Live>, version: &'static str) -> Self {
        OpenApi {
            kinds,
            version,
            made: Mutex::default(),
            hashes: Mutex::default(),
        }
    }

    /// The answer for a path, when it has a document.
    pub(super) fn answer(&self, parts: &Parts) -> Option<Response> {
        let path = parts.uri.path();
        if path == V2 && !negotiate::takes(&parts.headers, &OFFERED, true) {
            return Some(unacceptable());
        }
        if path == V3 {
            return self.index(parts, Map::new());
        }
        let protobuf = path == V2 && accepts_only_protobuf(parts);
        let key = if protobuf { GNOSTIC_PATH } else { path };
        let document = self.document(key, |kinds| match protobuf {
            true => Some(openapi::gnostic::document(&openapi::v2(kinds, self.version)).into()),
            false => Some(self.write(kinds, path)?.to_string().into()),
        })?;
        match Query::of(&parts.uri).ok()?.get("hash") {
            Some(hash) if path != V2 => by_hash(parts, document, hash),
            _ => show(parts, document, protobuf),
        }
    }

    /// The index of version 3, with the paths of other servers: each with the hash of what is there, so that clients keep it.
    pub(super) fn index(&self, parts: &Parts, theirs: Map<String, Value>) -> Option<Response> {
        let mut paths = Map::new();
        for (path, hash) in self.hashes() {
            let url = format!("{V3}/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        paths.extend(theirs);
        let document = Document::of(json!({"paths": paths}).to_string().into())?;
        show(parts, document, false)
    }

    /// A document is written for its hash once, and again when its kinds have changed.
    fn hashes(&self) -> Vec<(String, String)> {
        let kinds = self.kinds.load();
        let mut known = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        for (path, of) in openapi::v3_paths(&kinds) {
            let same = before.remove(&path).filter(|(was, _)| *was == of);
            let hash = same.map(|(_, hash)| hash).or_else(|| {
                let document = openapi::v3(&kinds, &path, self.version)?;
                Some(name(document.to_string().as_bytes()))
            });
            known.extend(hash.map(|hash| (path, (of, hash))));
        }
        let known = known.iter();
        known
            .map(|(path, (_, hash))| (path.clone(), hash.clone()))
            .collect()
    }

    /// The document of version 2 with those of other servers in it; each with the prefix of its paths.
    pub(super) fn merged(&self, parts: &Parts, theirs: &[(String, Value)]) -> Option<Response> {
        if !negotiate::takes(&parts.headers, &OFFERED, true) {
            return Some(unacceptable());
        }
        let protobuf = accepts_only_protobuf(parts);
        let mut digest = Sha256::new();
        for (prefix, document) in theirs {
            digest.update(prefix);
            digest.update(document.to_string());
        }
        let key = format!("{V2} {protobuf} {}", hex::encode(digest.finalize()));
        self.forget_merged(&key);
        let document = self.document(&key, |kinds| {
            let mut ours = openapi::v2(kinds, self.version);
            for (prefix, document) in theirs {
                openapi::merge::merge(&mut ours, document, prefix);
            }
            Some(match protobuf {
                true => openapi::gnostic::document(&ours).into(),
                false => ours.to_string().into(),
            })
        })?;
        show(parts, document, protobuf)
    }

    /// Of documents merged from what other servers said at different times the last is kept, in each form.
    fn forget_merged(&self, key: &str) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let start = &key[..key.rfind(' ').unwrap_or(0)];
        made.documents
            .retain(|known, _| known == key || !known.starts_with(&format!("{start} ")));
    }

    fn document(&self, key: &str, write: impl FnOnce(&Registry) -> Option<Bytes>) -> Option<Document> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = self.kinds.load();
        if made.of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, &kinds)) {
            *made = Made {
                of: Some(kinds.clone()),
                ..Made::default()
            };
        }
        if let Some(document) = made.documents.get(key) {
            return Some(document.clone());
        }
        let document = Document::of(write(&kinds)?)?;
        made.documents.insert(key.to_owned(), document.clone());
        Some(document)
    }

    /// The paths of the documents of version 3.
    pub(super) fn paths(&self) -> Vec<String> {
        let paths = openapi::v3_paths(&self.kinds.load()).into_iter();
        paths.map(|(path, _)| format!("{V3}/{path}")).collect()
    }

    fn write(&self, kinds: &Registry, path: &str) -> Option<Value> {
        match path.strip_prefix("/openapi/")?.split_once('/') {
            Some(("v3", document)) => openapi::v3(kinds, document, self.version),
            Some(_) => None,
            None => (path == V2).then(|| openapi::v2(kinds, self.version)),
        }
    }
}

impl Document {
    fn of(bytes: Bytes) -> Option<Self> {
        let etag = HeaderValue::from_str(&format!("\"{}\"", name(&bytes))).ok()?;
        Some(Document { bytes, etag })
    }
}

/// What a content is called.
fn name(bytes: &[u8]) -> String {
    hex::encode_upper(Sha256::digest(bytes))
}

/// A document that was asked for by its hash stays what it is, and may be kept; another one is elsewhere.
fn by_hash(parts: &Parts, document: Document, hash: &str) -> Option<Response> {
    if document.etag != format!("\"{hash}\"") {
        let is = document.etag.to_str().ok()?.trim_matches('"');
        let place = format!("{}?hash={is}", parts.uri.path());
        return Some((StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, place)]).into_response());
    }
    let mut response = show(parts, document, false)?;
    let until = (Timestamp::now() + KEPT).strftime("%a, %d %b %Y %H:%M:%S GMT");
    let until = HeaderValue::try_from(until.to_string()).ok()?;
    response.headers_mut().insert(header::CACHE_CONTROL, IMMUTABLE);
    response.headers_mut().insert(header::EXPIRES, until);
    Some(response)
}

fn show(parts: &Parts, document: Document, protobuf: bool) -> Option<Response> {
    if parts.headers.get(header::IF_NONE_MATCH) == Some(&document.etag) {
        return Some((StatusCode::NOT_MODIFIED, [(header::ETAG, document.etag)]).into_response());
    }
    let media_type = if protobuf { GNOSTIC } else { "application/json" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::ETAG, document.etag),
        (header::VARY, HeaderValue::from_static("Accept")),
    ];
    Some((StatusCode::OK, headers, Body::from(document.bytes)).into_response())
}

/// Upstream says no more than this.
fn unacceptable() -> Response {
    let headers = [(header::VARY, HeaderValue::from_static("Accept"))];
    (StatusCode::NOT_ACCEPTABLE, headers).into_response()
}

fn accepts_only_protobuf(parts: &Parts) -> bool {
    let accept = parts
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.trim() == GNOSTIC_ACCEPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;

    fn get(openapi: &OpenApi, url: &str) -> Response {
        let (parts, ()) = http::Request::get(url).body(()).expect("a URL").into_parts();
        openapi.answer(&parts).expect(url)
    }

    async fn index(openapi: &OpenApi) -> Value {
        let body = get(openapi, V3).into_body();
        let bytes = to_bytes(body, usize::MAX).await.expect("read");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn version_2_is_had_in_what_upstream_has_it() {
        let openapi = OpenApi::new(Arc::new(Live::new(Registry::builtin().clone())), "v1.36.2");
        for (accept, code) in [
            ("", 200),
            ("*/*", 200),
            ("application/*;q=0.5", 200),
            (GNOSTIC_ACCEPT, 200),
            ("application/vnd.kubernetes.protobuf, application/json", 200),
            ("application/vnd.kubernetes.protobuf", 406),
            ("text/plain", 406),
        ] {
            let request = http::Request::get(V2).header(header::ACCEPT, accept);
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let found = openapi.answer(&parts).map(|response| response.status());
            assert_eq!(found.map(|found| found.as_u16()), Some(code), "{accept}");
        }
    }

    #[tokio::test]
    async fn a_document_under_its_hash_may_be_kept() {
        let openapi = OpenApi::new(Arc::new(Live::new(Registry::builtin().clone())), "v1.36.2");
        let whole = index(&openapi).await;
        assert_eq!(index(&openapi).await, whole);
        let url = whole["paths"]["apis/apps/v1"]["serverRelativeURL"]
            .as_str()
            .expect("listed");
        let kept = get(&openapi, url);
        assert_eq!(kept.headers()[header::CACHE_CONTROL], IMMUTABLE);
        assert!(kept.headers().contains_key(header::EXPIRES));
        let hash = url.split_once("?hash=").expect("a hash").1;
        assert_eq!(kept.headers()[header::ETAG], format!("\"{hash}\""));
        let plain = get(&openapi, "/openapi/v3/apis/apps/v1");
        assert!(!plain.headers().contains_key(header::CACHE_CONTROL));
        let old = get(&openapi, "/openapi/v3/apis/apps/v1?hash=0");
        assert_eq!(old.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(old.headers()[header::LOCATION], url);
    }
}

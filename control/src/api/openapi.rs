//! `/openapi/v2` and `/openapi/v3`: the documents that `kinds` writes, made at first use and kept.
//!
//! JSON whatever is asked for, as clients that would like protobuf read it too, by its content type. The exception is
//! version 2 for kubectl before 1.28, which reads protobuf only.
use crate::kinds::{Live, Registry, openapi};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What kubectl before 1.28 accepts.
const GNOSTIC_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// What upstream calls its answer to that.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V2: &str = "/openapi/v2";
const V3: &str = "/openapi/v3";
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
}

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
        }
    }

    /// The answer for a path, when it has a document.
    pub(super) fn answer(&self, parts: &Parts) -> Option<Response> {
        let path = parts.uri.path();
        let protobuf = path == V2 && accepts_only_protobuf(parts);
        let key = if protobuf { GNOSTIC_PATH } else { path };
        let document = self.document(key, |kinds| match protobuf {
            true => Some(openapi::gnostic::document(&openapi::v2(kinds, self.version)).into()),
            false => Some(self.write(kinds, path)?.to_string().into()),
        })?;
        show(parts, document, protobuf)
    }

    /// The document of version 2 with those of other servers in it; each with the prefix of its paths.
    pub(super) fn merged(&self, parts: &Parts, theirs: &[(String, Value)]) -> Option<Response> {
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
        let bytes = write(&kinds)?;
        let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
        let document = Document {
            bytes,
            etag: HeaderValue::from_str(&etag).ok()?,
        };
        made.documents.insert(key.to_owned(), document.clone());
        Some(document)
    }

    /// The paths of the documents of version 3.
    pub(super) fn paths(&self) -> Vec<String> {
        let index = openapi::v3_index(&self.kinds.load());
        let paths = index["paths"].as_object().into_iter().flatten();
        paths.map(|(path, _)| format!("/openapi/v3/{path}")).collect()
    }

    fn write(&self, kinds: &Registry, path: &str) -> Option<Value> {
        match path.strip_prefix("/openapi/")?.split_once('/') {
            Some(("v3", document)) => openapi::v3(kinds, document, self.version),
            Some(_) => None,
            None if path == V2 => Some(openapi::v2(kinds, self.version)),
            None => (path == V3).then(|| openapi::v3_index(kinds)),
        }
    }
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

fn accepts_only_protobuf(parts: &Parts) -> bool {
    let accept = parts
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.trim() == GNOSTIC_ACCEPT)
}

//! `/openapi/v2` and `/openapi/v3`: the documents that `kinds` writes, made at first use and kept.
//!
//! They are served as JSON whatever is asked for: clients that would like protobuf read JSON too, by its content type.
use crate::kinds::{Registry, openapi};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A document and the name of its content.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: HeaderValue,
}

/// The documents of one registry, by path: at most one per group and version, and two more.
pub struct OpenApi {
    kinds: Arc<Registry>,
    version: &'static str,
    made: Mutex<HashMap<String, Document>>,
}

impl OpenApi {
    pub fn new(kinds: Arc<Registry>, version: &'static str) -> Self {
        OpenApi {
            kinds,
            version,
            made: Mutex::default(),
        }
    }

    /// The answer for a path, when it has a document.
    pub(super) fn answer(&self, parts: &Parts) -> Option<Response> {
        let document = self.document(parts.uri.path().trim_end_matches('/'))?;
        if parts.headers.get(header::IF_NONE_MATCH) == Some(&document.etag) {
            return Some((StatusCode::NOT_MODIFIED, [(header::ETAG, document.etag)]).into_response());
        }
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::ETAG, document.etag),
            (header::VARY, HeaderValue::from_static("Accept")),
        ];
        Some((StatusCode::OK, headers, Body::from(document.bytes)).into_response())
    }

    fn document(&self, path: &str) -> Option<Document> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = made.get(path) {
            return Some(document.clone());
        }
        let bytes: Bytes = self.write(path)?.to_string().into();
        let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&bytes)));
        let document = Document {
            bytes,
            etag: HeaderValue::from_str(&etag).ok()?,
        };
        made.insert(path.to_owned(), document.clone());
        Some(document)
    }

    fn write(&self, path: &str) -> Option<serde_json::Value> {
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["", "openapi", "v2"] => Some(openapi::v2(&self.kinds, self.version)),
            ["", "openapi", "v3"] => Some(openapi::v3_index(&self.kinds)),
            ["", "openapi", "v3", "api", version] => openapi::v3(&self.kinds, "", version, self.version),
            ["", "openapi", "v3", "apis", group, version] => {
                openapi::v3(&self.kinds, group, version, self.version)
            }
            _ => None,
        }
    }
}

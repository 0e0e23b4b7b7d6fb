//! Content negotiation: in which format and shape an answer goes out, and in which a body comes in. Pure.
//!
//! Protobuf is read but not written: clients that ask for it have JSON as their second choice, and get that.
use super::status::{ApiError, Result};
use http::{HeaderMap, header};

/// What a request may be answered with, for the 406.
const OFFERED: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/json;stream=watch",
];
/// What a body may be, for the 415.
const ACCEPTED: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The objects themselves.
    Object,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata, or its list.
    Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub format: Format,
    pub shape: Shape,
}

/// The encodings of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    Strategic,
    /// KEP-555.
    Apply,
}

/// What `Accept` asks for; JSON objects when it says nothing.
pub fn accept(headers: &HeaderMap) -> Result<Accepted> {
    choose(headers, |_| true)
}

/// As [`accept`], for what has no other shape than its own.
pub fn accept_whole(headers: &HeaderMap) -> Result<Accepted> {
    choose(headers, |shape| shape == Shape::Object)
}

fn choose(headers: &HeaderMap, has: fn(Shape) -> bool) -> Result<Accepted> {
    let Some(text) = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()) else {
        return Ok(Accepted {
            format: Format::Json,
            shape: Shape::Object,
        });
    };
    let clauses = text.split(',').filter_map(clause);
    let mut clauses: Vec<(f32, Accepted)> = clauses.filter(|(_, accepted)| has(accepted.shape)).collect();
    // A stable sort: equal weights keep the client's order.
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses
        .first()
        .map(|(_, accepted)| *accepted)
        .ok_or_else(|| ApiError::not_acceptable(&OFFERED))
}

fn clause(text: &str) -> Option<(f32, Accepted)> {
    let mut parts = text.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let (mut weight, mut shape, mut group, mut version) = (1.0, None, "", "");
    for part in parts {
        match part.split_once('=').map(|(k, v)| (k.trim(), v.trim()))? {
            ("q", value) => weight = value.parse().ok()?,
            ("as", value) => shape = Some(value),
            ("g", value) => group = value,
            ("v", value) => version = value,
            _ => {}
        }
    }
    let shape = match shape {
        None => Shape::Object,
        Some("Table") if (group, version) == ("meta.k8s.io", "v1") => Shape::Table,
        Some("PartialObjectMetadata" | "PartialObjectMetadataList")
            if (group, version) == ("meta.k8s.io", "v1") =>
        {
            Shape::Metadata
        }
        Some(_) => return None,
    };
    (weight > 0.0).then_some((weight, Accepted { format, shape }))
}

/// Whether `Accept` asks for a kind of another API group (aggregated discovery), and takes JSON for it.
pub fn wants(headers: &HeaderMap, kind: &str, group: &str, version: &str) -> bool {
    let text = headers
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    text.split(',').any(|clause| {
        let has = |key: &str, value: &str| {
            clause
                .split(';')
                .any(|part| part.trim().split_once('=') == Some((key, value)))
        };
        clause.trim().starts_with("application/json")
            && has("as", kind)
            && has("g", group)
            && has("v", version)
    })
}

/// The format of a body.
pub fn body(headers: &HeaderMap) -> Result<Encoding> {
    match media_type(headers).as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(ApiError::unsupported_media(&ACCEPTED)),
    }
}

/// The encoding of a patch.
pub fn patch(headers: &HeaderMap) -> Result<PatchType> {
    match media_type(headers).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(ApiError::unsupported_media(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ])),
    }
}

/// The refusal of a strategic merge patch of a custom resource.
pub fn no_strategic_patch() -> ApiError {
    ApiError::unsupported_media(&[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/apply-patch+yaml",
    ])
}

fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    text.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<(Format, Shape)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accept(&headers).ok().map(|a| (a.format, a.shape))
    }

    #[test]
    fn what_is_no_table_is_not_asked_for_as_one() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let whole = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            accept_whole(&headers).map(|accepted| accepted.shape)
        };
        assert_eq!(whole(table).unwrap_err().code, 406);
        assert_eq!(
            whole(&format!("{table},application/json")).unwrap(),
            Shape::Object
        );
    }

    #[test]
    fn accept_headers() {
        let json = Some((Format::Json, Shape::Object));
        for (text, want) in [
            ("application/json", json),
            ("*/*", json),
            ("application/vnd.kubernetes.protobuf,application/json", json),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Format::Json, Shape::Table)),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                json,
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((Format::Json, Shape::Metadata)),
            ),
            (
                "application/json;q=0.5,application/yaml",
                Some((Format::Yaml, Shape::Object)),
            ),
            ("application/json;stream=watch", json),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/plain", None),
        ] {
            assert_eq!(asked(text), want, "{text}");
        }
    }
}

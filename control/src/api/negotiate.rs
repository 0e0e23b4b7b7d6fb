//! Content negotiation: in which format and shape an answer goes out, and in which a body comes in. Pure.
//!
//! Built-in kinds, and the metadata of all, have a protobuf form; Tables have none.
use super::query::Query;
use super::status::{ApiError, Result};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

/// What a request may be answered with, for the 406; custom resources are not offered protobuf.
const OFFERED: [&str; 5] = [
    "application/json",
    "application/yaml",
    PROTOBUF,
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// All groups in one document (KEP-3352).
pub const AGGREGATED: &str = "APIGroupDiscoveryList";
/// What a body may be, for the 415.
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
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
    /// `meta.k8s.io` Table.
    Table,
    /// `meta.k8s.io` PartialObjectMetadata.
    Metadata,
    /// Its list: another word for it, that only lists have.
    MetadataList,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub format: Format,
    pub shape: Shape,
    /// The shape is to be of `meta.k8s.io/v1beta1`, which differs from v1 by its name only.
    pub beta: bool,
}

impl Accepted {
    /// Objects as they are.
    pub const fn whole(format: Format) -> Accepted {
        Accepted {
            format,
            shape: Shape::Object,
            beta: false,
        }
    }
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

/// What `Accept` asks for; JSON objects when it says nothing. `binary` says whether the kind has a protobuf form.
pub fn accept(headers: &HeaderMap, binary: bool) -> Result<Accepted> {
    choose(headers.get(header::ACCEPT), binary, |_| true)
}

/// As [`accept`], for what has no other shape than its own.
pub fn accept_whole(headers: &HeaderMap, binary: bool) -> Result<Accepted> {
    whole(headers.get(header::ACCEPT), binary)
}

/// The format of a `Status`; none where it says also that an answer cannot be had in what was asked for.
pub fn of_status(accept: Option<&HeaderValue>, binary: bool) -> Option<Format> {
    whole(accept, binary).ok().map(|accepted| accepted.format)
}

/// What people read by: their documents are indented (upstream's `isPrettyPrint`).
const READERS: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Whether documents are to be indented: `?pretty=` decides, else the parameter of what is accepted, else who asks.
pub fn is_pretty<B>(request: &Request<B>) -> bool {
    let text = |name: HeaderName| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    };
    if text(header::ACCEPT).contains("pretty=1") {
        return true;
    }
    let asked = request.uri().query().filter(|query| query.contains("pretty"));
    let query = asked.and_then(|_| Query::of(request.uri()).ok());
    match query.as_ref().and_then(|query| query.get("pretty")) {
        Some(value) => ["1", "t", "T", "true", "TRUE", "True"].contains(&value),
        None => READERS
            .iter()
            .any(|reader| text(header::USER_AGENT).starts_with(reader)),
    }
}

/// In which format a document of discovery goes out, and whether that of all groups at once is meant; else what is offered.
pub fn discovery(
    headers: &HeaderMap,
    aggregates: bool,
) -> std::result::Result<(Format, bool), &'static [&'static str]> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let Some(text) = accept else {
        return Ok((Format::Json, false));
    };
    let mut clauses: Vec<_> = text.split(',').filter_map(parameters).collect();
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    clauses
        .iter()
        .find_map(|clause| match (clause.kind, clause.group, clause.version) {
            (None, "", "") => Some((clause.format, false)),
            // No client reads that in protobuf, and its numbers are in no table.
            (Some(_), ..) if clause.format == Format::Protobuf => None,
            (Some(AGGREGATED), "apidiscovery.k8s.io", "v2") if aggregates => Some((clause.format, true)),
            _ => None,
        })
        .ok_or(&ACCEPTED)
}

/// Whether one of these media types is taken; `any` says whether a part of a type may be left open.
pub fn takes(headers: &HeaderMap, offered: &[&str], any: bool) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let Some(text) = accept.filter(|text| !text.is_empty()) else {
        return true;
    };
    let mut types = text.split(',').filter_map(|clause| clause.split(';').next());
    types.any(|wanted| match wanted.trim() {
        "*/*" => true,
        "application/*" => any,
        wanted => offered.contains(&wanted),
    })
}

fn whole(accept: Option<&HeaderValue>, binary: bool) -> Result<Accepted> {
    choose(accept, binary, |shape| shape == Shape::Object)
}

fn choose(accept: Option<&HeaderValue>, binary: bool, shaped: fn(Shape) -> bool) -> Result<Accepted> {
    let has = |accepted: &Accepted| match (accepted.format, accepted.shape) {
        (Format::Protobuf, Shape::Table) => false,
        (Format::Protobuf, Shape::Object) => binary,
        (_, shape) => shaped(shape),
    };
    let Some(text) = accept.and_then(|v| v.to_str().ok()) else {
        return Ok(Accepted::whole(Format::Json));
    };
    let clauses = text.split(',').filter_map(clause);
    let mut clauses: Vec<(f32, Accepted)> = clauses.filter(|(_, accepted)| has(accepted)).collect();
    // A stable sort: equal weights keep the client's order.
    clauses.sort_by(|a, b| b.0.total_cmp(&a.0));
    clauses.first().map(|(_, accepted)| *accepted).ok_or_else(|| {
        let offered = OFFERED
            .into_iter()
            .filter(|offer| binary || !offer.starts_with(PROTOBUF));
        ApiError::not_acceptable(&offered.collect::<Vec<_>>())
    })
}

/// One of the alternatives that `Accept` lists, as it is written.
struct Clause<'a> {
    weight: f32,
    format: Format,
    kind: Option<&'a str>,
    group: &'a str,
    version: &'a str,
}

/// None when it is of no format that there is. What is refused (`q=0`) comes last, as upstream.
fn parameters(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let format = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        PROTOBUF => Format::Protobuf,
        _ => return None,
    };
    let mut clause = Clause {
        weight: 1.0,
        format,
        kind: None,
        group: "",
        version: "",
    };
    for part in parts {
        match part.split_once('=').map(|(k, v)| (k.trim(), v.trim()))? {
            ("q", value) => clause.weight = value.parse().unwrap_or(0.0),
            ("as", value) => clause.kind = Some(value),
            ("g", value) => clause.group = value,
            ("v", value) => clause.version = value,
            _ => {}
        }
    }
    Some(clause)
}

fn clause(text: &str) -> Option<(f32, Accepted)> {
    let Clause {
        weight,
        format,
        kind,
        group,
        version,
    } = parameters(text)?;
    let shape = match (kind, group, version) {
        (None, "", "") => Shape::Object,
        (Some("Table"), "meta.k8s.io", "v1" | "v1beta1") => Shape::Table,
        (Some("PartialObjectMetadata"), "meta.k8s.io", "v1" | "v1beta1") => Shape::Metadata,
        (Some("PartialObjectMetadataList"), "meta.k8s.io", "v1" | "v1beta1") => Shape::MetadataList,
        _ => return None,
    };
    let beta = shape != Shape::Object && version == "v1beta1";
    Some((weight, Accepted { format, shape, beta }))
}

/// The format of a body.
pub fn body(headers: &HeaderMap) -> Result<Encoding> {
    match media_type(headers).as_str() {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        PROTOBUF => Ok(Encoding::Protobuf),
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
        _ => Err(ApiError::no_patch_type()),
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
        accept(&headers, true).ok().map(|a| (a.format, a.shape))
    }

    #[test]
    fn what_has_no_protobuf_form_is_json() {
        let mut headers = HeaderMap::new();
        let text = "application/vnd.kubernetes.protobuf,application/json";
        headers.insert(header::ACCEPT, text.parse().unwrap());
        assert_eq!(accept(&headers, false).unwrap().format, Format::Json);
        headers.insert(header::ACCEPT, PROTOBUF.parse().unwrap());
        let refused = accept(&headers, false).unwrap_err();
        assert!(!refused.message().contains("protobuf"), "{}", refused.message());
    }

    #[test]
    fn what_is_no_table_is_not_asked_for_as_one() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let whole = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            accept_whole(&headers, true).map(|accepted| accepted.shape)
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
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some((Format::Protobuf, Shape::Object)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                json,
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
                Some((Format::Protobuf, Shape::Metadata)),
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Format::Json, Shape::Table)),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((Format::Json, Shape::Table)),
            ),
            (
                "application/json;as=Table;v=v1alpha1;g=meta.k8s.io,application/json",
                json,
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some((Format::Json, Shape::MetadataList)),
            ),
            (
                "application/json;q=0.5,application/yaml",
                Some((Format::Yaml, Shape::Object)),
            ),
            ("application/json;stream=watch", json),
            ("application/json;q=0", json),
            (
                "application/json;q=0,application/yaml",
                Some((Format::Yaml, Shape::Object)),
            ),
            ("application/vnd.kubernetes.protobuf;v=v1", None),
            ("application/json;g=meta.k8s.io", None),
            ("text/plain", None),
        ] {
            assert_eq!(asked(text), want, "{text}");
        }
    }
}

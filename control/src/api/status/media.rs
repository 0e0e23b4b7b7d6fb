//! What is told of media types: of bodies in one that is not known, of answers that there are in none that was asked for.
use super::ApiError;
use crate::kinds::Kind;
use http::StatusCode;
use serde_json::json;

impl ApiError {
    pub fn unsupported_media(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!(
            "406: Not Acceptable\n\nAvailable representations: {}",
            offered.join(", ")
        );
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).with(json!({}))
    }

    /// A document that there is in none of the formats that were asked for.
    pub fn no_representation(offered: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            offered.join(", ")
        );
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The metadata of one object was asked for, of many.
    pub fn is_list(kind: &Kind) -> Self {
        let of = go_type(kind, &kind.list_kind);
        let message =
            format!("you requested PartialObjectMetadata, but the requested object is a list ({of})");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The metadata of many objects was asked for, of one.
    pub fn is_no_list(kind: &Kind) -> Self {
        let of = go_type(kind, &kind.kind);
        let message =
            format!("you requested PartialObjectMetadataList, but the requested object is not a list ({of})");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// A watch in a format that has no stream; `binary` says whether protobuf would have one.
    pub fn no_stream(binary: bool) -> Self {
        let other = match binary {
            true => ", application/vnd.kubernetes.protobuf;stream=watch",
            false => "",
        };
        let message =
            format!("only the following media types are accepted: application/json;stream=watch{other}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// The body of a patch is in no format that is one.
    pub fn no_patch_type() -> Self {
        let message = "415: Unsupported Media Type";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
        .with(json!({}))
    }
}

/// What upstream's program calls the type: its messages say so.
fn go_type(kind: &Kind, name: &str) -> String {
    if kind.custom.is_some() {
        let list = if name == kind.list_kind { "List" } else { "" };
        return format!("*unstructured.Unstructured{list}");
    }
    match kind.group.as_str() {
        "" | "events.k8s.io" => format!("*core.{name}"),
        group => format!("*{}.{name}", group.split('.').next().unwrap_or_default()),
    }
}

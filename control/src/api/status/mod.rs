//! Every error of the API, in upstream's codes, reasons, details and words, and how it becomes a `Status` response.
//!
//! This is the only file that knows how an error looks on the wire. Who sees what: a client's mistake is told to the
//! client in full; a failure of ours is logged here and told as `Internal error occurred: …`.
mod evictions;
mod media;
mod refusals;
pub mod success;

pub use refusals::{denied, too_old};

use super::negotiate::Format;
use super::{object, render};
use crate::kinds::managed::Conflict;
use crate::kinds::{FieldError, FieldErrors, Kind, bounded, join};
use crate::store::Revision;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// An answer other than success.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub code: StatusCode,
    /// `metav1.StatusReason`; empty where upstream gives none, anything where a webhook says so.
    reason: Cow<'static, str>,
    message: String,
    details: Option<Value>,
    /// `metadata.continue` of an expired list.
    token: Option<Box<str>>,
    /// What was to be warned of before it came to this.
    warnings: Box<[String]>,
}

pub type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            token: None,
            warnings: Box::default(),
        }
    }

    fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    fn about(self, kind: &Kind, name: &str) -> Self {
        self.with(details(name, &kind.group, &kind.plural))
    }

    /// The same, of what was being done.
    pub fn below(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same, with warnings.
    pub fn after(mut self, mut warnings: Vec<String>) -> Self {
        warnings.extend(std::mem::take(&mut self.warnings));
        self.warnings = warnings.into();
        self
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The object is not there.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.group_resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }

    /// No such resource, version or path below `/api` and `/apis`.
    pub fn no_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with(json!({}))
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(json!({}))
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.group_resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    /// Upstream's storage says so without a reason (`ErrResourceVersionSetOnCreate`).
    pub fn version_on_create() -> Self {
        let message = "resourceVersion should not be set on objects to be created";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// Upstream's registry says what is wrong with a Binding without a reason.
    pub fn unfit_binding(errors: &[FieldError]) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", join(errors))
    }

    /// The writer saw an older object.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.group_resource()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    /// A conflict on a subresource.
    pub fn conflict_at(kind: &Kind, subresource: &str, name: &str, why: &str) -> Self {
        let resource = format!("{}/{subresource}", kind.plural);
        let of = match kind.group.as_str() {
            "" => resource.clone(),
            group => format!("{resource}.{group}"),
        };
        let message = format!("Operation cannot be fulfilled on {of} {name:?}: {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(details(name, &kind.group, &resource))
    }

    /// An apply would change fields of other managers: of `count` such fields these are told.
    pub fn apply_conflict(conflicts: &[Conflict], count: usize) -> Self {
        let causes: Vec<Value> = conflicts
            .iter()
            .map(|c| {
                let message = format!("conflict with {}", c.manager.shown());
                json!({"reason": "FieldManagerConflict", "message": message, "field": c.field()})
            })
            .collect();
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            conflict_message(conflicts, count),
        )
        .with(json!({"causes": causes}))
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// A conflict about something that has no kind here.
    pub fn conflict_on(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(details(name, group, plural))
    }

    /// A precondition of a deletion does not hold; upstream names the kind here, not the resource.
    pub fn precondition(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            kind.group_kind()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(details(name, &kind.group, &kind.kind))
    }

    /// Validation failed. `kind` and `group` are of the object judged, which may be an options object.
    pub fn invalid(kind: &str, group: &str, name: &str, errors: &FieldErrors) -> Self {
        let of = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let errors = &bounded::told(errors);
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.kind.reason(), "message": e.message(), "field": e.field}))
            .collect();
        let mut about = details(name, group, kind);
        about["causes"] = causes.into();
        let message = format!("{of} {name:?} is invalid: {}", join(errors));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(about)
    }

    /// What a patch made of an object does not fit its kind; `shown` is what is to blame.
    pub fn unfit_patch(shown: String, why: &str) -> Self {
        let error = FieldError::invalid("patch", shown, why);
        Self::invalid("", "", "", &vec![error])
    }

    /// An option of the request is wrong: `CreateOptions`, `ListOptions`, ….
    pub fn invalid_options(options: &str, errors: &FieldErrors) -> Self {
        Self::invalid(options, "meta.k8s.io", "", errors)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// A JSON patch that cannot be applied; upstream does not say which of its operations cannot.
    pub fn rejected_patch() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(json!({}))
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `name` may be empty, for a whole collection.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let of = if group.is_empty() {
            resource.to_owned()
        } else {
            format!("{resource}.{group}")
        };
        let object = if name.is_empty() {
            of
        } else {
            format!("{of} {name:?}")
        };
        let message = format!("{object} is forbidden: {why}");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with(details(name, group, resource))
    }

    /// As [`ApiError::not_found`], for an object that the request is not itself about.
    pub fn missing(group: &str, plural: &str, name: &str) -> Self {
        let of = match group {
            "" => plural.to_owned(),
            group => format!("{plural}.{group}"),
        };
        let message = format!("{of} {name:?} not found");
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with(details(name, group, plural))
    }

    /// A path that is no resource is refused.
    pub fn forbidden_path(why: &str) -> Self {
        let message = format!("forbidden: {why}");
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with(json!({}))
    }

    /// As above, with the cause that makes clients stop creating in a namespace that goes away.
    pub fn terminating(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden(&kind.group, &kind.plural, name, &why);
        let cause = json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        });
        if let Some(about) = &mut error.details {
            about["causes"] = json!([cause]);
        }
        error
    }

    pub fn body_too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub fn too_many_operations(limit: usize, got: usize) -> Self {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {limit}, got {got}"
        );
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// History before this point is gone; the client must list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// As above for a list in pages, with a token to go on inconsistently.
    pub fn expired_page(token: String) -> Self {
        let mut error = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the \
             list.",
        );
        error.token = Some(token.into());
        error
    }

    /// A revision was asked for that the server has not reached.
    pub fn too_large_revision(wanted: Revision, newest: Revision) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {newest}");
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: {message}"),
        )
        .with(json!({"causes": [cause], "retryAfterSeconds": 1}))
    }

    /// The request was not whole in time.
    pub fn took_too_long() -> Self {
        let message = "Timeout: request did not complete within the allotted timeout";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(json!({}))
    }

    /// What was asked for was not done in time.
    pub fn writing_took_too_long() -> Self {
        let message =
            "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(json!({}))
    }

    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .with(json!({"retryAfterSeconds": 1}))
    }

    /// Somebody that the request needs is not there now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// What `proxy` was to reach did not answer.
    pub fn unreachable(why: &str) -> Self {
        Self::unavailable(format!("error trying to reach service: {why}"))
    }

    /// A backend that the request had to reach did not answer, or not as it had to; upstream gives no reason.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// A node answered something else than success; passed on as it is.
    pub fn from_node(code: StatusCode, message: String) -> Self {
        let reason = match code.as_u16() {
            400 => "BadRequest",
            404 => "NotFound",
            _ => "InternalError",
        };
        Self::new(code, reason, message)
    }

    /// A custom resource that its converter did not bring into the version asked for. Upstream says so without a reason.
    pub fn unconvertible(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    pub fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed inside the server");
        let message = format!("Internal error occurred: {error}");
        let cause = json!({"message": error.to_string()});
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
            .with(json!({"causes": [cause]}))
    }

    /// The `metav1.Status` object.
    pub fn status(&self) -> Value {
        let mut status = Map::new();
        let metadata = self
            .token
            .as_ref()
            .map_or(json!({}), |t| json!({"continue": **t}));
        status.insert("kind".into(), "Status".into());
        status.insert("apiVersion".into(), "v1".into());
        status.insert("metadata".into(), metadata);
        status.insert("status".into(), "Failure".into());
        status.insert("message".into(), self.message.clone().into());
        if !self.reason.is_empty() {
            status.insert("reason".into(), self.reason.clone().into());
        }
        if let Some(details) = &self.details {
            status.insert("details".into(), details.clone());
        }
        status.insert("code".into(), self.code.as_u16().into());
        Value::Object(status)
    }

    fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }
}

/// Conflicts by manager.
fn conflict_message(conflicts: &[Conflict], count: usize) -> String {
    if let ([only], 1) = (conflicts, count) {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager.shown(),
            only.field()
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager.shown()));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field()));
    }
    if count > conflicts.len() {
        lines.push(format!("and {} more", count - conflicts.len()));
    }
    format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
}

fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut about = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            about.insert(key.into(), value.into());
        }
    }
    Value::Object(about)
}

impl ApiError {
    /// The answer, in the format that was asked for.
    pub fn respond(self, format: Format) -> Response {
        let status = self.status();
        let json = || render::json_response(self.code, object::document(&status).into());
        let mut response = render::respond(format, self.code, &status).unwrap_or_else(|_| json());
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        render::warn(response, self.warnings.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.respond(Format::Json)
    }
}

//! The audit trail of one request, from the API server's side: what is learnt on the way, and the answer's end.
use super::negotiate::Format;
use super::route::Target;
use super::status::{ApiError, Result};
use super::{Api, random_id, serve};
use crate::audit::{Audit, Level, ObjectRef, Outcome, Stage, Subject, Told, Trail};
use crate::auth::Identity;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use jiff::Timestamp;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) const ID: HeaderName = HeaderName::from_static("audit-id");
/// A client may name its request, by no more than this.
const ID_LENGTH: usize = 64;
/// Subresources that last as long as the client wants.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// The name of a request in the audit log, where others are to know it too.
#[derive(Clone)]
pub(super) struct RequestId(pub HeaderValue);

/// One request's record.
pub(super) struct Record {
    audit: Audit,
    trail: Trail,
    method: Method,
    uri: String,
    /// The answer has no foreseeable end.
    long: bool,
}

impl Record {
    pub fn begin(api: &Api, request: &Request) -> Self {
        let headers = request.headers();
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let trail = Trail {
            id: id(headers),
            received: Timestamp::now(),
            agent: text(header::USER_AGENT).unwrap_or_default().to_owned(),
            from: request
                .extensions()
                .get::<serve::ClientAddress>()
                .map(|from| from.0),
            subject: None,
            ruling: None,
            request: None,
            told: Told::default(),
        };
        Record {
            audit: api.audit.clone(),
            trail,
            method: request.method().clone(),
            uri: request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            long: false,
        }
    }

    /// Who is behind the request is known, and what it is about.
    pub async fn knows(
        &mut self,
        user: &Identity,
        acting_as: &Identity,
        verb: &'static str,
        target: Option<&Target>,
    ) {
        self.about(user, acting_as, verb, target.map(object)).await;
    }

    /// As above for another server's resource.
    pub async fn knows_remote(
        &mut self,
        user: &Identity,
        acting_as: &Identity,
        verb: &'static str,
        object: ObjectRef,
    ) {
        self.about(user, acting_as, verb, Some(object)).await;
    }

    async fn about(
        &mut self,
        user: &Identity,
        acting_as: &Identity,
        verb: &'static str,
        object: Option<ObjectRef>,
    ) {
        let subresource = object.as_ref().and_then(|object| object.subresource.as_deref());
        self.long = verb == "watch" || subresource.is_some_and(|sub| STREAMS.contains(&sub));
        let subject = Subject {
            acting_as: (user != acting_as).then(|| acting_as.clone()),
            user: user.clone(),
            verb,
            uri: self.uri.clone(),
            object,
        };
        self.trail.ruling = Some(self.audit.policy().rule(&subject));
        self.trail.subject = Some(subject);
        if let Some(event) = self.trail.event(Stage::RequestReceived, None) {
            self.audit.write(&event).await;
        }
    }

    /// As above for a path that is no resource.
    pub async fn knows_path(&mut self, user: &Identity, acting_as: &Identity, parts: &Parts) {
        let verb = word(&parts.method);
        self.knows(user, acting_as, verb, None).await;
    }

    /// The request's name.
    pub fn id(&self) -> Option<RequestId> {
        HeaderValue::from_str(&self.trail.id).ok().map(RequestId)
    }

    /// Where admission leaves what it has to say.
    pub fn told(&self) -> Told {
        self.trail.told.clone()
    }

    /// The body, for levels that show it.
    pub fn body(&mut self, body: &[u8]) {
        if self.trail.wants(Level::Request) {
            self.trail.request = serde_json::from_slice(body).ok();
        }
    }

    /// The answer, with the request's id; what is written of it, is. `format` is that of a refusal.
    pub async fn end(mut self, result: Result<Response>, format: Format) -> Response {
        let status = result.as_ref().err().map(ApiError::status);
        let mut response = result.unwrap_or_else(|error| error.respond(format));
        if let Some(id) = self.id() {
            response.headers_mut().insert(ID, id.0);
        }
        if self.trail.subject.is_none() && response.status() == http::StatusCode::UNAUTHORIZED {
            let nobody = Identity::nobody();
            let verb = word(&self.method);
            self.knows(&nobody, &nobody, verb, None).await;
        }
        let mut outcome = Outcome {
            code: response.status().as_u16(),
            status,
            response: None,
        };
        if self.long && response.status().is_success() {
            return self.follow(response, outcome).await;
        }
        if self.trail.wants(Level::RequestResponse) {
            response = shown(response, &mut outcome).await;
        }
        if let Some(event) = self.trail.event(Stage::ResponseComplete, Some(&outcome)) {
            self.audit.write(&event).await;
        }
        response
    }

    async fn follow(self, response: Response, outcome: Outcome) -> Response {
        if let Some(event) = self.trail.event(Stage::ResponseStarted, Some(&outcome)) {
            self.audit.write(&event).await;
        }
        let (audit, trail) = (self.audit, self.trail);
        response.map(|inner| {
            Body::new(Followed {
                inner,
                audit,
                trail,
                outcome,
            })
        })
    }
}

fn id(headers: &HeaderMap) -> String {
    let own = headers.get(ID).and_then(|value| value.to_str().ok());
    match own.filter(|id| !id.is_empty() && id.len() <= ID_LENGTH) {
        Some(id) => id.to_owned(),
        None => random_id(),
    }
}

fn object(target: &Target) -> ObjectRef {
    ObjectRef {
        group: target.kind.group.clone(),
        version: target.kind.version.clone(),
        resource: target.kind.plural.clone(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
    }
}

fn word(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "other",
    }
}

/// Reads the answer for the event, and makes it anew.
async fn shown(response: Response, outcome: &mut Outcome) -> Response {
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let bytes = body.to_bytes();
            // A refusal in another format is told as what it says.
            outcome.response = serde_json::from_slice(&bytes)
                .ok()
                .or_else(|| outcome.status.clone());
            Response::from_parts(parts, Body::from(bytes))
        }
        Err(error) => ApiError::internal(error).respond(Format::Json),
    }
}

/// A body whose end is an event.
struct Followed {
    inner: Body,
    audit: Audit,
    trail: Trail,
    outcome: Outcome,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(event) = self.trail.event(Stage::ResponseComplete, Some(&self.outcome)) {
            self.audit.write_now(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_told_in_whatever_format_it_is_sent() {
        let error = ApiError::bad_request("no");
        let status = error.status();
        for format in [Format::Json, Format::Yaml, Format::Protobuf] {
            let mut outcome = Outcome {
                code: 400,
                status: Some(status.clone()),
                response: None,
            };
            let sent = ApiError::bad_request("no").respond(format);
            assert_eq!(shown(sent, &mut outcome).await.status(), 400);
            assert_eq!(outcome.response.as_ref(), Some(&status), "{format:?}");
        }
    }
}

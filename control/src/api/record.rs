//! The audit trail of one request, from the API server's side: what is learnt on the way, and the answer's end.
use super::asked::Asked;
use super::impersonate::Acting;
use super::negotiate::Format;
use super::status::success::Said;
use super::status::{ApiError, Result};
use super::{Api, about, origin, random_id, serve, shown};
use crate::audit::{Audit, Level, ObjectRef, Outcome, Stage, Subject, Told, Trail};
use crate::auth::Identity;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) const ID: HeaderName = HeaderName::from_static("audit-id");
/// A client may name its request, by no more than this.
const ID_LENGTH: usize = 64;
/// Subresources that last as long as the client wants.
const STREAMS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// One request's record.
pub(super) struct Record {
    audit: Audit,
    trail: Trail,
    method: Method,
    uri: Uri,
    /// Once he is known.
    user: Option<Identity>,
    acting: Option<Acting>,
    /// The request is refused before anything is known of it: to somebody who is not let in, or whoever asks.
    refused: bool,
    /// The answer has no foreseeable end.
    long: bool,
}

impl Record {
    pub fn begin(api: &Api, request: &Request) -> Self {
        let headers = request.headers();
        let peer = request.extensions().get::<serve::ClientAddress>();
        let trail = Trail {
            id: id(headers),
            received: Timestamp::now(),
            agent: origin::agent(headers),
            from: origin::sources(headers, peer.map(|peer| peer.0)),
            subject: None,
            ruling: None,
            request: None,
            told: Told::default(),
        };
        Record {
            audit: api.audit.clone(),
            trail,
            method: request.method().clone(),
            uri: request.uri().clone(),
            user: None,
            acting: None,
            refused: false,
            long: false,
        }
    }

    /// Who sent the request.
    pub fn is_from(&mut self, user: &Identity) {
        self.user = Some(user.clone());
    }

    /// Whom it counts as.
    pub fn acts_as(&mut self, acting: Acting) {
        self.acting = Some(acting);
    }

    /// It is refused, and nobody is known to have sent it.
    pub fn refuses(&mut self) {
        self.refused = true;
    }

    /// What the request is about, after who sent it: nothing when its path is no resource.
    pub async fn knows(&mut self, verb: &'static str, object: Option<ObjectRef>) {
        self.is_about(verb, object);
        if let Some(event) = self.trail.event(Stage::RequestReceived, None) {
            self.audit.write(&event).await;
        }
    }

    fn is_about(&mut self, verb: &'static str, object: Option<ObjectRef>) {
        let subresource = object.as_ref().and_then(|object| object.subresource.as_deref());
        self.long = verb == "watch" || subresource.is_some_and(|sub| STREAMS.contains(&sub));
        let acting = self.acting.take();
        let subject = Subject {
            constraint: acting.as_ref().and_then(Acting::constraint),
            acting_as: acting.map(|acting| acting.who),
            user: self.user.take().unwrap_or_else(Identity::nobody),
            verb,
            uri: self
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            object,
        };
        self.trail.ruling = Some(self.audit.policy().rule(&subject));
        self.trail.subject = Some(subject);
        if self.trail.wants(Level::Metadata) {
            self.trail.told = Told::gathering(self.trail.wants(Level::Request));
        }
    }

    /// As above by the path and the method alone, which name what this server does not have, too.
    pub async fn knows_path(&mut self) {
        let (verb, object) = self.by_path();
        self.knows(verb, object).await;
    }

    fn by_path(&self) -> (&'static str, Option<ObjectRef>) {
        match Asked::by(&self.method, &self.uri) {
            Some(asked) => (asked.verb, Some(about::asked(asked))),
            None => (word(&self.method), None),
        }
    }

    /// The request's name, where others are to know it too.
    pub fn id(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.trail.id).ok()
    }

    /// Where authorization and admission leave what they have to say, once it is known what the request is about.
    pub fn told(&self) -> Told {
        self.trail.told.clone()
    }

    /// The body, for levels that show it, of a patch or a deletion. Of others what they are understood as is shown.
    pub fn body(&mut self, headers: &HeaderMap, body: &[u8]) {
        if self.trail.wants(Level::Request) {
            let verb = self.trail.subject.as_ref().map_or("", |subject| subject.verb);
            self.trail.request = shown::request(verb, headers, body);
        }
    }

    /// The answer, with the request's id; what is written of it, is. `format` is that of a refusal.
    pub async fn end(mut self, result: Result<Response>, format: Format) -> Response {
        let failure = result.as_ref().err().map(ApiError::status);
        // A client that takes none of the forms there are is sent one that nobody agreed on: upstream tells its code alone.
        let untold = failure
            .as_ref()
            .is_some_and(|status| status["reason"] == "NotAcceptable");
        let failure = failure.filter(|_| !untold);
        let mut response = result.unwrap_or_else(|error| error.respond(format));
        let success = response.extensions_mut().remove::<Said>().map(|said| said.0);
        if let Some(id) = self.id() {
            response.headers_mut().insert(ID, id);
        }
        if self.refused {
            return self.end_unknown(response, failure).await;
        }
        if self.trail.subject.is_none() && self.user.is_some() {
            // It was refused before it was read.
            self.knows_path().await;
        }
        self.trail.complete();
        let mut outcome = Outcome {
            code: response.status().as_u16(),
            status: failure.or(success),
            response: None,
        };
        if self.long && response.status().is_success() {
            return self.follow(response, outcome).await;
        }
        if self.trail.wants(Level::RequestResponse) && !untold {
            response = seen(response, &mut outcome).await;
        }
        if self.long {
            self.starts(&outcome).await;
        }
        if let Some(event) = self.trail.event(Stage::ResponseComplete, Some(&outcome)) {
            self.audit.write(&event).await;
        }
        response
    }

    /// Nobody knows who asked: what it was for is told, once (upstream's `WithFailedAuthenticationAudit` and
    /// `withFailedRequestAudit`).
    async fn end_unknown(mut self, mut response: Response, status: Option<Value>) -> Response {
        let (verb, object) = self.by_path();
        self.is_about(verb, object);
        let mut outcome = Outcome {
            code: response.status().as_u16(),
            status,
            response: None,
        };
        if self.trail.wants(Level::RequestResponse) {
            response = seen(response, &mut outcome).await;
        }
        self.starts(&outcome).await;
        response
    }

    /// What may last is told when its answer begins, however soon that ends.
    async fn starts(&self, outcome: &Outcome) {
        if let Some(event) = self.trail.event(Stage::ResponseStarted, Some(outcome)) {
            self.audit.write(&event).await;
        }
    }

    async fn follow(self, response: Response, outcome: Outcome) -> Response {
        self.starts(&outcome).await;
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
async fn seen(response: Response, outcome: &mut Outcome) -> Response {
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let bytes = body.to_bytes();
            // A refusal in another format is told as what it says.
            outcome.response = shown::answer(&parts.headers, &bytes).or_else(|| outcome.status.clone());
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
            assert_eq!(seen(sent, &mut outcome).await.status(), 400);
            assert_eq!(outcome.response.as_ref(), Some(&status), "{format:?}");
        }
    }
}

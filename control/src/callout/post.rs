//! One question as JSON and the bytes of one answer, within a time and a size, as upstream's client takes it.
use super::{Place, Trust, send};
use crate::admission::Objects;
use crate::kinds::view::View;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Characters of a refusal that are passed on.
const SHOWN: usize = 200;
/// What a refusal says that is no text.
const UNKNOWN: &str = "unknown";
/// What an answer is that does not say what it is.
const JSON: &str = "application/json";
/// Upstream's client takes no further codes for success.
const SUCCESS: RangeInclusive<u16> = 200..=206;

/// What one exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// Seconds; told to the server as `?timeout=`.
    pub within: u64,
    /// Bytes of the answer.
    pub answer: usize,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub why: String,
    /// What the server answered instead; upstream takes none for 503.
    pub code: u16,
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        let code = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        Failed { why, code }
    }
}

/// Posts to where a `clientConfig` leads; the error is upstream's sentence about a failed POST. What is answered has not been
/// read yet, but that it is something.
pub async fn post(
    objects: &dyn Objects,
    config: &Value,
    exchange: Exchange,
    question: &Value,
) -> Result<Bytes, Failed> {
    let url = format!("{}?timeout={}s", Place::url(config), exchange.within);
    let failed = |why: String| Failed::from(format!("Post {url:?}: {why}"));
    let place = Place::of(objects, config).map_err(failed)?;
    let query = format!("{}?timeout={}s", place.path, exchange.within);
    let trust = Trust::Bundle(config.at("caBundle").as_str());
    let asked = ask(&place, trust, &query, exchange.answer, question);
    match tokio::time::timeout(Duration::from_secs(exchange.within), asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failure::Refused(failed))) => Err(failed),
        Ok(Err(Failure::Unheard(why))) => Err(failed(why)),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

/// Why there is no answer.
enum Failure {
    /// It was not to be had.
    Unheard(String),
    /// It was another than was asked for.
    Refused(Failed),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Unheard(why)
    }
}

/// A refusal in the words of upstream's client (`NewGenericServerResponse`), which has these of some of its own.
fn refusal(code: StatusCode, said: &str) -> String {
    let known = Some(said).filter(|said| !said.is_empty() && *said != UNKNOWN);
    let why = match code.as_u16() {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 | 415 => said,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        406 => {
            known.unwrap_or("the server was unable to respond with a content type that the client supports")
        }
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => {
            return format!("an error on the server ({said:?}) has prevented the request from succeeding");
        }
        code => {
            return format!(
                "the server responded with the status code {code} but did not return more information"
            );
        }
    };
    why.to_owned()
}

/// What a refusal says of itself as a `Status`, whose version may be left out.
fn status(body: &[u8]) -> Option<String> {
    let status = crate::api::decoded(body).ok()?;
    let known = ["", "v1"].contains(&status.text("apiVersion")) && status.text("kind") == "Status";
    (known && status.text("status") == "Failure").then(|| status.text("message").to_owned())
}

async fn ask(
    place: &Place,
    trust: Trust<'_>,
    query: &str,
    limit: usize,
    question: &Value,
) -> Result<Bytes, Failure> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let request = Request::post(query)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, JSON)
        .header(header::ACCEPT, JSON)
        .body(Full::new(Bytes::from(question.to_string())))
        .map_err(|e| said(&e))?;
    let answer = send(place, trust, None, request).await?;
    let (code, kind) = (answer.status(), content_type(answer.headers()));
    let body = Limited::new(answer.into_body(), limit).collect().await;
    let body = body.map_err(|e| said(&e))?.to_bytes();
    judged(code, kind, body).map_err(Failure::Refused)
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let said = headers.get(header::CONTENT_TYPE)?;
    Some(String::from_utf8_lossy(said.as_bytes()).into_owned())
}

/// The body of a success, which has one.
fn judged(code: StatusCode, kind: Option<String>, body: Bytes) -> Result<Bytes, Failed> {
    if !SUCCESS.contains(&code.as_u16()) {
        let is_text = kind.is_none_or(|kind| kind.starts_with("text/"));
        let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
        let text = if is_text { text.trim() } else { UNKNOWN };
        return Err(Failed {
            why: status(&body).unwrap_or_else(|| refusal(code, text)),
            code: code.as_u16(),
        });
    }
    if body.is_empty() {
        let (code, kind) = (code.as_u16(), kind.unwrap_or_else(|| JSON.to_owned()));
        let why = format!("0-length response with status code: {code} and content type: {kind}");
        return Err(why.into());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_code_as_upstreams_client_does() {
        let failure = r#"{"kind":"Status","status":"Failure","message":"m"}"#;
        let other = r#"{"apiVersion":"v1","kind":"Status","status":"Success","message":"m"}"#;
        let conflict = "the server reported a conflict";
        let unknown = "an error on the server (\"unknown\") has prevented the request from succeeding";
        for (code, kind, body, want) in [
            (200, JSON, "{}", Ok("{}")),
            (206, JSON, "x", Ok("x")),
            (
                207,
                JSON,
                "{}",
                Err("the server responded with the status code 207 but did not return more information"),
            ),
            (
                204,
                JSON,
                "",
                Err("0-length response with status code: 204 and content type: application/json"),
            ),
            (403, JSON, failure, Err("m")),
            (500, JSON, failure, Err("m")),
            (500, JSON, other, Err(unknown)),
            (500, JSON, "{}", Err(unknown)),
            (403, "text/plain", "because", Err("because")),
            (406, "text/plain", "because", Err("because")),
            (409, "text/plain", "because", Err(conflict)),
            (
                502,
                "text/plain",
                " because ",
                Err("an error on the server (\"because\") has prevented the request from succeeding"),
            ),
        ] {
            let code = StatusCode::from_u16(code).expect("a code");
            let body = Bytes::copy_from_slice(body.as_bytes());
            let want = want
                .map(|body| Bytes::from_static(body.as_bytes()))
                .map_err(str::to_owned);
            let judged = judged(code, Some(kind.to_owned()), body);
            let told = judged.as_ref().map_err(|failed| failed.code).err();
            assert_eq!(judged.map_err(|failed| failed.why), want, "{code}");
            let success = (200..=206).contains(&code.as_u16());
            let wanted = if success { 503 } else { code.as_u16() };
            assert!(told.is_none_or(|told| told == wanted), "{code}: {told:?}");
        }
    }
}

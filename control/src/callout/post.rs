//! One question as JSON, one answer as JSON, within a time and a size.
use super::{Place, Trust, send};
use crate::admission::Objects;
use crate::kinds::view::View;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::Value;
use std::time::Duration;

/// Characters of a refusal that are passed on.
const SHOWN: usize = 200;

/// What one exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// Seconds; told to the server as `?timeout=`.
    pub within: u64,
    /// Bytes of the answer.
    pub answer: usize,
}

/// Posts to where a `clientConfig` leads; the error is upstream's sentence about a failed POST.
pub async fn post(
    objects: &dyn Objects,
    config: &Value,
    exchange: Exchange,
    question: &Value,
) -> Result<Value, String> {
    let url = format!("{}?timeout={}s", Place::url(config), exchange.within);
    let failed = |why: String| format!("Post {url:?}: {why}");
    let place = Place::of(objects, config).map_err(failed)?;
    let query = format!("{}?timeout={}s", place.path, exchange.within);
    let trust = Trust::Bundle(config.at("caBundle").as_str());
    let asked = ask(&place, trust, &query, exchange.answer, question);
    match tokio::time::timeout(Duration::from_secs(exchange.within), asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Failure::Refused(why))) => Err(why),
        Ok(Err(Failure::Unheard(why))) => Err(failed(why)),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

/// Why there is no answer.
enum Failure {
    /// It was not to be had.
    Unheard(String),
    /// It was another than was asked for.
    Refused(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Unheard(why)
    }
}

/// A refusal in the words of upstream's client (`NewGenericServerResponse`).
fn refusal(code: StatusCode, said: &str) -> String {
    let why = match code.as_u16() {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
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

async fn ask(
    place: &Place,
    trust: Trust<'_>,
    query: &str,
    limit: usize,
    question: &Value,
) -> Result<Value, Failure> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let request = Request::post(query)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(question.to_string())))
        .map_err(|e| said(&e))?;
    let answer = send(place, trust, None, request).await?;
    let code = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_none_or(|kind| kind.as_bytes().starts_with(b"text/"));
    let body = Limited::new(answer.into_body(), limit).collect().await;
    let body = body.map_err(|e| said(&e))?.to_bytes();
    if !code.is_success() {
        let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
        let text = if is_text { text.trim() } else { "unknown" };
        return Err(Failure::Refused(refusal(code, text)));
    }
    serde_json::from_slice(&body).map_err(|e| Failure::Refused(format!("the answer is not JSON: {e}")))
}

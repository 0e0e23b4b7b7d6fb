//! One question as JSON, one answer as JSON, within a time and a size.
use super::{Place, Trust, send};
use crate::admission::Objects;
use crate::kinds::view::View;
use bytes::Bytes;
use http::{Request, header};
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
        Ok(Err(why)) => Err(failed(why)),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

async fn ask(
    place: &Place,
    trust: Trust<'_>,
    query: &str,
    limit: usize,
    question: &Value,
) -> Result<Value, String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let request = Request::post(query)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(question.to_string())))
        .map_err(|e| said(&e))?;
    let answer = send(place, trust, None, request).await?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), limit).collect().await;
    let body = body.map_err(|e| said(&e))?.to_bytes();
    if !code.is_success() {
        let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
        return Err(format!(
            "an error on the server ({text:?}) has prevented the request from succeeding: {code}"
        ));
    }
    serde_json::from_slice(&body).map_err(|e| format!("the answer is not JSON: {e}"))
}

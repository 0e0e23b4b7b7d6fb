//! Requests to paths of the API, and what upstream's client says where they fail.
use http::{Method, Request};
use kube::Client;
use serde_json::Value;

use crate::toolkit::StepError;
use crate::uri::escape;

/// Why there is no answer.
#[derive(Debug)]
pub struct Failure {
    pub message: String,
    /// The HTTP status of the answer, if there was one.
    pub code: u16,
    pub conflict: bool,
}

pub async fn get(client: &Client, path: &str) -> Result<Value, Failure> {
    send(client, Method::GET, path, Vec::new()).await
}

pub async fn put(client: &Client, path: &str, body: &Value) -> Result<Value, Failure> {
    send(client, Method::PUT, path, body.to_string().into_bytes()).await
}

async fn send(client: &Client, method: Method, path: &str, body: Vec<u8>) -> Result<Value, Failure> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json").body(body);
    let answer = match request {
        Ok(request) => client.request(request).await,
        Err(error) => Err(kube::Error::HttpError(error)),
    };
    answer.map_err(|error| {
        let error = StepError::new(format!("ask for {path}"), error);
        Failure {
            message: error.message(),
            code: error.status().map_or(0, |status| status.code),
            conflict: error.is_conflict(),
        }
    })
}

/// `?a=1&b=2` of those that have a value.
pub fn query(parameters: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(&escape(value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_go_into_queries() {
        let parameters = [("labelSelector", "a in (b,c),d=ä"), ("other", ""), ("last", "x")];
        let expected = "?labelSelector=a%20in%20%28b%2Cc%29%2Cd%3D%C3%A4&last=x";
        assert_eq!(query(&parameters), expected);
    }
}

//! `pods/log`: asks the Pod's node and passes the answer on as it comes.
use super::super::status::{ApiError, Result};
use super::super::{Call, query::Query, render};
use super::node;
use crate::kinds::FieldError;
use crate::uri::escape;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use jiff::Timestamp;

/// Query options of `log` that the kubelet API knows by the same name.
const OPTIONS: [&str; 9] = [
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "timestamps",
    "tailLines",
    "limitBytes",
    "insecureSkipTLSVerifyBackend",
    "stream",
];

/// What `sinceTime` looks like, in upstream's notation.
const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
/// What `stream` may be.
const ALL: &str = "All";
const STREAMS: [&str; 3] = [ALL, "Stderr", "Stdout"];

pub(super) async fn serve(call: &Call, name: &str) -> Result<Response> {
    judge(&call.query, name)?;
    let pod = render::value(
        &call.target.kind,
        call.api.read(&call.target, name).await?.as_ref(),
    )?;
    let container = node::container(&pod, name, call.query.get("container"))?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        // Upstream answers with nothing: there can be no log yet.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let node = node::find(call, node)?;
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let path = format!(
        "/containerLogs/{namespace}/{name}/{container}{}",
        options(&call.query)
    );
    let answer = call.api.nodes.get(&node, &path).await?;
    if answer.status() == StatusCode::OK {
        return Ok(log_response(Body::new(answer.into_body())));
    }
    Err(node::refusal(answer).await)
}

/// Upstream's rules for PodLogOptions; the options belong to the Pod's name in errors.
fn judge(query: &Query, name: &str) -> Result<()> {
    let mut errors = Vec::new();
    let mut at_least = |option: &'static str, least: i64, says: &'static str| -> Result<()> {
        if let Some(given) = number(query, option)?.filter(|given| *given < least) {
            errors.push(FieldError::invalid(option, given, says));
        }
        Ok(())
    };
    at_least("tailLines", 0, "must be greater than or equal to 0")?;
    at_least("limitBytes", 1, "must be greater than 0")?;
    if let Some(time) = query
        .get("sinceTime")
        .filter(|time| time.parse::<Timestamp>().is_err())
    {
        return Err(ApiError::bad_request(format!(
            "parsing time {time:?} as {LAYOUT:?}: cannot parse {time:?} as \"2006\""
        )));
    }
    match query.get("sinceTime") {
        Some(_) if query.get("sinceSeconds").is_some() => errors.push(FieldError::forbidden(
            "",
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        )),
        _ => at_least("sinceSeconds", 1, "must be greater than 0")?,
    }
    if let Some(stream) = query.get("stream") {
        if !STREAMS.contains(&stream) {
            errors.push(FieldError::not_supported("stream", stream, &STREAMS));
        }
        if stream != ALL && query.get("tailLines").is_some() {
            errors.push(FieldError::forbidden(
                "",
                "`tailLines` and specific `stream` are mutually exclusive for now",
            ));
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid("PodLogOptions", "", name, &errors)),
    }
}

fn number(query: &Query, option: &str) -> Result<Option<i64>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
    };
    query.get(option).map(parse).transpose()
}

fn log_response(body: Body) -> Response {
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"))],
        body,
    )
        .into_response()
}

/// The options that were given, as a query.
fn options(query: &Query) -> String {
    let given = OPTIONS
        .iter()
        .filter_map(|name| query.get(name).map(|value| (name, value)));
    let given: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if given.is_empty() {
        String::new()
    } else {
        format!("?{}", given.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_judged_as_upstream_does() {
        let said = |query: &str| {
            let query = Query::of(&format!("/x?{query}").parse().unwrap()).unwrap();
            judge(&query, "p")
                .err()
                .map(|e| (e.code.as_u16(), e.message().to_owned()))
        };
        assert_eq!(said("tailLines=0&sinceSeconds=1&limitBytes=1"), None);
        assert_eq!(said("stream=All&tailLines=1"), None);
        assert_eq!(said("stream=Stderr"), None);
        let invalid = |what: &str| Some((422, format!("PodLogOptions \"p\" is invalid: {what}")));
        for (query, answer) in [
            (
                "sinceSeconds=-1",
                invalid("sinceSeconds: Invalid value: -1: must be greater than 0"),
            ),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                invalid(": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"),
            ),
            (
                "stream=Stderr&tailLines=1",
                invalid(": Forbidden: `tailLines` and specific `stream` are mutually exclusive for now"),
            ),
            (
                "stream=x",
                invalid(r#"stream: Unsupported value: "x": supported values: "All", "Stderr", "Stdout""#),
            ),
            (
                "sinceTime=yesterday",
                Some((
                    400,
                    "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\""
                        .to_owned(),
                )),
            ),
            (
                "tailLines=x",
                Some((400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())),
            ),
        ] {
            assert_eq!(said(query), answer, "{query}");
        }
    }

    #[test]
    fn options_are_escaped() {
        let query = Query::of(
            &"/x?tailLines=5&sinceTime=2026-01-01T00:00:00%2B01:00&evil=1"
                .parse()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(
            options(&query),
            "?sinceTime=2026-01-01T00:00:00%2B01:00&tailLines=5"
        );
    }
}

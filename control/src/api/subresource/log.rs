//! `pods/log`: asks the Pod's node and passes the answer on as it comes.
use super::super::status::Result;
use super::super::{Call, query::Query, render};
use super::node::{self, escape};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

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

pub(super) async fn serve(call: &Call, name: &str) -> Result<Response> {
    let pod = render::value(
        &call.target.kind,
        call.api.read(&call.target, name).await?.as_ref(),
    )?;
    let container = node::container(&pod, name, call.query.get("container"))?;
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
        // Upstream answers with nothing: there can be no log yet.
        return Ok(log_response(Body::empty()));
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
    fn options_are_escaped() {
        let query = Query::of(
            &"/x?tailLines=5&sinceTime=2026-01-01T00:00:00%2B01:00&evil=1"
                .parse()
                .unwrap(),
        )
        .unwrap();
        assert_eq!(
            options(&query),
            "?sinceTime=2026-01-01T00%3A00%3A00%2B01%3A00&tailLines=5"
        );
    }
}

//! Listing tags and repositories, page by page (distribution-spec, "Listing tags").

use std::collections::BTreeSet;

use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri, header};
use serde_json::json;

use super::blobs::blocking;
use super::error::{ApiError, Code};
use super::names::Name;
use super::{Registry, query};

/// Names in one answer at most; a client that wants more follows the link.
const MAX_PAGE: usize = 1000;

/// `GET /v2/NAME/tags/list`.
pub async fn tags(registry: &Registry, name: Name, uri: &Uri) -> Result<Response, ApiError> {
    let (disk, at) = (registry.disk.clone(), name.clone());
    let tags = blocking(move || disk.tags(&at)).await?;
    let tags = tags.ok_or_else(|| ApiError::new(Code::NameUnknown, format!("no repository {name}")))?;
    let (page, more) = page(&tags, uri)?;
    let body = json!({ "name": name.as_str(), "tags": page });
    Ok(linked(body.to_string(), uri.path(), more))
}

/// `GET /v2/_catalog`: not in the spec, but what most registries offer.
pub async fn catalog(registry: &Registry, uri: &Uri) -> Result<Response, ApiError> {
    let disk = registry.disk.clone();
    let names = blocking(move || disk.catalog()).await?;
    let (page, more) = page(&names, uri)?;
    Ok(linked(
        json!({ "repositories": page }).to_string(),
        uri.path(),
        more,
    ))
}

/// Size and last name of a page that has a successor.
type More = Option<(usize, String)>;

fn page(all: &BTreeSet<String>, uri: &Uri) -> Result<(Vec<String>, More), ApiError> {
    let count = match query(uri, "n") {
        None => MAX_PAGE,
        Some(n) => n
            .parse::<usize>()
            .map_err(|_| ApiError::new(Code::Unsupported, format!("n must be a number, not {n:?}")))?
            .min(MAX_PAGE),
    };
    let last = query(uri, "last").unwrap_or_default();
    let rest: Vec<&String> = all.iter().filter(|name| **name > last).take(count + 1).collect();
    let page: Vec<String> = rest.iter().take(count).map(|name| (*name).clone()).collect();
    let more = page
        .last()
        .filter(|_| rest.len() > count)
        .map(|last| (count, last.clone()));
    Ok((page, more))
}

fn linked(body: String, path: &str, more: More) -> Response {
    let mut response = super::json(StatusCode::OK, body);
    let link = more.map(|(count, last)| format!("<{path}?n={count}&last={last}>; rel=\"next\""));
    if let Some(Ok(link)) = link.map(|link| HeaderValue::from_str(&link)) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

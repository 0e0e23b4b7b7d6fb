//! `/flagz`: the flags that the API server runs by, for people, or as a `Flagz` for who asks for that (KEP-4828).
use super::negotiate::Format;
use super::status::{ApiError, Result};
use super::{render, text};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use std::collections::BTreeMap;

/// By name, without dashes. None of them is a secret.
pub type Flags = BTreeMap<&'static str, String>;

const KIND: &str = "Flagz";
const GROUP: &str = "config.k8s.io";
const BETA: &str = "v1beta1";
/// Deprecated from its beginning.
const ALPHA: &str = "v1alpha1";
const DEPRECATED: &str = "This version of the flagz endpoint is deprecated. Please use a newer version.";
const TEXT: &str = "text/plain";
/// What it can be had in, in upstream's order.
const OFFERED: [&str; 3] = ["application/json", "application/yaml", TEXT];

/// In which form it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Object(Format, &'static str),
}

pub(super) fn answer(headers: &HeaderMap, flags: &Flags) -> Result<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match form(accept.unwrap_or_default()) {
        Some(Form::Text) => Ok(plain(flags)),
        Some(Form::Object(format, version)) => object(format, version, flags),
        None => Err(ApiError::not_acceptable(&OFFERED)),
    }
}

fn plain(flags: &Flags) -> Response {
    let mut page =
        "\napiserver flagz\nWarning: this page is for people, and may look otherwise at any time.\n\n"
            .to_owned();
    for (name, value) in flags {
        page.extend([name, "=", value, "\n"]);
    }
    text(StatusCode::OK, page)
}

fn object(format: Format, version: &str, flags: &Flags) -> Result<Response> {
    let flagz = json!({
        "kind": KIND,
        "apiVersion": format!("{GROUP}/{version}"),
        "metadata": {"name": "apiserver"},
        "flags": flags,
    });
    let mut response = render::respond(format, StatusCode::OK, &flagz)?;
    if version == ALPHA
        && let Ok(warning) = HeaderValue::from_str(&format!("299 - {DEPRECATED:?}"))
    {
        response.headers_mut().insert(header::WARNING, warning);
    }
    Ok(response)
}

/// What `Accept` asks for that there is, the most wanted first.
fn form(accept: &str) -> Option<Form> {
    if accept.trim().is_empty() {
        return Some(Form::Text);
    }
    let mut clauses: Vec<_> = accept.split(',').map(Clause::of).collect();
    // Stable: equal weights keep the client's order.
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    clauses.iter().find_map(Clause::form)
}

/// One of the alternatives that `Accept` lists.
struct Clause<'a> {
    ty: &'a str,
    weight: f32,
    /// Parameters that say which object it is to be: `as`, `g`, `v`.
    said: [Option<&'a str>; 3],
    streams: bool,
}

impl<'a> Clause<'a> {
    fn of(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut clause = Clause {
            ty: parts.next().unwrap_or_default(),
            weight: 1.0,
            said: [None; 3],
            streams: false,
        };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "q" => clause.weight = value.parse().unwrap_or(1.0),
                "as" => clause.said[0] = Some(value),
                "g" => clause.said[1] = Some(value),
                "v" => clause.said[2] = Some(value),
                "stream" | "sv" => clause.streams |= !value.is_empty(),
                _ => {}
            }
        }
        clause
    }

    fn form(&self) -> Option<Form> {
        let family = self.ty.strip_suffix("/*");
        let is = |offer: &&str| {
            self.ty == *offer || family == Some("*") || family.is_some() && family == offer.split('/').next()
        };
        let mut fitting = OFFERED.into_iter().filter(|offer| is(offer) && !self.streams);
        fitting.find_map(|offer| self.in_form(offer))
    }

    /// Objects only where it is said which, text only where it is not.
    fn in_form(&self, offer: &str) -> Option<Form> {
        let version = match self.said {
            [None, None, None] => return (offer == TEXT).then_some(Form::Text),
            [Some(KIND), Some(GROUP), Some(BETA)] => BETA,
            [Some(KIND), Some(GROUP), Some(ALPHA)] => ALPHA,
            _ => return None,
        };
        match offer {
            TEXT => None,
            "application/yaml" => Some(Form::Object(Format::Yaml, version)),
            _ => Some(Form::Object(Format::Json, version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_chosen_as_upstream_does() {
        let object = |format, version| Some(Form::Object(format, version));
        for (accept, want) in [
            ("", Some(Form::Text)),
            ("text/plain", Some(Form::Text)),
            ("text/*", Some(Form::Text)),
            ("*/*", Some(Form::Text)),
            ("application/json", None),
            ("application/*", None),
            ("text/html", None),
            ("text/plain;as=Flagz;g=config.k8s.io;v=v1beta1", None),
            (
                "application/json;as=Flagz;g=config.k8s.io;v=v1beta1",
                object(Format::Json, BETA),
            ),
            (
                "application/*;as=Flagz;g=config.k8s.io;v=v1beta1",
                object(Format::Json, BETA),
            ),
            (
                "application/yaml;as=Flagz;g=config.k8s.io;v=v1alpha1",
                object(Format::Yaml, ALPHA),
            ),
            ("application/json;as=Flagz;g=config.k8s.io;v=v1", None),
            ("application/json;as=Statusz;g=config.k8s.io;v=v1beta1", None),
            (
                "application/json;as=Flagz;g=config.k8s.io;v=v1,text/plain;q=0.5",
                Some(Form::Text),
            ),
            (
                "text/plain;q=0.5, application/yaml;as=Flagz;g=config.k8s.io;v=v1beta1",
                object(Format::Yaml, BETA),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Flagz;g=config.k8s.io;v=v1beta1",
                None,
            ),
        ] {
            assert_eq!(form(accept), want, "{accept}");
        }
    }
}

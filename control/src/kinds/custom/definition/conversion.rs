//! What makes `spec.conversion` invalid: its webhook, and the review versions it understands.
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;
use serde_json::Value;
use std::collections::HashSet;

pub(super) fn conversion(conversion: &Value) -> FieldErrors {
    let path = "spec.conversion";
    let webhook = conversion.at("webhook");
    let strategy = conversion.text("strategy");
    let mut errors = Vec::new();
    match strategy {
        "" => errors.push(FieldError::required(format!("{path}.strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_supported(
            format!("{path}.strategy"),
            other,
            &["None", "Webhook"],
        )),
    }
    let (client, versions) = (
        webhook.at("clientConfig"),
        webhook.list("conversionReviewVersions"),
    );
    if strategy != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            errors.push(FieldError::forbidden(format!("{path}.webhookClientConfig"), why));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(
                format!("{path}.conversionReviewVersions"),
                why,
            ));
        }
        return errors;
    }
    errors.extend(client_config(client, &format!("{path}.webhookClientConfig")));
    errors.extend(review_versions(
        versions,
        &format!("{path}.conversionReviewVersions"),
    ));
    errors
}

fn client_config(client: &Value, path: &str) -> FieldErrors {
    if client.is_null() {
        return vec![FieldError::required(
            path,
            "required when strategy is set to Webhook",
        )];
    }
    match (client.at("url").as_str(), client.at("service").is_object()) {
        (Some(url), false) => webhook_url(url, &format!("{path}.url")),
        (None, true) => {
            let service = client.at("service");
            let missing = ["name", "namespace"]
                .into_iter()
                .filter(|key| service.text(key).is_empty());
            missing
                .map(|key| {
                    FieldError::required(
                        format!("{path}.service.{key}"),
                        format!("service {key} is required"),
                    )
                })
                .collect()
        }
        _ => vec![FieldError::required(
            path,
            "exactly one of url or service is required",
        )],
    }
}

fn webhook_url(url: &str, path: &str) -> FieldErrors {
    let form = "desired format: https://host[/path]";
    let parsed: Option<http::Uri> = url.parse().ok();
    let invalid = |why: String| vec![FieldError::invalid(path, url, why)];
    match parsed {
        Some(uri) if uri.scheme_str() != Some("https") => {
            invalid(format!("'https' is the only allowed URL scheme; {form}"))
        }
        Some(uri) if uri.host().is_none_or(str::is_empty) => {
            invalid(format!("host must be specified; {form}"))
        }
        Some(uri) if uri.authority().is_some_and(|a| a.as_str().contains('@')) => {
            invalid("user information is not permitted in the URL".into())
        }
        Some(uri) if uri.query().is_some() => invalid("query parameters are not permitted in the URL".into()),
        Some(_) => Vec::new(),
        None => vec![FieldError::required(
            path,
            format!("url must be a valid URL: invalid URI; {form}"),
        )],
    }
}

fn review_versions(versions: &[Value], path: &str) -> FieldErrors {
    if versions.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        let at = format!("{path}[{i}]");
        if !seen.insert(version) {
            errors.push(FieldError::invalid(at, version, "duplicate version"));
            continue;
        }
        errors.extend(
            names::label_1035(version)
                .into_iter()
                .map(|m| FieldError::invalid(at.clone(), version, m)),
        );
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        let why = "must include at least one of v1, v1beta1";
        errors.push(FieldError::invalid(path, versions.to_vec(), why));
    }
    errors
}

//! What makes `spec.conversion` invalid: its webhook, and the review versions it understands.
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::validate::webhooks;
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
    let url = client.text("url");
    if !client.has("service") && !url.is_empty() && url.parse::<http::Uri>().is_err() {
        let form = "desired format: https://host[/path]";
        let why = format!("url must be a valid URL: invalid URI; {form}");
        return vec![FieldError::required(format!("{path}.url"), why)];
    }
    webhooks::client_config(client, path)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;
    use serde_json::json;

    #[test]
    fn a_converter_is_somewhere() {
        let at = |name: &str| format!("spec.conversion.webhookClientConfig.{name}");
        let service = |more: Value| {
            let mut service = json!({"name": "s", "namespace": "n"});
            json_patch::merge(&mut service, &more);
            json!({ "service": service })
        };
        let path = |path: &str, why: &str| {
            (
                service(json!({ "path": path })),
                format!("{}: Invalid value: {path:?}: {why}", at("service.path")),
            )
        };
        let port = |port: i64| {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            (
                service(json!({ "port": port })),
                format!("{}: Invalid value: {port}: {why}", at("service.port")),
            )
        };
        for (client, want) in [
            (service(json!({})), "[]".to_owned()),
            (service(json!({"port": 443, "path": "/a/b.c/"})), "[]".to_owned()),
            (json!({"url": "https://a/b"}), "[]".to_owned()),
            port(0),
            port(65_536),
            path("/x//y", "segment[1] may not be empty"),
            (
                json!({"url": "https://a?b=c"}),
                format!(
                    "{}: Invalid value: \"b=c\": query parameters are not permitted in the URL",
                    at("url")
                ),
            ),
            (
                json!({"url": "https://a b"}),
                format!(
                    "{}: Required value: url must be a valid URL: invalid URI; desired format: https://host[/path]",
                    at("url")
                ),
            ),
            (
                json!({}),
                "spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required"
                    .to_owned(),
            ),
        ] {
            let whole = json!({"strategy": "Webhook", "webhook": {"clientConfig": client,
                "conversionReviewVersions": ["v1"]}});
            assert_eq!(join(&conversion(&whole)), want, "{client}");
        }
    }
}

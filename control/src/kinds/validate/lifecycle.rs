//! Hooks and probes of a container.
use std::fmt::Display;

use serde_json::Value;

use super::{complain, not_negative, one_of, port};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
    used for validation is '[-A-Za-z0-9]+')";

/// Hooks and probes of a container at `path`.
pub(super) fn lifecycle(container: &Value, spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let grace = spec.int("terminationGracePeriodSeconds");
    let mut errors = Vec::new();
    for hook in ["postStart", "preStop"] {
        let handler = container.at("lifecycle").at(hook);
        if !handler.is_null() {
            errors.extend(self::handler(
                handler,
                grace,
                format_args!("{path}.lifecycle.{hook}"),
            ));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(name) {
            errors.extend(probe(
                container.at(name),
                name,
                grace,
                format_args!("{path}.{name}"),
            ));
        }
    }
    errors
}

fn probe(probe: &Value, name: &str, grace: Option<i64>, path: impl Display + Copy) -> FieldErrors {
    let mut errors = handler(probe, grace, path);
    let counts = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    errors.extend(counts.iter().filter_map(|key| not_negative(probe, key, path)));
    let own_grace = probe.int("terminationGracePeriodSeconds");
    let at = format_args!("{path}.terminationGracePeriodSeconds");
    if let Some(seconds) = own_grace.filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(at, seconds, "must be greater than 0"));
    }
    match name {
        "readinessProbe" => {
            errors
                .extend(own_grace.map(|s| FieldError::invalid(at, s, "must not be set for readinessProbes")));
        }
        _ => {
            let threshold = probe.int("successThreshold").unwrap_or(0);
            if threshold != 1 {
                errors.push(FieldError::invalid(
                    format!("{path}.successThreshold"),
                    threshold,
                    "must be 1",
                ));
            }
        }
    }
    errors
}

/// Exactly one way to act, and that one valid.
fn handler(holder: &Value, grace: Option<i64>, path: impl Display + Copy) -> FieldErrors {
    let set: Vec<&str> = HANDLERS.into_iter().filter(|h| holder.has(h)).collect();
    let Some(first) = set.first() else {
        return vec![FieldError::required(path, "must specify a handler type")];
    };
    let at = format_args!("{path}.{first}");
    let action = holder.at(first);
    let mut errors = match *first {
        "exec" if action.list("command").is_empty() => {
            vec![FieldError::required(format!("{at}.command"), "")]
        }
        "httpGet" => http_get(action, at),
        "tcpSocket" | "grpc" => port(format_args!("{at}.port"), action.at("port")),
        "sleep" => sleep(action, grace, at),
        _ => Vec::new(),
    };
    for extra in &set[1..] {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{extra}"), detail));
    }
    errors
}

fn http_get(action: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors: FieldErrors = super::present(action, "path", path).into_iter().collect();
    errors.extend(port(format_args!("{path}.port"), action.at("port")));
    errors.extend(one_of(
        format_args!("{path}.scheme"),
        action.text("scheme"),
        &["HTTP", "HTTPS"],
    ));
    for header in action.list("httpHeaders").iter().map(|h| h.text("name")) {
        let good = !header.is_empty() && header.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !good {
            errors.extend(complain(
                format_args!("{path}.httpHeaders"),
                header,
                vec![HEADER.to_owned()],
            ));
        }
    }
    errors
}

fn sleep(action: &Value, grace: Option<i64>, path: impl Display + Copy) -> FieldErrors {
    let (seconds, Some(grace)) = (action.int("seconds").unwrap_or(0), grace) else {
        return Vec::new();
    };
    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
    let bad = !(0..=grace).contains(&seconds);
    bad.then(|| FieldError::invalid(path, seconds, detail))
        .into_iter()
        .collect()
}

//! Which policies are refused: those whose rules could never fit what they name (upstream's `ValidatePolicy`). Pure.
use super::{Policy, Resources, Rule};
use crate::kinds::names::subdomain;
use crate::kinds::{FieldError, FieldErrors};

/// What is wrong with a policy, in upstream's order and words.
pub(super) fn errors(policy: &Policy) -> FieldErrors {
    let rules = policy.rules.iter().enumerate();
    rules
        .flat_map(|(at, rule)| of_rule(rule, &format!("rules[{at}]")))
        .collect()
}

fn of_rule(rule: &Rule, path: &str) -> FieldErrors {
    let urls = format!("{path}.nonResourceURLs");
    let mut errors = of_urls(&rule.urls, &urls);
    for resources in &rule.resources {
        errors.extend(of_resources(resources, &format!("{path}.resources")));
    }
    let names_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
    if names_resources && !rule.urls.is_empty() {
        let why = "rules cannot apply to both regular resources and non-resource URLs";
        errors.push(FieldError::invalid(urls, rule.urls.clone(), why));
    }
    errors
}

fn of_urls(urls: &[String], path: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    for (at, url) in urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        let mut bad =
            |why: &str| errors.push(FieldError::invalid(format!("{path}[{at}]"), url.as_str(), why));
        if !url.starts_with('/') {
            bad("non-resource URL rules must begin with a '/' character");
        }
        if url.find('*').is_some_and(|star| star + 1 < url.len()) {
            bad("non-resource URL wildcards '*' must be the final character of the rule");
        }
    }
    errors
}

fn of_resources(resources: &Resources, path: &str) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let group = resources.group.as_str();
    let wrong = match group {
        "" | "*" => Vec::new(),
        group => subdomain(group),
    };
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.group"),
            group,
            wrong.join(","),
        ));
    }
    if resources.resources.is_empty() && !resources.resource_names.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.resourceNames"),
            resources.resource_names.clone(),
            "using resourceNames requires at least one resource",
        ));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_upstream_does_not_start_with_is_refused() {
        for (rules, why) in [
            ("[]", "loaded illegal policy with 0 rules"),
            (
                "[{level: Metadata, resources: [{group: apps/v1}]}]",
                "rules[0].resources.group: Invalid value: \"apps/v1\": a lowercase RFC 1123 subdomain must consist of",
            ),
            (
                "[{level: None}, {level: None, nonResourceURLs: [x, '*', '/a*b', '/a*']}]",
                "[rules[1].nonResourceURLs[0]: Invalid value: \"x\": non-resource URL rules must begin with a '/' \
                 character, rules[1].nonResourceURLs[2]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must \
                 be the final character of the rule]",
            ),
            (
                "[{level: None, nonResourceURLs: ['/a'], namespaces: [n]}]",
                "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and \
                 non-resource URLs",
            ),
            (
                "[{level: None, resources: [{group: '', resourceNames: [a]}]}]",
                "rules[0].resources.resourceNames: Invalid value: [\"a\"]: using resourceNames requires at least one \
                 resource",
            ),
        ] {
            let text = format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: {rules}}}");
            let error = Policy::parse(Path::new("p"), &text).unwrap_err().to_string();
            assert!(error.contains(why), "{rules}: {error}");
        }
        let fine =
            "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, resources: [{group: '*'}]}]}";
        assert!(Policy::parse(Path::new("p"), fine).is_ok());
    }
}

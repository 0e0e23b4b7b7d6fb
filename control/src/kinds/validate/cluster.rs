//! PriorityClasses, RuntimeClasses, flow control.
use serde_json::Value;

use super::{IMMUTABLE, Seen, complain, conditions, immutable, mandatory, one_of, resources, scheduling};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::meta;
use crate::kinds::names;
use crate::kinds::view::View;

/// Above this are the system's own.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &str = "system-";
/// The built-in classes: name and value.
pub(in crate::kinds) const SYSTEM_CLASSES: [(&str, i64); 2] = [
    ("system-node-critical", 2_000_001_000),
    ("system-cluster-critical", 2_000_000_000),
];
const PREEMPTION: [&str; 2] = ["PreemptLowerPriority", "Never"];
const PRECEDENCE: i64 = 10_000;
const DISTINGUISHERS: [&str; 2] = ["ByNamespace", "ByUser"];
/// Upstream's limits of shuffle sharding.
const QUEUES: i64 = 10_000_000;
const HASH_BITS: i64 = 60;
const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];

pub fn priority_class(object: &Value) -> FieldErrors {
    let (name, value) = (object.text("metadata.name"), object.int("value").unwrap_or(0));
    let mut errors = Vec::new();
    if name.starts_with(SYSTEM) {
        errors.extend(system_class(name, value, object.flag("globalDefault")));
    } else if value > HIGHEST {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(FieldError::forbidden("value", detail));
    }
    let policy = object.at("preemptionPolicy").as_str();
    errors.extend(policy.and_then(|policy| one_of("preemptionPolicy", policy, &PREEMPTION)));
    errors
}

fn system_class(name: &str, value: i64, default: bool) -> Option<FieldError> {
    let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
    let why = match known {
        None => format!("{name} is not a known system priority class"),
        Some((_, wanted)) if *wanted != value => {
            format!("value of {name} PriorityClass must be {wanted}")
        }
        Some(_) if default => format!("globalDefault of {name} PriorityClass must be false"),
        Some(_) => return None,
    };
    let detail =
        format!("priority class names with '{SYSTEM}' prefix are reserved for system use only. error: {why}");
    Some(FieldError::forbidden("metadata.name", detail))
}

pub fn priority_class_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if new.int("value").unwrap_or(0) != old.int("value").unwrap_or(0) {
        errors.push(FieldError::forbidden("value", "may not be changed in an update."));
    }
    errors.extend(immutable(new, old, "preemptionPolicy"));
    errors
}

pub fn runtime_class(object: &Value) -> FieldErrors {
    let handler = object.text("handler");
    let mut errors = match handler {
        "" => vec![FieldError::required("handler", "")],
        _ => complain("handler", handler, names::label(handler)),
    };
    let overhead = object.at("overhead.podFixed");
    if overhead.is_object() {
        let requirements = serde_json::json!({"limits": overhead});
        errors.extend(resources::requirements(&requirements, &[], "overhead"));
    }
    errors.extend(meta::labels(
        object.at("scheduling.nodeSelector"),
        "scheduling.nodeSelector",
    ));
    let tolerations = object.list("scheduling.tolerations");
    let path = "scheduling.tolerations";
    errors.extend(scheduling::tolerations(tolerations, path));
    let mut seen = Seen::default();
    for (i, toleration) in tolerations.iter().enumerate() {
        let key = ["key", "operator", "value", "effect"].map(|k| toleration.text(k));
        if seen.again(key.join("\0")) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), toleration.clone()));
        }
    }
    errors
}

pub fn runtime_class_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = runtime_class(new);
    if new.text("handler") != old.text("handler") {
        errors.push(FieldError::invalid("handler", new.text("handler"), IMMUTABLE));
    }
    errors
}

pub fn flow_schema(object: &Value) -> FieldErrors {
    let (spec, name) = (object.at("spec"), object.text("metadata.name"));
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    let path = "spec.matchingPrecedence";
    let mut errors = Vec::new();
    if precedence <= 0 {
        errors.push(FieldError::invalid(path, precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE {
        let detail = format!("must not be greater than {PRECEDENCE}");
        errors.push(FieldError::invalid(path, precedence, detail));
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(path, precedence, detail));
    }
    let method = spec.at("distinguisherMethod");
    if method.is_object() && !DISTINGUISHERS.contains(&method.text("type")) {
        // Upstream shows the whole method, by its own names.
        let shown = serde_json::json!({"Type": method.text("type")});
        errors.push(FieldError::not_supported(
            "spec.distinguisherMethod.type",
            shown,
            &DISTINGUISHERS,
        ));
    }
    let level = spec.text("priorityLevelConfiguration.name");
    let at = "spec.priorityLevelConfiguration.name";
    match level {
        "" => errors.push(FieldError::required(at, "must reference a priority level")),
        _ => errors.extend(complain(at, level, names::subdomain(level))),
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        errors.extend(flow_rule(rule, &format!("spec.rules[{i}]")));
    }
    errors.extend(mandatory::check("FlowSchema", object));
    errors
}

pub fn flow_schema_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    match subresource {
        Some("status") => conditions::typed(new.list("status.conditions"), "status.conditions"),
        _ => flow_schema(new),
    }
}

fn flow_rule(rule: &Value, path: &str) -> FieldErrors {
    let subjects = rule.list("subjects");
    let mut errors = Vec::new();
    if subjects.is_empty() {
        let detail = "subjects must contain at least one value";
        errors.push(FieldError::required(format!("{path}.subjects"), detail));
    }
    for (i, subject) in subjects.iter().enumerate() {
        errors.extend(flow_subject(subject, &format!("{path}.subjects[{i}]")));
    }
    let (resources, urls) = (rule.list("resourceRules"), rule.list("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, detail));
    }
    for (i, rule) in resources.iter().enumerate() {
        errors.extend(resource_rule(rule, &format!("{path}.resourceRules[{i}]")));
    }
    for (i, rule) in urls.iter().enumerate() {
        let at = format!("{path}.nonResourceRules[{i}]");
        errors.extend(verbs(rule, &at));
        errors.extend(wildcards(
            rule,
            "nonResourceURLs",
            "nonResourceURLs must contain at least one value",
            "non-resource URLs",
            &at,
        ));
        let urls = rule.list("nonResourceURLs");
        if !urls.iter().any(|url| url == "*") {
            let texts = urls.iter().filter_map(Value::as_str).enumerate();
            errors.extend(texts.filter_map(|(i, url)| {
                Some(FieldError::invalid(
                    format!("{at}.nonResourceURLs[{i}]"),
                    url,
                    bad_url(url)?,
                ))
            }));
        }
    }
    errors
}

fn flow_subject(subject: &Value, path: &str) -> FieldErrors {
    const KINDS: [(&str, &str); 3] = [
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
        ("Group", "group"),
    ];
    let kind = subject.text("kind");
    let Some((_, own)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let supported = ["Group", "ServiceAccount", "User"];
        return vec![FieldError::not_supported(
            format!("{path}.kind"),
            kind,
            &supported,
        )];
    };
    let (body, at) = (subject.at(own), format!("{path}.{own}"));
    let mut errors = Vec::new();
    if body.is_null() {
        let detail = format!("{own} is required when subject kind is '{kind}'");
        errors.push(FieldError::required(at.as_str(), detail));
    } else {
        errors.extend(super::present(body, "name", &at));
        if *own == "serviceAccount" {
            errors.extend(account(body, &at));
        }
    }
    for (name, key) in KINDS.iter().filter(|(_, key)| key != own && subject.has(key)) {
        let detail = format!("{key} is forbidden when subject kind is not '{name}'");
        errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
    }
    errors
}

fn account(account: &Value, path: &str) -> FieldErrors {
    let (name, namespace) = (account.text("name"), account.text("namespace"));
    let mut errors = match name {
        "" | "*" => Vec::new(),
        name => complain(format_args!("{path}.name"), name, names::subdomain(name)),
    };
    let at = format!("{path}.namespace");
    errors.extend(match namespace {
        "" => vec![FieldError::required(
            at,
            "must specify namespace for service account",
        )],
        namespace => complain(&at, namespace, names::label(namespace)),
    });
    errors
}

/// A path of requests that are for no resource: maybe with `*` as its last step.
fn bad_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url => {
            let stem = url.strip_suffix("/*").unwrap_or(url);
            let detail = "wildcard can only do suffix matching";
            stem.contains('*').then_some(detail)
        }
    }
}

fn verbs(rule: &Value, path: &str) -> FieldErrors {
    let verbs = rule.list("verbs");
    let at = format!("{path}.verbs");
    let has_all = verbs.iter().any(|v| v == "*");
    if verbs.is_empty() {
        return vec![FieldError::required(at, "verbs must contain at least one value")];
    }
    if has_all && verbs.len() > 1 {
        let detail = "if '*' is present, must not specify other verbs";
        return vec![FieldError::invalid(at, verbs.to_vec(), detail)];
    }
    let unknown = verbs.iter().any(|v| !VERBS.iter().any(|known| v == known));
    match unknown && !has_all {
        true => vec![FieldError::not_supported(at, verbs.to_vec(), &VERBS)],
        false => Vec::new(),
    }
}

/// A list that is not empty, where `*` stands alone.
fn wildcards(rule: &Value, key: &str, empty: &str, others: &str, path: &str) -> Option<FieldError> {
    let (list, at) = (rule.list(key), format!("{path}.{key}"));
    if list.is_empty() {
        return Some(FieldError::required(at, empty));
    }
    let mixed = list.len() > 1 && list.iter().any(|v| v == "*");
    let detail = format!("if '*' is present, must not specify other {others}");
    mixed.then(|| FieldError::invalid(at, list.to_vec(), detail))
}

fn resource_rule(rule: &Value, path: &str) -> FieldErrors {
    let mut errors = verbs(rule, path);
    for (key, what, others) in [
        ("apiGroups", "api group", "api groups"),
        ("resources", "resource", "resources"),
    ] {
        let empty = format!("resource rules must supply at least one {what}");
        errors.extend(wildcards(rule, key, &empty, others, path));
    }
    if !(rule.list("namespaces").is_empty() && rule.flag("clusterScope")) {
        let empty = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.extend(wildcards(rule, "namespaces", empty, "namespaces", path));
    }
    let namespaces = rule.list("namespaces");
    if !namespaces.iter().any(|n| n == "*") {
        for (i, namespace) in namespaces.iter().filter_map(Value::as_str).enumerate() {
            let told = names::label(namespace).into_iter();
            let told =
                told.map(|why| format!("each member of this list must be '*' or a DNS-1123 label; {why}"));
            errors.extend(complain(
                format_args!("{path}.namespaces[{i}]"),
                namespace,
                told.collect(),
            ));
        }
    }
    errors
}

pub fn priority_level(object: &Value) -> FieldErrors {
    let (spec, name) = (object.at("spec"), object.text("metadata.name"));
    let kind = spec.text("type");
    let mut errors = Vec::new();
    if (name == "exempt") != (kind == "Exempt") {
        let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid("spec.type", kind, detail));
    }
    match kind {
        "Exempt" => {
            if spec.has("limited") {
                let detail = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden("spec.limited", detail));
            }
            errors.extend(shares(spec.at("exempt"), "spec.exempt"));
        }
        "Limited" => {
            if spec.has("exempt") {
                let detail = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden("spec.exempt", detail));
            }
            match spec.has("limited") {
                true => errors.extend(limited(spec.at("limited"))),
                false => errors.push(FieldError::required(
                    "spec.limited",
                    "must not be empty when type is Limited",
                )),
            }
        }
        other => errors.push(FieldError::not_supported(
            "spec.type",
            other,
            &["Exempt", "Limited"],
        )),
    }
    errors.extend(mandatory::check("PriorityLevelConfiguration", object));
    errors
}

pub fn priority_level_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    match subresource {
        Some("status") => conditions::typed(new.list("status.conditions"), "status.conditions"),
        _ => priority_level(new),
    }
}

fn shares(level: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(shares) = level.int("nominalConcurrencyShares").filter(|n| *n < 0) {
        let at = format!("{path}.nominalConcurrencyShares");
        errors.push(FieldError::invalid(at, shares, "must be a non-negative integer"));
    }
    if let Some(percent) = level.int("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        let at = format!("{path}.lendablePercent");
        let detail = "must be between 0 and 100, inclusive";
        errors.push(FieldError::invalid(at, percent, detail));
    }
    errors
}

fn limited(level: &Value) -> FieldErrors {
    let path = "spec.limited";
    let mut errors = shares(level, path);
    if let Some(percent) = level.int("borrowingLimitPercent").filter(|n| *n < 0) {
        let at = format!("{path}.borrowingLimitPercent");
        let detail = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(at, percent, detail));
    }
    let (response, at) = (level.at("limitResponse"), format!("{path}.limitResponse"));
    match response.text("type") {
        "Reject" if response.has("queuing") => errors.push(FieldError::forbidden(
            format!("{at}.queuing"),
            "must be nil if limited.limitResponse.type is not Limited",
        )),
        "Reject" => {}
        "Queue" if !response.has("queuing") => errors.push(FieldError::required(
            format!("{at}.queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        )),
        "Queue" => errors.extend(queuing(response.at("queuing"), &format!("{at}.queuing"))),
        other => errors.push(FieldError::not_supported(
            format!("{at}.type"),
            other,
            &["Queue", "Reject"],
        )),
    }
    errors
}

fn queuing(queuing: &Value, path: &str) -> FieldErrors {
    let number = |key: &str| queuing.int(key).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    let positive = || "must be positive".to_owned();
    let told = [
        (
            "queueLengthLimit",
            (number("queueLengthLimit") <= 0).then(positive),
        ),
        (
            "queues",
            match queues {
                ..=0 => Some(positive()),
                1..=QUEUES => None,
                _ => Some(format!("must not be greater than {QUEUES}")),
            },
        ),
        ("handSize", bad_hand(queues, hand)),
    ];
    told.into_iter()
        .filter_map(|(key, detail)| Some(FieldError::invalid(format!("{path}.{key}"), number(key), detail?)))
        .collect()
}

/// Why hands of this size cannot be dealt from so many queues.
fn bad_hand(queues: i64, hand: i64) -> Option<String> {
    if hand <= 0 {
        return Some("must be positive".to_owned());
    }
    if hand > queues {
        return Some(format!("should not be greater than queues ({queues})"));
    }
    let bits = ((queues as f64).log2() * hand as f64).ceil();
    (bits > HASH_BITS as f64).then(|| {
        format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        )
    })
}

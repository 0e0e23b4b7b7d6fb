//! Jobs: counts, policies, and what an update may change.
use serde_json::Value;

use super::indexes;
use super::{Seen, complain, immutable, not_negative, pod};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::{View, copy_member};
use crate::kinds::{labels, names};

/// Upstream's limits of Jobs with indices (KEP-3850).
const MOST_PARALLEL: i64 = 100_000;
const MOST_FAILED: i64 = 100_000;
const MANY: i64 = 100_000;
const PARALLEL_OF_MANY: i64 = 10_000;
const RULES: usize = 20;
const CODES: usize = 255;
const MANAGER: usize = 63;
const SUCCEEDED_TEXT: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const PREFIXED: [&str; 2] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
];
const INDEXED: &str = "requires indexed completion mode";

pub fn create(object: &Value) -> FieldErrors {
    let mut errors = generated(object, true);
    errors.extend(spec(object.at("spec"), "spec"));
    errors.extend(selector(object.at("spec")));
    errors.extend(host_names(object));
    errors
}

/// The labels and the selector that the server made are as it made them.
/// Jobs from before there were `prefixed` labels need none.
fn generated(job: &Value, prefixed: bool) -> FieldErrors {
    if job.flag("spec.manualSelector") || !job.has("spec.selector") {
        return Vec::new();
    }
    let (uid, name) = (job.text("metadata.uid"), job.text("metadata.name"));
    let own = job.at("spec.template.metadata.labels");
    let path = "spec.template.metadata.labels";
    let wanted = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let mut errors = Vec::new();
    let wanted = wanted
        .into_iter()
        .filter(|(key, _)| prefixed || !PREFIXED.contains(key));
    for (key, value) in wanted.clone() {
        match own.get(key).and_then(Value::as_str) {
            None => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::required(format!("{path}[{key}]"), detail));
            }
            Some(said) if said != value => {
                let detail = format!("must be '{value}'");
                errors.push(FieldError::invalid(format!("{path}[{key}]"), own.clone(), detail));
            }
            Some(_) => {}
        }
    }
    let all: Value = wanted.map(|(k, v)| (k.to_owned(), Value::from(v))).collect();
    if labels::is_usable(job.at("spec.selector")) && !labels::matches(job.at("spec.selector"), &all) {
        let detail = "`selector` not auto-generated";
        errors.push(FieldError::invalid(
            "spec.selector",
            job.at("spec.selector").clone(),
            detail,
        ));
    }
    errors
}

fn selector(spec: &Value) -> FieldErrors {
    let (selector, own) = (spec.at("selector"), spec.at("template.metadata.labels"));
    let mut errors = match selector.is_null() {
        true => vec![FieldError::required("spec.selector", "")],
        false => labels::validate_selector(selector, "spec.selector"),
    };
    if labels::is_usable(selector) && !labels::matches(selector, own) {
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            own.clone(),
            detail,
        ));
    }
    errors
}

/// The highest index is part of a Pod's host name.
fn host_names(job: &Value) -> FieldErrors {
    let (name, last) = (
        job.text("metadata.name"),
        job.int("spec.completions").unwrap_or(0) - 1,
    );
    if job.text("spec.completionMode") != "Indexed" || last < 0 {
        return Vec::new();
    }
    let host = format!("{name}-{last}");
    let detail = format!("will not able to create pod with invalid DNS label: {host}");
    match names::label(&host).is_empty() {
        true => Vec::new(),
        false => vec![FieldError::invalid("metadata.name", name, detail)],
    }
}

/// The spec of a Job, also inside a CronJob.
pub(super) fn spec(spec: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.extend(not_negative(spec, key, path));
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(
            format!("{path}.backoffLimitPerIndex"),
            detail,
        ));
    }
    if let Some(manager) = spec.at("managedBy").as_str() {
        errors.extend(managed_by(manager, &format!("{path}.managedBy")));
    }
    errors.extend(mode(spec, path));
    if spec.has("podFailurePolicy") {
        errors.extend(failure_policy(spec, &format!("{path}.podFailurePolicy")));
    }
    if spec.has("successPolicy") {
        errors.extend(success_policy(spec, &format!("{path}.successPolicy")));
    }
    errors.extend(replacement(spec, &format!("{path}.podReplacementPolicy")));
    errors.extend(pod::template(spec.at("template"), &format!("{path}.template")));
    errors.extend(restart_policy(
        spec,
        &format!("{path}.template.spec.restartPolicy"),
    ));
    errors
}

fn managed_by(manager: &str, path: &str) -> FieldErrors {
    let mut errors = match manager.split_once('/') {
        None if manager.is_empty() => vec![FieldError::required(path, "")],
        None => vec![FieldError::invalid(
            path,
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )],
        Some((domain, "")) => {
            let mut errors = complain(path, domain, names::subdomain(domain));
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, manager, detail));
            errors
        }
        Some((domain, _)) => complain(path, domain, names::subdomain(domain)),
    };
    errors.extend((manager.len() > MANAGER).then(|| FieldError::too_long(path, MANAGER)));
    errors
}

fn mode(spec: &Value, path: &str) -> FieldErrors {
    match spec.at("completionMode").as_str() {
        Some("Indexed") => indexed(spec, path),
        None | Some("NonIndexed") => ["backoffLimitPerIndex", "maxFailedIndexes"]
            .iter()
            .filter(|key| spec.has(key))
            .map(|key| FieldError::invalid(format!("{path}.{key}"), spec.at(key).clone(), INDEXED))
            .collect(),
        Some(other) => vec![FieldError::not_supported(
            format!("{path}.completionMode"),
            other,
            &["NonIndexed", "Indexed"],
        )],
    }
}

fn indexed(spec: &Value, path: &str) -> FieldErrors {
    let (completions, parallel, failed) = (
        spec.int("completions"),
        spec.int("parallelism"),
        spec.int("maxFailedIndexes"),
    );
    let mut errors = Vec::new();
    let at = |key: &str| format!("{path}.{key}");
    if completions.is_none() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(at("completions"), detail));
    }
    if let Some(n) = parallel.filter(|n| *n > MOST_PARALLEL) {
        let detail = format!("must be less than or equal to {MOST_PARALLEL} when completion mode is Indexed");
        errors.push(FieldError::invalid(at("parallelism"), n, detail));
    }
    if let (Some(all), Some(n)) = (completions, failed)
        && n > all
    {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(at("maxFailedIndexes"), n, detail));
    }
    if let Some(n) = failed.filter(|n| *n > MOST_FAILED) {
        let detail = format!("must be less than or equal to {MOST_FAILED}");
        errors.push(FieldError::invalid(at("maxFailedIndexes"), n, detail));
    }
    if completions.is_some_and(|n| n > MANY) && spec.has("backoffLimitPerIndex") {
        errors.extend(many(parallel, failed, path));
    }
    errors
}

/// A Job of very many indices with limits for each of them.
fn many(parallel: Option<i64>, failed: Option<i64>, path: &str) -> FieldErrors {
    let detail = format!(
        "must be less than or equal to {PARALLEL_OF_MANY} when completions are above {MANY} and used with backoff \
         limit per index"
    );
    let mut errors = Vec::new();
    if failed.is_none() {
        let detail = format!("must be specified when completions is above {MANY}");
        errors.push(FieldError::required(format!("{path}.maxFailedIndexes"), detail));
    }
    for (key, value) in [("parallelism", parallel), ("maxFailedIndexes", failed)] {
        if let Some(n) = value.filter(|n| *n > PARALLEL_OF_MANY) {
            errors.push(FieldError::invalid(format!("{path}.{key}"), n, detail.as_str()));
        }
    }
    errors
}

fn restart_policy(spec: &Value, path: &str) -> Option<FieldError> {
    match spec.text("template.spec.restartPolicy") {
        "Always" | "" => {
            let detail = "valid values: \"OnFailure\", \"Never\"";
            Some(FieldError::required(path, detail))
        }
        "OnFailure" if spec.has("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            Some(FieldError::invalid(path, "OnFailure", detail))
        }
        "OnFailure" | "Never" => None,
        other => Some(FieldError::not_supported(path, other, &["OnFailure", "Never"])),
    }
}

fn replacement(spec: &Value, path: &str) -> Option<FieldError> {
    let policy = spec.at("podReplacementPolicy").as_str()?;
    let supported: &[&str] = match spec.has("podFailurePolicy") {
        true => &["Failed"],
        false => &["Failed", "TerminatingOrFailed"],
    };
    (!supported.contains(&policy)).then(|| FieldError::not_supported(path, policy, supported))
}

fn failure_policy(spec: &Value, path: &str) -> FieldErrors {
    let rules = spec.list("podFailurePolicy.rules");
    let mut errors = Vec::new();
    if rules.len() > RULES {
        errors.push(FieldError::too_many(format!("{path}.rules"), rules.len(), RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(failure_rule(spec, rule, &format!("{path}.rules[{i}]")));
    }
    errors
}

fn failure_rule(spec: &Value, rule: &Value, path: &str) -> FieldErrors {
    let (action, at) = (rule.text("action"), format!("{path}.action"));
    let mut errors = Vec::new();
    match action {
        "" => errors.push(FieldError::required(
            at,
            format!("valid values: {}", go_list(&ACTIONS)),
        )),
        "FailIndex" if !spec.has("backoffLimitPerIndex") => errors.push(FieldError::invalid(
            at,
            action,
            "requires the backoffLimitPerIndex to be set",
        )),
        _ if !ACTIONS.contains(&action) => errors.push(FieldError::not_supported(at, action, &ACTIONS)),
        _ => {}
    }
    let (codes, conditions) = (rule.has("onExitCodes"), rule.list("onPodConditions"));
    if codes {
        errors.extend(exit_codes(
            spec,
            rule.at("onExitCodes"),
            &format!("{path}.onExitCodes"),
        ));
    }
    errors.extend(pod_conditions(conditions, &format!("{path}.onPodConditions")));
    let detail = match (codes, conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return errors,
    };
    errors.push(FieldError::without_value(path, detail));
    errors
}

/// Texts as Go's `%q` prints a list of them.
fn go_list(texts: &[&str]) -> String {
    let quoted: Vec<String> = texts.iter().map(|t| format!("{t:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn exit_codes(spec: &Value, on: &Value, path: &str) -> FieldErrors {
    const OPERATORS: [&str; 2] = ["In", "NotIn"];
    let operator = on.text("operator");
    let mut errors = Vec::new();
    match operator {
        "" => {
            let detail = format!("valid values: {}", go_list(&OPERATORS));
            errors.push(FieldError::required(format!("{path}.operator"), detail));
        }
        other if !OPERATORS.contains(&other) => errors.push(FieldError::not_supported(
            format!("{path}.operator"),
            other,
            &OPERATORS,
        )),
        _ => {}
    }
    if let Some(name) = on.at("containerName").as_str() {
        let lists = [
            spec.list("template.spec.containers"),
            spec.list("template.spec.initContainers"),
        ];
        if !lists.iter().copied().flatten().any(|c| c.text("name") == name) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(format!("{path}.containerName"), name, detail));
        }
    }
    errors.extend(code_values(operator, on.at("values"), &format!("{path}.values")));
    errors
}

fn code_values(operator: &str, shown: &Value, path: &str) -> FieldErrors {
    let (mut errors, values) = (Vec::new(), shown.as_array().map_or(&[][..], Vec::as_slice));
    if values.is_empty() {
        errors.push(FieldError::invalid(
            path,
            shown.clone(),
            "at least one value is required",
        ));
    } else if values.len() > CODES {
        errors.push(FieldError::too_many(path, values.len(), CODES));
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut seen = Seen::default();
    for (i, code) in numbers.iter().enumerate() {
        let at = format!("{path}[{i}]");
        if operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(
                at.as_str(),
                0,
                "must not be 0 for the In operator",
            ));
        }
        if seen.again(code.to_string()) {
            errors.push(FieldError::duplicate(at, *code));
        }
    }
    if !numbers.is_sorted() {
        errors.push(FieldError::invalid(path, values.to_vec(), "must be ordered"));
    }
    errors
}

fn pod_conditions(patterns: &[Value], path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    if patterns.len() > RULES {
        errors.push(FieldError::too_many(path, patterns.len(), RULES));
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let (kind, status) = (pattern.text("type"), pattern.text("status"));
        errors.extend(complain(
            &format!("{path}[{i}].type"),
            kind,
            names::qualified(kind),
        ));
        let at = format!("{path}[{i}].status");
        match status {
            "" => errors.push(FieldError::required(
                at,
                format!("valid values: {}", go_list(&STATUSES)),
            )),
            other if !STATUSES.contains(&other) => {
                errors.push(FieldError::not_supported(at, other, &STATUSES));
            }
            _ => {}
        }
    }
    errors
}

fn success_policy(spec: &Value, path: &str) -> FieldErrors {
    if spec.text("completionMode") != "Indexed" {
        let policy = spec.at("successPolicy").clone();
        return vec![FieldError::invalid(path, policy, INDEXED)];
    }
    let rules = spec.list("successPolicy.rules");
    let at = format!("{path}.rules");
    let mut errors = Vec::new();
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(at.as_str(), detail));
    }
    if rules.len() > RULES {
        errors.push(FieldError::too_many(at.as_str(), rules.len(), RULES));
    }
    let all = spec.int("completions").unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(success_rule(rule, all, &format!("{at}[{i}]")));
    }
    errors
}

fn success_rule(rule: &Value, all: i64, path: &str) -> FieldErrors {
    let (count, text) = (rule.int("succeededCount"), rule.at("succeededIndexes").as_str());
    let mut errors = Vec::new();
    if count.is_none() && text.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut named = 0;
    if let Some(text) = text {
        let at = format!("{path}.succeededIndexes");
        if text.len() > SUCCEEDED_TEXT {
            errors.push(FieldError::too_long(at.as_str(), SUCCEEDED_TEXT));
        }
        match indexes::count(text, all) {
            Ok(count) => named = count,
            Err(why) => {
                let detail = format!("error parsing succeededIndexes: {why}");
                errors.push(FieldError::invalid(at, text, detail));
            }
        }
    }
    if let Some(count) = count {
        let at = format!("{path}.succeededCount");
        errors.extend(not_negative(rule, "succeededCount", path));
        for (limit, what) in [
            (Some(all), "the number of specified completions"),
            (
                text.map(|_| named),
                "the number of indexes in the specified succeededIndexes field",
            ),
        ] {
            if let Some(limit) = limit.filter(|limit| count > *limit) {
                let detail = format!("must be less than or equal to {limit} ({what})");
                errors.push(FieldError::invalid(at.as_str(), count, detail));
            }
        }
    }
    errors
}

pub fn update(subresource: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    if subresource == Some("status") {
        return super::job_status::update(new, old);
    }
    let mut again = spec(new.at("spec"), "spec");
    again.extend(selector(new.at("spec")));
    // Upstream judges it as a new one first, and its spec once more.
    let had = old.at("spec.template.metadata.labels");
    let prefixed = PREFIXED.iter().all(|key| had.get(key).is_some());
    let mut errors = generated(new, prefixed);
    errors.extend(again.clone());
    errors.extend(host_names(new));
    errors.extend(again);
    errors.extend(completions(new, old));
    errors.extend(immutable(new, old, "spec.selector"));
    errors.extend(template(new, old));
    for key in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        errors.extend(immutable(new, old, &format!("spec.{key}")));
    }
    errors
}

/// An indexed Job grows and shrinks with its parallelism (KEP-3715).
fn completions(new: &Value, old: &Value) -> Option<FieldError> {
    let path = "spec.completions";
    if new.text("spec.completionMode") != "Indexed" {
        return immutable(new, old, path);
    }
    let now = new.int(path)?;
    let apart = new.at(path) != old.at(path) && new.int("spec.parallelism") != Some(now);
    let detail = "can only be modified in tandem with spec.parallelism";
    apart.then(|| FieldError::invalid(path, now, detail))
}

/// The template of a suspended Job that has no Pods may still be moved to other nodes and get other resources
/// (KEP-2926, KEP-5440).
fn template(new: &Value, old: &Value) -> Option<FieldError> {
    let (now, mut before) = (new.at("spec.template"), old.at("spec.template").clone());
    if resting(old) {
        for key in ["nodeSelector", "tolerations", "schedulingGates"] {
            copy_member(&mut before["spec"], now.at("spec"), key);
        }
        before["spec"]["affinity"] = affinity(now.at("spec.affinity"), before.at("spec.affinity"));
        for list in ["containers", "initContainers"] {
            copy_resources(&mut before["spec"], now.at("spec"), list);
        }
    }
    let (path, now, before) = match resting(old) {
        true => ("spec.template.spec", now.at("spec"), before.at("spec")),
        false => ("spec.template", now, &before),
    };
    let same = without_null(now) == without_null(before);
    (!same).then(|| FieldError::invalid(path, now.clone(), super::IMMUTABLE))
}

/// Suspended, and with no Pods of its own.
fn resting(job: &Value) -> bool {
    let mut conditions = job.list("status.conditions").iter();
    let said = conditions.any(|c| c.text("type") == "Suspended" && c.text("status") == "True");
    let never = !job.has("status.startTime");
    job.flag("spec.suspend") && (never || said) && job.int("status.active").unwrap_or(0) == 0
}

/// The resources of containers that have kept their place and name.
fn copy_resources(before: &mut Value, now: &Value, list: &str) {
    let Some(before) = before.get_mut(list).and_then(Value::as_array_mut) else {
        return;
    };
    let now = now.list(list);
    if now.len() == before.len() {
        let pairs = before.iter_mut().zip(now);
        let kept = pairs.filter(|(old, new)| old.text("name") == new.text("name"));
        kept.for_each(|(old, new)| copy_member(old, new, "resources"));
    }
}

/// The old affinity with the new one's nodes.
fn affinity(now: &Value, before: &Value) -> Value {
    let mut merged = before.clone();
    if !merged.is_object() {
        merged = Value::Object(Default::default());
    }
    copy_member(&mut merged, now, "nodeAffinity");
    match merged.as_object().is_some_and(serde_json::Map::is_empty) && !now.is_object() {
        true => Value::Null,
        false => merged,
    }
}

/// What is null, here or in a spec below, is not there.
fn without_null(value: &Value) -> Value {
    let mut value = value.clone();
    for path in ["", "/spec"] {
        if let Some(map) = value.pointer_mut(path).and_then(Value::as_object_mut) {
            map.retain(|_, v| !v.is_null());
        }
    }
    value
}

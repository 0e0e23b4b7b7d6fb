//! Requests and limits.
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display};

use serde_json::Value;

use super::{NOT_NEGATIVE, Seen, complain};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;

const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

fn amount(list: &Value, name: &str) -> Option<Quantity> {
    Quantity::parse(list.get(name)?.as_str()?).ok()
}

/// What standard resources there are, wherever resources are named. The rest has a domain.
const KNOWN: [&str; 20] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];
/// How many of a Pod's claims are named to who asks for another: each who does is told.
const NAMED: usize = 100;
const OF_CONTAINERS: &str = "must be a standard resource for containers";

/// Names of the claims that containers of a Pod may refer to, sorted.
pub(super) fn claim_names(spec: &Value) -> Vec<&str> {
    let names = spec.list("resourceClaims").iter().map(|claim| claim.text("name"));
    let mut names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names
}

/// Requests and limits of a container at `path`.
pub(super) fn requirements(resources: &Value, claims: &[&str], path: impl Display + Copy) -> FieldErrors {
    let mut errors = amounts(resources, path, of_container);
    errors.extend(claimed(
        resources.list("claims"),
        claims,
        format_args!("{path}.claims"),
    ));
    errors
}

/// Limits alone, as of an overhead.
pub(super) fn limits(amounts: &Value, path: impl Display + Copy) -> FieldErrors {
    match amounts.is_null() {
        true => Vec::new(),
        false => self::amounts(&serde_json::json!({"limits": amounts}), path, of_container),
    }
}

fn amounts(
    resources: &Value,
    path: impl Display + Copy,
    name_check: fn(&str, fmt::Arguments<'_>) -> FieldErrors,
) -> FieldErrors {
    let (limits, requests) = (resources.at("limits"), resources.at("requests"));
    let mut errors = Vec::new();
    for name in names_of(limits) {
        let at = format_args!("{path}.limits[{name}]");
        errors.extend(name_check(name, at));
        errors.extend(entry(limits, name, at));
    }
    for name in names_of(requests) {
        let at = format_args!("{path}.requests[{name}]");
        errors.extend(name_check(name, at));
        errors.extend(value(requests, name, at));
        errors.extend(against_limit(limits, requests, name, path));
        errors.extend(whole_pages(requests, name, at));
    }
    let has = |names: &[&str]| {
        names
            .iter()
            .any(|n| limits.get(*n).is_some() || requests.get(*n).is_some())
    };
    let huge = names_of(limits)
        .into_iter()
        .chain(names_of(requests))
        .any(is_huge);
    if huge && !has(&["cpu", "memory"]) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
    errors
}

fn names_of(list: &Value) -> Vec<&str> {
    list.as_object()
        .map_or_else(Vec::new, |l| l.keys().map(String::as_str).collect())
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A name that a resource may have anywhere.
pub(super) fn resource_name(name: &str, path: impl Display + Copy) -> FieldErrors {
    let errors = complain(path, name, names::qualified(name));
    if errors.is_empty()
        && !name.contains('/')
        && !KNOWN.contains(&name)
        && !is_huge(name)
        && !name.starts_with("requests.hugepages-")
    {
        let detail = "must be a standard resource type or fully qualified";
        return vec![FieldError::invalid(path, name, detail)];
    }
    errors
}

/// A name that a container's resource may have.
pub(super) fn of_container(name: &str, path: fmt::Arguments<'_>) -> FieldErrors {
    let mut errors = resource_name(name, path);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !is_huge(name) {
            errors.push(FieldError::invalid(path, name, OF_CONTAINERS));
        }
    } else if !name.contains("kubernetes.io/") && !is_extended(name) {
        let detail = "doesn't follow extended resource name standard";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

/// A device or another resource that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    is_whole(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

fn of_pod(name: &str, path: fmt::Arguments<'_>) -> FieldErrors {
    let errors = resource_name(name, path);
    let known = ["cpu", "memory"].contains(&name) || is_huge(name);
    match errors.is_empty() && !known {
        true => vec![FieldError::not_supported(
            path,
            name,
            &["cpu", "hugepages-", "memory"],
        )],
        false => errors,
    }
}

fn entry(list: &Value, name: &str, path: impl Display + Copy) -> FieldErrors {
    let mut errors = value(list, name, path);
    errors.extend(whole_pages(list, name, path));
    errors
}

fn value(list: &Value, name: &str, path: impl Display + Copy) -> FieldErrors {
    let Some(quantity) = amount(list, name) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if quantity.is_negative() {
        errors.push(FieldError::invalid(path, quantity.to_string(), NOT_NEGATIVE));
    }
    if is_extended(name) && !quantity.is_integer() {
        let detail = "must be an integer";
        errors.push(FieldError::invalid(path, quantity.to_string(), detail));
    }
    errors
}

/// Huge pages come in multiples of their size, which is in their name.
fn whole_pages(list: &Value, name: &str, path: impl Display + Copy) -> Option<FieldError> {
    let quantity = amount(list, name)?;
    let size = Quantity::parse(name.strip_prefix("hugepages-")?).ok();
    let whole = size.is_some_and(|size| size.value() > 0 && quantity.value() % size.value() == 0);
    let detail = format!("{quantity} is not positive integer multiple of {name}");
    (!whole).then(|| FieldError::invalid(path, quantity.to_string(), detail))
}

/// Claims that a container uses: each once, each of the Pod's, whose names are `known`. KEP-4381.
fn claimed(claims: &[Value], known: &[&str], path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Claimed::default());
    for (i, claim) in claims.iter().enumerate() {
        let (name, at) = (claim.text("name"), format_args!("{path}[{i}]"));
        if name.is_empty() {
            errors.push(FieldError::required(at, ""));
        } else if seen.keys.contains(name) {
            errors.push(FieldError::duplicate(at, name));
        } else {
            let request = claim.text("request");
            if !request.is_empty() {
                errors.extend(complain(
                    format_args!("{at}.request"),
                    request,
                    names::label(request),
                ));
            }
            errors.extend(seen.add(name, request, at));
        }
        if known.binary_search(&name).is_err() {
            errors.push(unknown_claim(name, known, at));
        }
    }
    errors
}

/// What a container uses already.
#[derive(Default)]
struct Claimed {
    /// `CLAIM` or `CLAIM/REQUEST`.
    keys: HashSet<String>,
    /// How many there are of each claim.
    of_claim: HashMap<String, usize>,
}

impl Claimed {
    /// Adds a claim, or one request of it; what it is a duplicate of is told, once for each.
    fn add(&mut self, name: &str, request: &str, path: impl Display + Copy) -> FieldErrors {
        let key = match request {
            "" => name.to_owned(),
            request => format!("{name}/{request}"),
        };
        // A name with a slash is no claim's first part.
        let parts = match request.is_empty() && !name.contains('/') {
            true => self.of_claim.get(name).copied().unwrap_or(0),
            false => 0,
        };
        let claim = key.split('/').next().unwrap_or_default().to_owned();
        *self.of_claim.entry(claim).or_default() += 1;
        match self.keys.contains(&key) {
            true => vec![FieldError::duplicate(path, key.as_str())],
            false => {
                self.keys.insert(key);
                (0..parts).map(|_| FieldError::duplicate(path, name)).collect()
            }
        }
    }
}

fn unknown_claim(name: &str, known: &[&str], path: impl Display + Copy) -> FieldError {
    let named = known.get(..NAMED).unwrap_or(known).join(", ");
    let detail = match known.len() {
        0 => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
        count if count > NAMED => format!(
            "must be one of the names in pod.spec.resourceClaims: {named} and {} more",
            count - NAMED
        ),
        _ => format!("must be one of the names in pod.spec.resourceClaims: {named}"),
    };
    FieldError {
        detail,
        ..FieldError::not_found(path, name)
    }
}

/// Claims of a Pod itself.
pub(super) fn pod_claims(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let (mut errors, mut seen) = (Vec::new(), Seen::default());
    for (i, claim) in spec.list("resourceClaims").iter().enumerate() {
        let (name, at) = (claim.text("name"), format_args!("{path}[{i}]"));
        let name_at = format_args!("{at}.name");
        match name {
            "" => errors.push(FieldError::required(name_at, "")),
            name if seen.again(name) => errors.push(FieldError::duplicate(name_at, name)),
            name => errors.extend(complain(name_at, name, names::label(name))),
        }
        errors.extend(claim_source(claim, at));
    }
    errors
}

/// One way to find the claim.
fn claim_source(claim: &Value, path: impl Display + Copy) -> FieldErrors {
    let keys = ["resourceClaimName", "resourceClaimTemplateName"];
    let set: Vec<&str> = keys.into_iter().filter(|key| claim.has(key)).collect();
    let mut errors = Vec::new();
    let shown = || {
        let text = |key: &str| claim.at(key).to_string();
        format!(
            "{{\"Name\":{},\"ResourceClaimName\":{},\"ResourceClaimTemplateName\":{}}}",
            serde_json::Value::from(claim.text("name")),
            text(keys[0]),
            text(keys[1])
        )
    };
    match set.len() {
        0 => {
            let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.push(FieldError::invalid_shown(path, shown(), detail));
        }
        1 => {}
        _ => {
            let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.push(FieldError::invalid_shown(path, shown(), detail));
        }
    }
    for key in set {
        let name = claim.text(key);
        errors.extend(complain(
            format_args!("{path}.{key}"),
            name,
            names::subdomain(name),
        ));
    }
    errors
}

/// Resources counted in pieces: devices and other extended resources.
fn is_whole(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// Whether more may be asked for in all than a node has.
fn overcommits(name: &str) -> bool {
    !is_whole(name) && !name.starts_with("hugepages-")
}

fn against_limit(
    limits: &Value,
    requests: &Value,
    name: &str,
    path: impl Display + Copy,
) -> Option<FieldError> {
    let request = amount(requests, name)?;
    let at = format_args!("{path}.requests");
    match amount(limits, name) {
        Some(limit) if !overcommits(name) && request.nanos() != limit.nanos() => Some(FieldError::invalid(
            at,
            request.to_string(),
            format!("must be equal to {name} limit of {limit}"),
        )),
        Some(limit) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            Some(FieldError::invalid(at, request.to_string(), detail))
        }
        None if !overcommits(name) => {
            let detail = "Limit must be set for non overcommitable resources";
            Some(FieldError::required(format!("{path}.limits"), detail))
        }
        _ => None,
    }
}

/// Requests and limits of the Pod as a whole. KEP-2837.
pub(super) fn pod_level(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let resources = spec.at("resources");
    if resources.is_null() {
        return Vec::new();
    }
    let at = format_args!("{path}.resources");
    if spec.text("os.name") == "windows" {
        return vec![FieldError::forbidden(at, "may not be set for a windows pod")];
    }
    let mut errors = Vec::new();
    if resources.has("claims") {
        let detail = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(format!("{at}.claims"), detail));
    }
    errors.extend(amounts(resources, at, of_pod));
    errors.extend(claimed(
        resources.list("claims"),
        &claim_names(spec),
        format_args!("{at}.claims"),
    ));
    let asked = crate::kinds::resources::pod(&serde_json::json!({"spec": without_own(spec)}), "requests");
    for (name, sum) in asked {
        errors.extend(at_least_the_sum(resources, &name, sum, at));
    }
    errors.extend(within_the_whole(spec, at));
    errors
}

fn without_own(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("resources");
        spec.remove("overhead");
    }
    spec
}

fn at_least_the_sum(
    resources: &Value,
    name: &str,
    sum: Quantity,
    path: impl Display + Copy,
) -> Option<FieldError> {
    let own = amount(resources.at("requests"), name)?;
    let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
    (sum > own).then(|| FieldError::invalid(format!("{path}.requests[{name}]"), own.to_string(), detail))
}

/// No container may have more than its Pod.
fn within_the_whole(spec: &Value, path: impl Display + Copy) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, container) in spec.list("containers").iter().enumerate() {
        let limits = container.at("resources.limits");
        for name in names_of(limits) {
            let pair = (amount(limits, name), amount(spec.at("resources.limits"), name));
            let (Some(own), Some(all)) = pair else { continue };
            if own > all {
                let at = format_args!("{path}.containers[{i}][{name}].limits");
                let detail = format!("must be less than or equal to pod limits of {all}");
                errors.push(FieldError::invalid(at, own.to_string(), detail));
            }
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// How many duplicates a search from the front finds for each claim.
    fn searched(claims: &[(String, String)]) -> Vec<usize> {
        let mut seen: Vec<String> = Vec::new();
        let of = |(name, request): &(String, String)| {
            if seen.contains(name) {
                return 1;
            }
            let key = match request.as_str() {
                "" => name.clone(),
                request => format!("{name}/{request}"),
            };
            let part = |s: &&String| request.is_empty() && s.split('/').next() == Some(name);
            let found = match seen.contains(&key) {
                true => 1,
                false => seen.iter().filter(part).count(),
            };
            seen.push(key);
            found
        };
        claims.iter().map(of).collect()
    }

    proptest! {
        #[test]
        fn claims_are_found_as_a_search_finds_them(
            claims in prop::collection::vec(("[ab](/r)?", "[rs]?"), 0..12)
        ) {
            let list: Vec<Value> = claims
                .iter()
                .map(|(name, request)| json!({"name": name, "request": request}))
                .collect();
            let errors = claimed(&list, &["a", "a/r", "b", "b/r"], "c");
            let told = |i: usize| errors.iter().filter(|e| e.field == format!("c[{i}]")).count();
            let told: Vec<usize> = (0..claims.len()).map(told).collect();
            prop_assert_eq!(told, searched(&claims));
        }
    }

    #[test]
    fn only_some_of_many_claims_are_named() {
        let names: Vec<String> = (0..150).map(|n| format!("c{n:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let told = |names: &[&str]| claimed(&[json!({"name": "x"})], names, "c")[0].detail.clone();
        assert!(told(&names[..100]).ends_with("c098, c099"));
        assert!(told(&names).ends_with("c098, c099 and 50 more"));
        assert!(told(&[]).ends_with("which is empty"));
    }
}

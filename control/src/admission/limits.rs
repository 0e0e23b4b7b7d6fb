//! LimitRanger: what containers, Pods and claims of a namespace may ask for, and what they get when they do not ask.
use super::{Action, Denial, Objects, ResourceName, Review};
use crate::kinds::quantity::Quantity;
use crate::kinds::resources::{self, List};
use crate::kinds::view::View;
use serde_json::{Map, Value};
use std::sync::Arc;

const RANGES: ResourceName<'_> = ("", "v1", "limitranges");
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn ranges(objects: &dyn Objects, review: &Review<'_>) -> Vec<Arc<Value>> {
    objects.list(RANGES, review.namespace)
}

/// Fills in the defaults of a new Pod's containers.
pub(super) fn default(objects: &dyn Objects, review: &Review<'_>, pod: &mut Value) {
    if !matches!(review.action, Action::Create) {
        return;
    }
    let mut set = Vec::new();
    for range in ranges(objects, review) {
        let limits = range.list("spec.limits").iter();
        let limits: Vec<&Value> = limits.filter(|l| l.text("type") == "Container").collect();
        for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
            let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                set.extend(fill(container, &limits, word));
            }
        }
    }
    if !set.is_empty() {
        let note = format!("LimitRanger plugin set: {}", set.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = note.into();
        // What the Pod asks for as a whole follows from its containers.
        review.kind.default(pod);
    }
}

/// What was set, in words.
fn fill(container: &mut Value, limits: &[&Value], word: &str) -> Vec<String> {
    let name = container.text("name").to_owned();
    // What the client gave counts; requests are completed before limits are, from what was there before.
    let set = [
        ("requests", "defaultRequest", "request"),
        ("limits", "default", "limit"),
    ]
    .map(|(part, from, what)| {
        let mut added = Vec::new();
        for (resource, amount) in limits.iter().flat_map(|l| l.map(from).into_iter().flatten()) {
            if !container["resources"][part].has_key(resource) {
                container["resources"][part][resource] = amount.clone();
                added.push(resource.clone());
            }
        }
        added.sort();
        (!added.is_empty()).then(|| format!("{} {what} for {word} {name}", added.join(", ")))
    });
    let requests_and_limits = set.into_iter().flatten().collect();
    drop_empty(container);
    requests_and_limits
}

/// Looking for a member made it.
fn drop_empty(container: &mut Value) {
    if let Some(Value::Object(parts)) = container.get_mut("resources") {
        parts.retain(|_, part| !part.is_null());
    }
}

/// A look for a member whose name may have dots.
trait Keys {
    fn has_key(&self, key: &str) -> bool;
}

impl Keys for Value {
    fn has_key(&self, key: &str) -> bool {
        self.as_object()
            .is_some_and(|map: &Map<String, Value>| map.contains_key(key))
    }
}

/// Judges what was asked for.
pub(super) fn check(objects: &dyn Objects, review: &Review<'_>, object: &Value) -> Result<(), Denial> {
    let (_, plural, subresource) = review.resource();
    let update = matches!(review.action, Action::Update { .. });
    let judged = match (plural, subresource) {
        ("pods", None) => !update,
        ("pods", Some("resize")) => update,
        ("persistentvolumeclaims", None) => true,
        _ => false,
    };
    let leaving = match review.action {
        Action::Update { old } => old.has("metadata.deletionTimestamp"),
        _ => false,
    };
    if !judged || leaving {
        return Ok(());
    }
    for range in ranges(objects, review) {
        let complaints: Vec<String> = range
            .list("spec.limits")
            .iter()
            .flat_map(|limit| match plural {
                "pods" => pod_complaints(limit, object),
                _ => claim_complaints(limit, object),
            })
            .collect();
        match complaints.as_slice() {
            [] => {}
            [only] => return Err(Denial::Forbidden(only.clone())),
            several => return Err(Denial::Forbidden(format!("[{}]", several.join(", ")))),
        }
    }
    Ok(())
}

fn pod_complaints(limit: &Value, pod: &Value) -> Vec<String> {
    match limit.text("type") {
        "Container" => {
            let all = pod
                .list("spec.containers")
                .iter()
                .chain(pod.list("spec.initContainers"));
            all.flat_map(|c| {
                let part = |key: &str| resources::list(c.at("resources").at(key));
                complaints(limit, "Container", &part("requests"), &part("limits"))
            })
            .collect()
        }
        "Pod" => complaints(
            limit,
            "Pod",
            &resources::pod(pod, "requests"),
            &resources::pod(pod, "limits"),
        ),
        _ => Vec::new(),
    }
}

fn complaints(limit: &Value, what: &str, requests: &List, limits: &List) -> Vec<String> {
    let mut found = Vec::new();
    for (name, min) in resources::list(limit.at("min")) {
        found.extend(too_little(
            what,
            &name,
            min,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    for (name, max) in resources::list(limit.at("max")) {
        found.extend(too_much(what, &name, max, requests.get(&name), limits.get(&name)));
    }
    for (name, ratio) in resources::list(limit.at("maxLimitRequestRatio")) {
        found.extend(too_far_apart(
            what,
            &name,
            ratio,
            requests.get(&name),
            limits.get(&name),
        ));
    }
    found
}

fn too_little(
    what: &str,
    name: &str,
    min: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let start = format!("minimum {name} usage per {what} is {min}");
    match (request, limit) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some(request), _) if *request < min => Some(format!("{start}, but request is {request}")),
        (_, Some(limit)) if *limit < min => Some(format!("{start}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(
    what: &str,
    name: &str,
    max: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let start = format!("maximum {name} usage per {what} is {max}");
    match (limit, request) {
        (None, _) => Some(format!("{start}.  No limit is specified")),
        (Some(limit), _) if *limit > max => Some(format!("{start}, but limit is {limit}")),
        (_, Some(request)) if *request > max => Some(format!("{start}, but request is {request}")),
        _ => None,
    }
}

fn too_far_apart(
    what: &str,
    name: &str,
    ratio: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {what} is {ratio}");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{start}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    // limit / request > ratio, without dividing. Amounts are below 2^93, so the products are cut to thousandths.
    let over =
        limit.milli_value().saturating_mul(1000) > ratio.milli_value().saturating_mul(request.milli_value());
    let shown = || {
        let millionths = limit.milli_value().saturating_mul(1_000_000) / request.milli_value().max(1);
        format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
    };
    over.then(|| format!("{start}, but provided ratio is {}", shown()))
}

fn claim_complaints(limit: &Value, claim: &Value) -> Vec<String> {
    if limit.text("type") != "PersistentVolumeClaim" {
        return Vec::new();
    }
    let what = "PersistentVolumeClaim";
    let requests = resources::list(claim.at("spec.resources.requests"));
    let mut found = Vec::new();
    for (name, min) in resources::list(limit.at("min")) {
        found.extend(too_little(what, &name, min, requests.get(&name), None));
    }
    for (name, max) in resources::list(limit.at("max")) {
        let start = format!("maximum {name} usage per {what} is {max}");
        found.extend(match requests.get(&name) {
            None => Some(format!("{start}.  No request is specified")),
            Some(request) if *request > max => Some(format!("{start}, but request is {request}")),
            Some(_) => None,
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    fn range(limits: Value) -> Fixed {
        let object = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"limits": limits}});
        Fixed(vec![("limitranges", object)])
    }

    fn judged(objects: &Fixed, resources: Value) -> Result<Value, String> {
        let mut pod =
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        let review = review("pods", Action::Create);
        default(objects, &review, &mut pod);
        match check(objects, &review, &pod) {
            Ok(()) => Ok(pod),
            Err(Denial::Forbidden(why)) => Err(why),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn defaults_are_filled_in_and_said() {
        let objects = range(json!([{"type": "Container",
            "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "200m"}}]));
        let pod = judged(&objects, json!({"limits": {"memory": "2Gi"}})).expect("allowed");
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m", "memory": "2Gi"}, "requests": {"cpu": "200m", "memory": "2Gi"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn limits_are_enforced_in_upstreams_words() {
        let objects = range(json!([
            {"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "2"}},
            {"type": "Pod", "max": {"cpu": "2"}}]));
        for (resources, want) in [
            (
                json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "50m"}}),
                "minimum cpu usage per Container is 100m, but request is 50m",
            ),
            (
                json!({"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}),
                "[maximum cpu usage per Container is 1, but limit is 3, maximum cpu usage per Pod is 2, but limit is 3]",
            ),
            (
                json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "1"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 5.000000",
            ),
        ] {
            assert_eq!(judged(&objects, resources), Err(want.to_owned()));
        }
    }
}

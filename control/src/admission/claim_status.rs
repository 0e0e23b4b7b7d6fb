//! The status of a ResourceClaim belongs to several: who allocates and reserves needs a right to bind claims, who tells of
//! devices one to each driver he speaks for (KEP-4817, `DRAResourceClaimGranularStatusAuthorization`). The registry of
//! upstream asks that, so that it is told among what is wrong with the object.
use super::Review;
use crate::auth::Verdict;
use crate::auth::attributes::{Attributes, Resource, refusal};
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors};
use serde_json::Value;
use std::collections::BTreeSet;

pub(super) const RESOURCE: (&str, &str, Option<&str>) = ("resource.k8s.io", "resourceclaims", Some("status"));
/// Parts of a claim that are nothing but names of rights.
const BINDING: &str = "binding";
const DRIVER: &str = "driver";
/// The request's verb follows. One is for service accounts of Pods on the node that the claim is allocated on.
const ASSOCIATED: &str = "associated-node:";
const ARBITRARY: &str = "arbitrary-node:";

/// What of the change from `old` to `new` he who asks may not make.
pub(super) fn judge(review: &Review<'_>, new: &Value, old: &Value) -> FieldErrors {
    let (new, old) = (new.at("status"), old.at("status"));
    let mut errors: FieldErrors = bound(review, new, old).into_iter().collect();
    // What is said of the devices of a claim goes with its allocation.
    if new.has("allocation") {
        errors.extend(told(review, new, old));
    }
    errors
}

fn bound(review: &Review<'_>, new: &Value, old: &Value) -> Option<FieldError> {
    if new.at("allocation") == old.at("allocation") && new.list("reservedFor") == old.list("reservedFor") {
        return None;
    }
    let why = refused(review, review.verb, right(BINDING))?;
    let detail = format!(
        "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/{BINDING}\", \
         verb=\"{}\" permission: {why}",
        review.verb
    );
    Some(FieldError::forbidden("status.allocation", detail))
}

fn told(review: &Review<'_>, new: &Value, old: &Value) -> FieldErrors {
    let node = allocated_on(new.at("allocation"));
    let associated = node.is_some() && node == review.who.own_node();
    let prefixes = match associated {
        true => &[ASSOCIATED, ARBITRARY][..],
        false => &[ARBITRARY],
    };
    let verbs: Vec<String> = prefixes.iter().map(|p| format!("{p}{}", review.verb)).collect();
    let refused = changed(new, old).into_iter().filter_map(|driver| {
        let right = Resource {
            namespace: review.namespace,
            name: Some(driver),
            ..right(DRIVER)
        };
        let refusals: Option<Vec<String>> = verbs.iter().map(|verb| refused(review, verb, right)).collect();
        refusals?.into_iter().next()
    });
    let refused = refused.map(|why| {
        let detail = format!(
            "changing status.devices requires resource=\"resourceclaims/{DRIVER}\", verb=\"[{}]\" permission: {why}",
            verbs.join(" ")
        );
        FieldError::forbidden("status.devices", detail)
    });
    refused.collect()
}

/// The right to a part of claims, of all of them.
fn right(part: &str) -> Resource<'_> {
    let (group, resource, _) = RESOURCE;
    Resource {
        group,
        resource,
        subresource: Some(part),
        ..Resource::default()
    }
}

/// Why he may not, in upstream's words; `None` when he may.
fn refused(review: &Review<'_>, verb: &str, right: Resource<'_>) -> Option<String> {
    let what = Attributes::resource(verb, right);
    let verdict = review
        .authorizer
        .map(|authorizer| authorizer.authorize(review.who, &what));
    let whose = match right.name {
        Some(name) => format!("resourceclaims.resource.k8s.io {name:?}"),
        None => "resourceclaims.resource.k8s.io".to_owned(),
    };
    let why = refusal(&review.who.user, &what);
    let reasons = match verdict {
        Some(Verdict::Allowed { .. }) => return None,
        Some(Verdict::Refused { reason, error }) => [error, reason],
        None => Default::default(),
    };
    let said = [format!("{whose} is forbidden"), why].into_iter();
    let said: Vec<String> = said.chain(reasons).filter(|words| !words.is_empty()).collect();
    Some(said.join(": "))
}

/// The one node that an allocation is for, by its name.
fn allocated_on(allocation: &Value) -> Option<&str> {
    let [term] = allocation.list("nodeSelector.nodeSelectorTerms") else {
        return None;
    };
    let ([], [field]) = (term.list("matchExpressions"), term.list("matchFields")) else {
        return None;
    };
    match field.list("values") {
        [node] if field.text("key") == "metadata.name" && field.text("operator") == "In" => node.as_str(),
        _ => None,
    }
}

/// The drivers of whose devices something else is said than before.
fn changed<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    let (new, old) = (new.list("devices"), old.list("devices"));
    let id = |device: &Value| ["driver", "pool", "device", "shareID"].map(|key| device.text(key).to_owned());
    let differs = |device: &Value, others: &[Value]| {
        let same = others.iter().find(|other| id(other) == id(device));
        same != Some(device)
    };
    let of_new = new.iter().filter(|device| differs(device, old));
    let of_old = old.iter().filter(|device| differs(device, new));
    of_new.chain(of_old).map(|device| device.text("driver")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn drivers_speak_of_what_is_changed() {
        let device = |driver: &str, device: &str, ready: bool| json!({"driver": driver, "pool": "p", "device": device, "data": {"ready": ready}});
        let (a, b) = (device("a", "1", true), device("b", "1", true));
        for (new, old, wanted) in [
            (json!([a, b]), json!([b, a]), &[][..]),
            (json!([a, b]), Value::Null, &["a", "b"]),
            (json!([a]), json!([a, b]), &["b"]),
            (json!([a, device("b", "1", false)]), json!([a, b]), &["b"]),
            (json!([a, b, device("a", "2", true)]), json!([a, b]), &["a"]),
        ] {
            let of = |devices: &Value| json!({"devices": devices});
            let (new, old) = (of(&new), of(&old));
            let found: Vec<&str> = changed(&new, &old).into_iter().collect();
            assert_eq!(found, wanted, "{new} {old}");
        }
    }

    #[test]
    fn an_allocation_may_be_for_one_node() {
        let field = |key: &str, nodes: &[&str]| json!({"key": key, "operator": "In", "values": nodes});
        let of = |terms: Value| json!({"nodeSelector": {"nodeSelectorTerms": terms}});
        let named = field("metadata.name", &["n"]);
        for (allocation, wanted) in [
            (of(json!([{"matchFields": [named]}])), Some("n")),
            (
                of(json!([{"matchFields": [named]}, {"matchFields": [named]}])),
                None,
            ),
            (
                of(json!([{"matchFields": [named], "matchExpressions": [named]}])),
                None,
            ),
            (
                of(json!([{"matchFields": [field("metadata.name", &["n", "m"])]}])),
                None,
            ),
            (of(json!([{"matchExpressions": [named]}])), None),
            (
                of(json!([{"matchFields": [field("metadata.uid", &["n"])]}])),
                None,
            ),
            (json!({}), None),
        ] {
            assert_eq!(allocated_on(&allocation), wanted, "{allocation}");
        }
    }
}

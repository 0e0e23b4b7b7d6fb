//! Admin access to devices is for namespaces that a label gives it to (KEP-5018): the registries of upstream ask that,
//! not its admission, so that it is told among what is wrong with the object.
use super::{Action, Objects, ResourceName, Review};
use crate::kinds::view::View;
use crate::kinds::{FieldError, FieldErrors};
use serde_json::Value;

const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");
const LABEL: &str = "resource.kubernetes.io/admin-access";
const RESULTS: &str = "status.allocation.devices.results";

/// The field that newly asks for admin access, if any. Specs do not change, so that they are asked at creation only.
pub(super) fn asking(review: &Review<'_>, object: &Value) -> Option<String> {
    match (review.resource(), review.action) {
        (("resource.k8s.io", "resourceclaims", None), Action::Create) => requested(object.at("spec")),
        (("resource.k8s.io", "resourceclaimtemplates", None), Action::Create) => {
            requested(object.at("spec.spec"))
        }
        (("resource.k8s.io", "resourceclaims", Some("status")), Action::Update { old }) => {
            granted(object).filter(|_| granted(old).is_none())
        }
        _ => None,
    }
}

/// Of a claim's spec. Upstream names the field as that of a claim in templates, too.
fn requested(spec: &Value) -> Option<String> {
    let mut requests = spec.list("devices.requests").iter();
    let at = requests.position(|request| request.flag("exactly.adminAccess"))?;
    Some(format!("spec.devices.requests[{at}].adminAccess"))
}

fn granted(claim: &Value) -> Option<String> {
    let mut results = claim.list(RESULTS).iter();
    let at = results.position(|result| result.flag("adminAccess"))?;
    Some(format!("{RESULTS}[{at}].adminAccess"))
}

/// What is wrong with `field` asking that in this namespace.
pub(super) fn judge(objects: &dyn Objects, namespace: &str, field: &str) -> FieldErrors {
    let Some(found) = objects.get(NAMESPACES, None, namespace) else {
        let why = format!(
            "could not retrieve namespace to verify admin access: namespaces {namespace:?} not found"
        );
        return vec![FieldError::internal(field, why)];
    };
    let label = found.at("metadata.labels").get(LABEL);
    if label.is_some_and(|value| value == "true") {
        return Vec::new();
    }
    let why =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    vec![FieldError::forbidden(field, why)]
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    #[test]
    fn what_newly_asks_for_admin_access_is_found() {
        let asked = |admin: &[bool]| {
            let requests: Vec<Value> = admin
                .iter()
                .map(|admin| json!({"exactly": {"adminAccess": admin}}))
                .collect();
            json!({"devices": {"requests": requests}})
        };
        let given = |admin: bool| json!({"status": {"allocation": {"devices": {"results": [{}, {"adminAccess": admin}]}}}});
        let (plain, admin) = (given(false), given(true));
        let claims = "resourceclaims.resource.k8s.io";
        let templates = "resourceclaimtemplates.resource.k8s.io";
        let result = "status.allocation.devices.results[1].adminAccess";
        for (resource, subresource, action, object, wanted) in [
            (
                claims,
                None,
                Action::Create,
                json!({"spec": asked(&[false, true])}),
                "spec.devices.requests[1].adminAccess",
            ),
            (claims, None, Action::Create, json!({"spec": asked(&[false])}), ""),
            (
                claims,
                None,
                Action::Create,
                json!({"spec": {"devices": {"requests": [{"firstAvailable": []}]}}}),
                "",
            ),
            (
                claims,
                None,
                Action::Update { old: &plain },
                json!({"spec": asked(&[true])}),
                "",
            ),
            (
                templates,
                None,
                Action::Create,
                json!({"spec": {"spec": asked(&[true])}}),
                "spec.devices.requests[0].adminAccess",
            ),
            (
                claims,
                Some("status"),
                Action::Update { old: &plain },
                admin.clone(),
                result,
            ),
            (
                claims,
                Some("status"),
                Action::Update { old: &admin },
                admin.clone(),
                "",
            ),
            (
                claims,
                Some("status"),
                Action::Update { old: &plain },
                plain.clone(),
                "",
            ),
        ] {
            let review = Review {
                subresource,
                ..review(resource, action)
            };
            let found = asking(&review, &object).unwrap_or_default();
            assert_eq!(found, wanted, "{resource} {subresource:?} {action:?} {object}");
        }
    }

    #[test]
    fn only_the_label_gives_it() {
        let namespace = |name: &str, value: &str| {
            let meta = json!({"name": name, "labels": {LABEL: value}});
            ("namespaces", json!({"metadata": meta}))
        };
        let objects = Fixed(vec![namespace("yes", "true"), namespace("no", "false")]);
        for (name, kind) in [
            ("yes", None),
            ("no", Some("FieldValueForbidden")),
            ("none", Some("InternalError")),
        ] {
            let errors = judge(&objects, name, "f");
            assert_eq!(errors.first().map(|error| error.kind.reason()), kind, "{name}");
        }
    }
}

//! `AdmissionReview`: what a webhook is asked.
use super::super::shown::{Shown, kind_of};
use super::super::{Action, Review};
use crate::kinds::Kind;
use crate::kinds::view::View;
use serde_json::{Value, json};

/// The version of the review that the webhook understands and we prefer.
pub(super) fn version(webhook: &Value) -> &'static str {
    let known = webhook
        .list("admissionReviewVersions")
        .iter()
        .filter_map(Value::as_str);
    let mut known = known.filter(|v| ["v1", "v1beta1"].contains(v));
    match known.next() {
        Some("v1beta1") => "v1beta1",
        _ => "v1",
    }
}

/// The request's uid and its body.
pub(super) fn request(review: &Review<'_>, kind: &Kind, shown: &Shown, version: &str) -> (String, Value) {
    let uid = uuid::Uuid::new_v4().to_string();
    let (kind_name, requested) = (
        kind_of(review, kind, &shown.object),
        kind_of(review, review.kind, &shown.object),
    );
    let (object, old) = match review.action {
        Action::Create | Action::Connect { .. } | Action::Post { .. } => (&shown.object, &Value::Null),
        Action::Update { .. } => (&shown.object, &shown.old),
        Action::Delete { .. } => (&Value::Null, &shown.old),
    };
    let who = review.who;
    let mut request = json!({
        "uid": uid,
        "kind": kind_name,
        "resource": resource_of(kind),
        "requestKind": requested,
        "requestResource": resource_of(review.kind),
        "operation": review.action.word(),
        "userInfo": {"username": &*who.user, "groups": &*who.groups},
        "object": object,
        "oldObject": old,
        "dryRun": review.dry_run,
        "options": review.options.object(review),
    });
    if !who.uid.is_empty() {
        request["userInfo"]["uid"] = who.uid.as_str().into();
    }
    if !who.extra.is_empty() {
        request["userInfo"]["extra"] = json!(&*who.extra);
    }
    let name = Some(review.name).filter(|name| !name.is_empty());
    for (key, value) in [("name", name), ("namespace", review.about())] {
        if let Some(value) = value {
            request[key] = value.into();
        }
    }
    if let Some(subresource) = review.subresource {
        request["subResource"] = subresource.into();
        request["requestSubResource"] = subresource.into();
    }
    let body = json!({
        "kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request});
    (uid, body)
}

fn resource_of(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "resource": kind.plural})
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::review;
    use super::*;

    #[test]
    fn a_request_tells_all() {
        let review = review("pods", Action::Create);
        let shown = Shown {
            object: json!({"kind": "Pod", "metadata": {"name": "o"}}),
            old: Value::Null,
        };
        let (uid, body) = request(&review, review.kind, &shown, "v1");
        let request = &body["request"];
        assert_eq!(request["uid"], uid);
        assert_eq!(request["operation"], "CREATE");
        assert_eq!(request["object"]["kind"], "Pod");
        assert_eq!(request["oldObject"], Value::Null);
        assert_eq!(request["userInfo"]["username"], "tester");
    }
}

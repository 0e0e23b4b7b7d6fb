//! `AdmissionReview`: what a webhook is asked, and what its answer means.
use super::super::shown::{Shown, built, is_scale, kind_of};
use super::super::{Action, Review};
use crate::kinds::view::View;
use crate::kinds::{Kind, scale};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub refused: Option<Refused>,
    pub warnings: Vec<String>,
    pub audit: Vec<(String, String)>,
    patch: Option<Value>,
}

/// Why it said no.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<Value>,
}

/// Warnings of one answer that are passed on, and characters of each (upstream cuts them, too).
const WARNINGS: usize = 64;
const WARNING: usize = 256;

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
    for (key, value) in [("name", name), ("namespace", review.namespace)] {
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

/// Reads an answer to the request with this uid; the error says what is wrong with it.
pub(super) fn read(body: &Value, uid: &str, version: &str, mutates: bool) -> Result<Answer, String> {
    let bad = |why: String| Err(format!("received invalid webhook response: {why}"));
    let (api, kind) = (body.text("apiVersion"), body.text("kind"));
    let response = body.at("response");
    if version == "v1" && (api != "admission.k8s.io/v1" || kind != "AdmissionReview") {
        let (group, of) = api.rsplit_once('/').unwrap_or(("", api));
        return bad(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{of}, Kind={kind}"
        ));
    }
    if !response.is_object() {
        return bad("webhook response was absent".to_owned());
    }
    let said = response.text("uid");
    if said != uid && (version == "v1" || !said.is_empty()) {
        return bad(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    let patch = match mutates {
        true => decoded_patch(response, version),
        false => no_patch(response, version).map(|()| None),
    };
    let patch = match patch {
        Ok(patch) => patch,
        Err(why) => return bad(why),
    };
    let warnings = response
        .list("warnings")
        .iter()
        .filter_map(Value::as_str)
        .take(WARNINGS);
    let audit = response.map("auditAnnotations").into_iter().flatten();
    Ok(Answer {
        refused: (!response.flag("allowed")).then(|| refused(response.at("status"))),
        warnings: warnings.map(|w| w.chars().take(WARNING).collect()).collect(),
        audit: audit
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect(),
        patch,
    })
}

/// Who only judges changes nothing; of the old version what it says about that is passed over.
fn no_patch(response: &Value, version: &str) -> Result<(), String> {
    let said = |key: &&str| !response.at(key).is_null() && response.at(key) != "";
    match ["patch", "patchType"].into_iter().find(said) {
        Some(key) if version == "v1" => Err(format!("validating webhook may not return response.{key}")),
        _ => Ok(()),
    }
}

fn decoded_patch(response: &Value, version: &str) -> Result<Option<Value>, String> {
    let (patch, kind) = (response.text("patch"), response.at("patchType").as_str());
    match (patch, kind) {
        ("", _) => return Ok(None),
        (_, Some("JSONPatch")) => {}
        (_, None) if version == "v1beta1" => {}
        (_, None) => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        (_, Some(other)) => {
            return Err(format!(
                "webhook returned invalid response.patchType of {other:?}"
            ));
        }
    }
    let bytes = STANDARD
        .decode(patch)
        .map_err(|e| format!("response.patch cannot be decoded: {e}"))?;
    let patch = serde_json::from_slice(&bytes).map_err(|e| format!("response.patch cannot be read: {e}"))?;
    Ok(Some(patch))
}

fn refused(status: &Value) -> Refused {
    let code = status.int("code").and_then(|code| u16::try_from(code).ok());
    Refused {
        code: code.filter(|code| (400..600).contains(code)).unwrap_or(400),
        reason: status.text("reason").to_owned(),
        message: status.text("message").to_owned(),
        details: status
            .get("details")
            .filter(|details| details.is_object())
            .cloned(),
    }
}

/// The object that the answer's patch makes of this one; none when there is no patch. A patch is refused when it cannot
/// be applied, makes another object of this one, or something that is no object of the kind.
pub(super) fn patched(
    review: &Review<'_>,
    kind: &Kind,
    answer: &Answer,
    before: &Value,
) -> Result<Option<Value>, String> {
    let Some(patch) = answer.patch.as_ref().filter(|patch| **patch != json!([])) else {
        return Ok(None);
    };
    let mut after =
        crate::api::apply_operations(patch.clone(), before).map_err(|e| format!("its patch: {e}"))?;
    for path in [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ] {
        if after.at(path) != before.at(path) {
            return Err(format!("its patch changes {path}, which a webhook may not"));
        }
    }
    // What is posted is decoded by who posts it.
    if !review.action.asks() {
        let fits = built(review, kind).prune(&mut after);
        fits.map_err(|why| format!("its patch: {why}"))?;
    }
    let wrong = match is_scale(review) {
        true => scale::validate(&after),
        false => Vec::new(),
    };
    match wrong.first() {
        None => Ok(Some(after)),
        Some(why) => Err(format!("its patch: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::review;
    use super::*;

    fn answered(response: Value) -> Result<Answer, String> {
        let body =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        read(&body, "u1", "v1", true)
    }

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

    #[test]
    fn lies_are_told() {
        for (response, why) in [
            (
                json!({"uid": "u2", "allowed": true}),
                "expected response.uid=\"u1\", got \"u2\"",
            ),
            (Value::Null, "webhook response was absent"),
            (
                json!({"uid": "u1", "allowed": true, "patch": "W10="}),
                "webhook returned response.patch but not response.patchType",
            ),
        ] {
            let told = answered(response).expect_err("refused");
            assert_eq!(told, format!("received invalid webhook response: {why}"));
        }
        assert!(read(&json!({}), "u1", "v1", true).is_err());
    }

    #[test]
    fn who_judges_changes_nothing() {
        let answer = |version: &str, response: Value| {
            let body = json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
                "response": response});
            read(&body, "u1", version, false).map(drop)
        };
        for (response, field) in [
            (json!({"uid": "u1", "allowed": true, "patch": "W10="}), "patch"),
            (
                json!({"uid": "u1", "allowed": true, "patchType": "JSONPatch"}),
                "patchType",
            ),
        ] {
            let why = format!(
                "received invalid webhook response: validating webhook may not return response.{field}"
            );
            assert_eq!(answer("v1", response.clone()), Err(why));
            assert_eq!(answer("v1beta1", response), Ok(()));
        }
    }

    #[test]
    fn a_patch_without_operations_is_none_even_of_a_deletion() {
        let review = review("configmaps", Action::Delete { old: &Value::Null });
        let response = json!({"uid": "u1", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"});
        let answer = answered(response).expect("readable");
        assert_eq!(patched(&review, review.kind, &answer, &Value::Null), Ok(None));
    }

    #[test]
    fn a_no_has_a_code_of_an_error() {
        let answer =
            answered(json!({"uid": "u1", "allowed": false, "status": {"code": 200, "message": "m"}}));
        let refused = answer.expect("readable").refused.expect("a no");
        assert_eq!((refused.code, refused.message.as_str()), (400, "m"));
        let status = json!({"code": 418, "reason": "Teapot", "details": {"causes": [{"field": "f"}]}});
        let answer = answered(json!({"uid": "u1", "allowed": false, "status": status}));
        let refused = answer.expect("readable").refused.expect("a no");
        assert_eq!(
            (refused.reason.as_str(), refused.details),
            ("Teapot", Some(json!({"causes": [{"field": "f"}]})))
        );
    }

    #[test]
    fn patches_stay_with_their_object() {
        let review = review("configmaps", Action::Create);
        let object = json!({"metadata": {"name": "o"}, "data": {"a": "1"}});
        let with = |patch: Value| {
            let answer = Answer {
                patch: Some(patch),
                ..Answer::default()
            };
            patched(&review, review.kind, &answer, &object)
        };
        let added = with(json!([{"op": "add", "path": "/data/b", "value": "2"}])).expect("applied");
        assert_eq!(added.expect("patched")["data"], json!({"a": "1", "b": "2"}));
        for refused in [
            json!([{"op": "replace", "path": "/metadata/name", "value": "other"}]),
            json!([{"op": "replace", "path": "/nowhere/at/all", "value": 1}]),
            json!([{"op": "replace", "path": "/data", "value": 7}]),
            json!({"no": "list"}),
        ] {
            assert!(with(refused).is_err());
        }
    }
}

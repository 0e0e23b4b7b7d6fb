//! What a webhook's answer means: read as upstream's client reads it, verified as its `VerifyAdmissionResponse` does, and
//! its patch applied.
use super::super::shown::{built, is_scale};
use super::super::{Denial, Review};
use crate::api;
use crate::kinds::view::View;
use crate::kinds::{Kind, reviews, scale};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const KIND: &str = "AdmissionReview";
const GROUP: &str = "admission.k8s.io";
const PATCH: &str = "JSONPatch";
/// What knows the kinds that may be answered with, in upstream's words.
const SCHEME: &str = "k8s.io/apiserver/pkg/util/webhook/client.go:71";

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub refused: Option<Refused>,
    pub warnings: Vec<String>,
    pub audit: Vec<(String, String)>,
    /// As it came; empty where there is none.
    patch: Vec<u8>,
    patch_type: String,
}

/// Why it said no.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<Value>,
}

/// Why a webhook has no say in what becomes of the object.
#[derive(Debug)]
pub(super) enum Fault {
    /// It did not make sense: its failure policy says what that means.
    Webhook(String),
    /// Whatever the policy. What a patch cannot be applied to upstream takes for an error of its own.
    Final(Denial),
}

impl From<Denial> for Fault {
    fn from(denial: Denial) -> Self {
        Fault::Final(denial)
    }
}

fn internal(why: impl ToString) -> Fault {
    Fault::Final(Denial::Failed(why.to_string()))
}

/// Reads an answer to the request with this uid; the error says what is wrong with it.
pub(super) fn read(body: &[u8], uid: &str, version: &str, mutates: bool) -> Result<Answer, String> {
    let review = decoded(body, version).map_err(|why| format!("failed to call webhook: {why}"))?;
    let answer = verified(&review, uid, version, mutates);
    answer.map_err(|why| format!("received invalid webhook response: {why}"))
}

/// An answer of the version that was asked for.
fn decoded(body: &[u8], version: &str) -> Result<Value, String> {
    let mut review = api::decoded(body)?;
    check_kind(&review, version)?;
    reviews::admission(version, &mut review).map_err(|why| why.to_string())?;
    Ok(review)
}

/// What an answer does not say it is, it is.
fn check_kind(review: &Value, version: &str) -> Result<(), String> {
    let wanted = format!("{GROUP}/{version}");
    let (said, kind) = (said(review, "apiVersion")?, said(review, "kind")?);
    if said.matches('/').count() > 1 {
        return Err(format!("unexpected GroupVersion string: {said}"));
    }
    let or = |said: &'_ str, usual: &'_ str| match said {
        "" => usual.to_owned(),
        said => said.to_owned(),
    };
    let (said, kind) = (or(said, &wanted), or(kind, KIND));
    if said == wanted && kind == KIND {
        return Ok(());
    }
    let known = match kind.as_str() {
        KIND => ["v1", "v1beta1"].iter().any(|v| said == format!("{GROUP}/{v}")),
        kind => kind == "Status" && said == "v1",
    };
    match known {
        true => {
            let of = said.rsplit('/').next().unwrap_or_default();
            Err(format!(
                "converting ({of}.{kind}) to ({version}.{KIND}): unknown conversion"
            ))
        }
        false => Err(api::unregistered(&kind, &said, SCHEME)),
    }
}

fn said<'r>(review: &'r Value, field: &str) -> Result<&'r str, String> {
    match review.at(field) {
        Value::Null => Ok(""),
        Value::String(said) => Ok(said),
        other => Err(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{field} of type string",
            api::word(other)
        )),
    }
}

fn verified(review: &Value, uid: &str, version: &str, mutates: bool) -> Result<Answer, String> {
    let response = review.get("response").ok_or("webhook response was absent")?;
    let strict = version == "v1";
    if strict {
        check_identity(review, response, uid)?;
        check_patch(response, mutates)?;
    }
    let patch = if mutates { response.text("patch") } else { "" };
    let patch = STANDARD.decode(patch).map_err(|why| why.to_string())?;
    let audit = response.map("auditAnnotations").into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(Answer {
        refused: (!response.flag("allowed")).then(|| refused(response.at("status"))),
        warnings: response.list("warnings").iter().map(text).collect(),
        audit: audit.map(|(key, value)| (key.clone(), text(value))).collect(),
        patch,
        // Of the old version nobody verified it.
        patch_type: if strict { response.text("patchType") } else { PATCH }.to_owned(),
    })
}

fn check_identity(review: &Value, response: &Value, uid: &str) -> Result<(), String> {
    let said = response.text("uid");
    if said != uid {
        return Err(format!("expected response.uid={uid:?}, got {said:?}"));
    }
    let (api, kind) = (review.text("apiVersion"), review.text("kind"));
    if api.is_empty() || kind.is_empty() {
        let (group, of) = api.rsplit_once('/').unwrap_or(("", api));
        return Err(format!(
            "expected webhook response of {GROUP}/v1, Kind={KIND}, got {group}/{of}, Kind={kind}"
        ));
    }
    Ok(())
}

/// A patch and its type come together, and neither of who only judges.
fn check_patch(response: &Value, mutates: bool) -> Result<(), String> {
    let (is_patched, ty) = (!response.text("patch").is_empty(), response.get("patchType"));
    let why = match (mutates, is_patched, ty) {
        (false, true, _) => "validating webhook may not return response.patch",
        (false, _, Some(_)) => "validating webhook may not return response.patchType",
        (true, true, None) => "webhook returned response.patch but not response.patchType",
        (true, false, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, true, Some(ty)) if ty == "" => "webhook returned invalid response.patchType of \"\"",
        _ => return Ok(()),
    };
    Err(why.to_owned())
}

/// A no is one by its code, too (`ToStatusErr`).
fn refused(status: &Value) -> Refused {
    let code = status.int("code").filter(|code| *code >= 400).unwrap_or(400);
    Refused {
        // HTTP has no larger ones, and upstream comes to grief over them.
        code: u16::try_from(code)
            .ok()
            .filter(|code| *code < 1000)
            .unwrap_or(500),
        reason: status.text("reason").to_owned(),
        message: status.text("message").to_owned(),
        details: status.get("details").cloned(),
    }
}

impl Answer {
    /// The operations of its patch; none where there are none.
    fn operations(&self) -> Result<Option<Value>, Fault> {
        if self.patch.is_empty() {
            return Ok(None);
        }
        let undecodable =
            |why: String| Fault::Webhook(format!("received undecodable patch in webhook response: {why}"));
        let mismatch = |of: &Value, ty: &str| {
            let word = api::word(of);
            undecodable(format!(
                "json: cannot unmarshal {word} into Go value of type jsonpatch.{ty}"
            ))
        };
        let patch = api::decoded_json(&self.patch).map_err(undecodable)?.value;
        let operations = match &patch {
            Value::Null => return Ok(None),
            Value::Array(operations) => operations,
            other => return Err(mismatch(other, "Patch")),
        };
        let is_one = |operation: &&Value| operation.is_object() || operation.is_null();
        match operations.iter().find(|operation| !is_one(operation)) {
            Some(other) => Err(mismatch(other, "Operation")),
            None if operations.is_empty() => Ok(None),
            None => Ok(Some(patch)),
        }
    }
}

/// What a patch makes of an object.
#[derive(Debug, PartialEq)]
pub(super) struct Patched {
    pub object: Value,
    pub operations: Value,
}

/// What the answer's patch makes of this object, shown to `webhook`; none when there is no patch. A patch is refused when it
/// cannot be applied, makes another object of this one, or something that is no object of the kind.
pub(super) fn patched(
    review: &Review<'_>,
    (kind, webhook): (&Kind, &str),
    answer: &Answer,
    before: &Value,
) -> Result<Option<Patched>, Fault> {
    let Some(operations) = answer.operations()? else {
        return Ok(None);
    };
    if before.is_null() {
        return Err(internal(format!(
            "admission webhook {webhook:?} attempted to modify the object, which is not supported for this operation"
        )));
    }
    if answer.patch_type != PATCH {
        return Err(Fault::Webhook(format!(
            "unsupported patch type {:?}",
            answer.patch_type
        )));
    }
    let mut object = api::apply_operations(operations.clone(), before).map_err(internal)?;
    check_kept(before, &object)?;
    // What is posted is decoded by who posts it.
    if !review.action.asks() {
        built(review, kind).prune(&mut object).map_err(internal)?;
    }
    let wrong = match is_scale(review) {
        true => scale::validate(&object),
        false => Vec::new(),
    };
    match wrong.first() {
        None => Ok(Some(Patched { object, operations })),
        Some(why) => Err(Fault::Webhook(format!("its patch: {why}"))),
    }
}

/// A webhook changes the object that it is shown.
fn check_kept(before: &Value, after: &Value) -> Result<(), Fault> {
    let identity = [
        "apiVersion",
        "kind",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    match identity.iter().find(|path| after.at(path) != before.at(path)) {
        None => Ok(()),
        Some(path) => Err(Fault::Webhook(format!(
            "its patch changes {path}, which a webhook may not"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Action;
    use super::super::super::fixtures::review;
    use super::*;
    use serde_json::json;

    fn answered(response: Value) -> Result<Answer, String> {
        let body =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        read(body.to_string().as_bytes(), "u1", "v1", true)
    }

    /// What upstream says of bodies that it was sent when it had asked in version v1.
    #[test]
    fn what_is_no_answer_is_told_in_upstreams_words() {
        let review = |api: &str, kind: &str| {
            json!({"apiVersion": api, "kind": kind, "response": {"uid": "u1"}}).to_string()
        };
        let kind = KIND;
        let target = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        let unread =
            |why: &str| format!("failed to call webhook: couldn't get version/kind; json parse error: {why}");
        let unknown = |kind: &str, version: &str| {
            format!(
                "failed to call webhook: no kind \"{kind}\" is registered for version \"{version}\" in scheme \"{SCHEME}\""
            )
        };
        let other = |got: &str| {
            format!(
                "received invalid webhook response: expected webhook response of {GROUP}/v1, Kind={KIND}, got {got}"
            )
        };
        let absent = "received invalid webhook response: webhook response was absent".to_owned();
        for (body, want) in [
            ("null".to_owned(), absent.clone()),
            ("{}".to_owned(), absent),
            (
                "[]".to_owned(),
                unread(&format!("json: cannot unmarshal array into Go value of type {target}")),
            ),
            (
                "not json".to_owned(),
                unread(&format!("json: cannot unmarshal string into Go value of type {target}")),
            ),
            ("{".to_owned(), unread("unexpected end of JSON input")),
            (
                format!("{} trailing", review("admission.k8s.io/v1", kind)),
                unread("invalid character 't' after top-level value"),
            ),
            (
                json!({"apiVersion": 5}).to_string(),
                unread("json: cannot unmarshal number into Go struct field .apiVersion of type string"),
            ),
            (review("", ""), other("/, Kind=")),
            (review("", kind), other("/, Kind=AdmissionReview")),
            (review("admission.k8s.io/v1", ""), other("admission.k8s.io/v1, Kind=")),
            (review("v1", ""), unknown(kind, "v1")),
            (review("admission.k8s.io/v2", kind), unknown(kind, "admission.k8s.io/v2")),
            (review("admission.k8s.io/v1", "Pod"), unknown("Pod", "admission.k8s.io/v1")),
            (
                review("admission.k8s.io/v1beta1", kind),
                "failed to call webhook: converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion"
                    .to_owned(),
            ),
            (
                review("v1", "Status"),
                "failed to call webhook: converting (v1.Status) to (v1.AdmissionReview): unknown conversion".to_owned(),
            ),
            (
                review("a/b/c", kind),
                "failed to call webhook: unexpected GroupVersion string: a/b/c".to_owned(),
            ),
        ] {
            let told = read(body.as_bytes(), "u1", "v1", true).expect_err("refused");
            assert_eq!(told, want, "{body}");
        }
        let yaml =
            "apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\nresponse: {uid: u1, allowed: true}\n";
        assert!(read(yaml.as_bytes(), "u1", "v1", true).is_ok_and(|answer| answer.refused.is_none()));
    }

    #[test]
    fn lies_are_told() {
        for (response, why) in [
            (json!({}), "expected response.uid=\"u1\", got \"\""),
            (
                json!({"uid": "u2", "allowed": true}),
                "expected response.uid=\"u1\", got \"u2\"",
            ),
            (Value::Null, "webhook response was absent"),
            (
                json!({"uid": "u1", "patch": "W10="}),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u1", "patchType": "JSONPatch"}),
                "webhook returned response.patchType but not response.patch",
            ),
            (
                json!({"uid": "u1", "patch": "", "patchType": ""}),
                "webhook returned response.patchType but not response.patch",
            ),
            (
                json!({"uid": "u1", "patch": "W10=", "patchType": ""}),
                "webhook returned invalid response.patchType of \"\"",
            ),
        ] {
            let told = answered(response).expect_err("refused");
            assert_eq!(told, format!("received invalid webhook response: {why}"));
        }
        let told = answered(json!({"uid": "u1", "allowed": "yes"})).expect_err("refused");
        assert!(
            told.starts_with("failed to call webhook: json: cannot unmarshal string"),
            "{told}"
        );
    }

    #[test]
    fn who_judges_changes_nothing() {
        let answer = |version: &str, response: Value| {
            let body = json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
                "response": response});
            read(body.to_string().as_bytes(), "u1", version, false).map(drop)
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
        assert_eq!(
            answer("v1beta1", json!({"uid": "another"})),
            Ok(()),
            "nobody verified it"
        );
    }

    #[test]
    fn a_patch_without_operations_is_none_even_of_a_deletion() {
        let review = review("configmaps", Action::Delete { old: &Value::Null });
        let told = |patch: &str| {
            let response = json!({"uid": "u1", "allowed": true, "patch": STANDARD.encode(patch), "patchType": "JSONPatch"});
            patched(
                &review,
                (review.kind, "w"),
                &answered(response).expect("readable"),
                &Value::Null,
            )
        };
        for patch in ["[]", "null", " [ ] "] {
            assert!(told(patch).is_ok_and(|patched| patched.is_none()), "{patch}");
        }
        let Err(Fault::Final(Denial::Failed(why))) = told("[{}]") else {
            panic!("it is refused");
        };
        let want = "admission webhook \"w\" attempted to modify the object, which is not supported for this operation";
        assert_eq!(why, want);
    }

    #[test]
    fn a_no_has_a_code_of_an_error() {
        for (code, want) in [(200, 400), (-1, 400), (418, 418), (799, 799), (1000, 500)] {
            let status = json!({"code": code, "message": "m"});
            let answer = answered(json!({"uid": "u1", "allowed": false, "status": status}));
            let refused = answer.expect("readable").refused.expect("a no");
            assert_eq!((refused.code, refused.message.as_str()), (want, "m"));
        }
        let status =
            json!({"code": 418, "reason": "Teapot", "details": {"causes": [{"field": "f", "x": 1}]}});
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
        let with = |patch: &str, patch_type: &str| {
            let answer = Answer {
                patch: patch.as_bytes().to_vec(),
                patch_type: patch_type.to_owned(),
                ..Answer::default()
            };
            patched(&review, (review.kind, "w"), &answer, &object)
        };
        let added = with(r#"[{"op": "add", "path": "/data/b", "value": "2"}]"#, PATCH);
        let added = added.expect("applied").expect("patched").object;
        assert_eq!(added["data"], json!({"a": "1", "b": "2"}));
        let undecodable = "received undecodable patch in webhook response: ";
        for (patch, ty, want) in [
            (
                r#"[{"op": "replace", "path": "/metadata/name", "value": "other"}]"#,
                PATCH,
                "its patch changes metadata.name, which a webhook may not",
            ),
            ("[{}]", "Other", "unsupported patch type \"Other\""),
            (
                r#"{"no": "list"}"#,
                PATCH,
                "json: cannot unmarshal object into Go value of type jsonpatch.Patch",
            ),
            (
                "[1]",
                PATCH,
                "json: cannot unmarshal number into Go value of type jsonpatch.Operation",
            ),
            (
                "nope",
                PATCH,
                "invalid character 'o' in literal null (expecting 'u')",
            ),
        ] {
            let Err(Fault::Webhook(why)) = with(patch, ty) else {
                panic!("{patch} is the webhook's fault");
            };
            assert_eq!(why.strip_prefix(undecodable).unwrap_or(&why), want);
        }
        for (patch, want) in [
            (
                r#"[{"op": "replace", "path": "/nowhere/at/all", "value": 1}]"#,
                r#"there is nothing at "/nowhere/at/all""#,
            ),
            (
                r#"[{"op": "replace", "path": "/data", "value": 7}]"#,
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type map[string]string",
            ),
        ] {
            let Err(Fault::Final(Denial::Failed(why))) = with(patch, PATCH) else {
                panic!("{patch} cannot be applied");
            };
            assert_eq!(why, want);
        }
    }
}

//! What a webhook's answer means: read as upstream's client reads it, and verified as its `VerifyAdmissionResponse` does.
use crate::api;
use crate::kinds::reviews;
use crate::kinds::view::View;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

const KIND: &str = "AdmissionReview";
const GROUP: &str = "admission.k8s.io";
pub(super) const PATCH: &str = "JSONPatch";
/// What knows the kinds that may be answered with, in upstream's words.
const SCHEME: &str = "k8s.io/apiserver/pkg/util/webhook/client.go:71";

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub refused: Option<Refused>,
    pub warnings: Vec<String>,
    pub audit: Vec<(String, String)>,
    /// As it came; empty where there is none.
    pub patch: Vec<u8>,
    pub patch_type: String,
}

/// Why it said no.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<Value>,
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

#[cfg(test)]
mod tests {
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
}

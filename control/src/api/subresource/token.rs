//! `serviceaccounts/token`: a new token of the account, bound to what the request names (TokenRequest API).
use super::super::posted::Form;
use super::super::render::{self, Style};
use super::super::status::{ApiError, Result};
use super::super::write;
use super::super::{Call, manage, permit};
use crate::admission::{Claims as Changes, Notes};
use crate::auth::restrict::Operation;
use crate::auth::tokens::{Bound, Claims, ISSUER, Reference};
use crate::kinds::{FieldError, posted, time};
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// Under what the audit log tells which token was given (upstream's `IssuedCredentialIDAuditAnnotationKey`).
const ISSUED: &str = "authentication.kubernetes.io/issued-credential-id";
const FORM: Form = Form {
    kind: &posted::TOKEN_REQUEST,
    versions: &["authentication.k8s.io/v1"],
    hub: "authentication.TokenRequest",
};
/// Seconds that a token lives at least and at most.
const LEAST: i64 = 600;
const MOST: i64 = 1 << 32;
/// What the ServiceAccount admission asks for: such tokens live on for a year, with a warning time, for clients that
/// read their token only once (upstream's `--service-account-extend-token-expiration`).
const RENEWED: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;

pub(super) async fn serve(call: &Call, name: &str, style: Style) -> Result<Response> {
    let dry_run = write::Options::of(&call.query, "CreateOptions")?.dry_run;
    let (mut request, warnings) = FORM.read(call)?;
    write::place(call, &mut request)?;
    manage::note_posted(call, FORM.kind, &mut request);
    let mut notes = Notes {
        warnings,
        ..Notes::default()
    };
    let issued = issue(call, name, dry_run, request, &mut notes).await;
    let issued = issued.map_err(|error| error.after(notes.warnings.clone()))?;
    let response = render::respond(style.accepted.format, StatusCode::CREATED, &issued)?;
    Ok(render::warn(response, notes.warnings))
}

/// The request with its token, if admission lets it have one.
async fn issue(call: &Call, name: &str, dry_run: bool, request: Value, notes: &mut Notes) -> Result<Value> {
    let review = write::review(call, dry_run, name, FORM.action());
    let mut request = FORM.mutated(call, &review, request, notes).await?;
    let account = call
        .api
        .read(&call.target, name)
        .await?
        .value()
        .map_err(ApiError::internal)?;
    complete(&mut request, &account)?;
    permit::write(call, Operation::Create, name, &Value::Null, &request)?;
    write::judge(call, &review, &request, &mut Changes::default(), notes).await?;
    let now = Timestamp::now();
    let claims = claims(call, name, &account, &request["spec"], now)?;
    // Nothing is stored by it, so that a rehearsal gives one too.
    let token = call
        .api
        .bearers
        .issuer()
        .sign(&claims.show())
        .map_err(ApiError::internal)?;
    let issued = (ISSUED.to_owned(), format!("JTI={}", claims.id));
    call.told.add([issued]);
    let said = life(&request["spec"]["expirationSeconds"])?;
    let expires = (now + SignedDuration::from_secs(said)).strftime("%Y-%m-%dT%H:%M:%SZ");
    request["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
    Ok(request)
}

/// Fills in what the request leaves out, and refuses what contradicts the account.
fn complete(request: &mut Value, account: &Value) -> Result<()> {
    for key in ["name", "namespace"] {
        let (said, is) = (
            request["metadata"][key].as_str().unwrap_or_default(),
            &account["metadata"][key],
        );
        if !said.is_empty() && said != is {
            let why = format!("must match the service account {key} if specified");
            let error = FieldError::invalid(format!("metadata.{key}"), said, why);
            let name = account["metadata"]["name"].as_str().unwrap_or_default();
            return Err(ApiError::invalid(KIND, GROUP, name, &vec![error]));
        }
    }
    let said = request["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let is = Reference::of(account);
    if !said.is_empty() && said != is.uid {
        let why = format!(
            "the UID in the token request ({said}) does not match the UID of the service account ({})",
            is.uid
        );
        return Err(ApiError::conflict_on(
            "TokenRequest.authentication.k8s.io",
            &is.name,
            &why,
        ));
    }
    for key in ["name", "namespace", "uid"] {
        request["metadata"][key] = account["metadata"][key].clone();
    }
    request["metadata"]["creationTimestamp"] = time::now().into();
    request["status"] = json!({});
    let audiences = &mut request["spec"]["audiences"];
    if audiences.as_array().is_none_or(Vec::is_empty) {
        *audiences = json!([ISSUER]);
    }
    FORM.kind.normalise(request);
    life(&request["spec"]["expirationSeconds"]).map(drop)
}

/// The seconds that a token is to live.
fn life(seconds: &Value) -> Result<i64> {
    let why = match seconds.as_i64() {
        Some(seconds @ LEAST..=MOST) => return Ok(seconds),
        Some(seconds) if seconds > MOST => "may not specify a duration larger than 2^32 seconds",
        _ => "may not specify a duration less than 10 minutes",
    };
    let error = FieldError::invalid("spec.expirationSeconds", seconds.clone(), why);
    Err(ApiError::invalid(KIND, GROUP, "", &vec![error]))
}

fn claims(call: &Call, name: &str, account: &Value, spec: &Value, now: Timestamp) -> Result<Claims> {
    let audiences = spec["audiences"].as_array().into_iter().flatten();
    let audiences: Vec<String> = audiences.filter_map(|a| a.as_str().map(str::to_owned)).collect();
    let bound = bound(call, name, &spec["boundObjectRef"])?;
    let seconds = life(&spec["expirationSeconds"])?;
    let extended =
        seconds == RENEWED && matches!(bound, Bound::Pod { .. }) && audiences.iter().all(|a| a == ISSUER);
    let after = |seconds: i64| now + SignedDuration::from_secs(seconds);
    Ok(Claims {
        issuer: ISSUER.to_owned(),
        audiences,
        namespace: call.target.namespace.clone().unwrap_or_default(),
        account: Reference::of(account),
        bound,
        id: uuid::Uuid::new_v4().to_string(),
        issued: now,
        expires: after(if extended { EXTENDED } else { seconds }),
        warn_after: extended.then(|| after(seconds)),
    })
}

/// The object that the token is to end with.
fn bound(call: &Call, account: &str, reference: &Value) -> Result<Bound> {
    if !reference.is_object() {
        return Ok(Bound::Nothing);
    }
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let reader = &call.api.reader;
    let namespace = call.target.namespace.as_deref();
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let find = |plural: &'static str, namespace: Option<&str>| {
        let found = reader.get(("", plural), namespace, name);
        let object = found.ok_or_else(|| ApiError::missing("", plural, name))?;
        let (is, said) = (Reference::of(&object), text("uid"));
        if !said.is_empty() && said != is.uid {
            let why = format!(
                "the UID in the bound object reference ({said}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict_on(kind, name, &why));
        }
        Ok((is, object))
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    match (group, kind) {
        ("", "Pod") => {
            let (pod, object) = find("pods", namespace)?;
            if object["spec"]["serviceAccountName"] != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = object["spec"]["nodeName"]
                .as_str()
                .filter(|node| !node.is_empty());
            let node = node.map(|node| match reader.get(("", "nodes"), None, node) {
                Some(object) => Reference::of(&object),
                None => Reference::new(node, ""),
            });
            Ok(Bound::Pod { pod, node })
        }
        ("", "Secret") => Ok(Bound::Secret(find("secrets", namespace)?.0)),
        ("", "Node") => Ok(Bound::Node(find("nodes", None)?.0)),
        _ => Err(ApiError::bad_request(format!(
            "cannot bind token to object of type {group}/{version}, Kind={kind}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Value {
        json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}})
    }

    #[test]
    fn defaults() {
        let (mut request, _) = FORM.decode(json!({})).unwrap();
        complete(&mut request, &account()).unwrap();
        assert_eq!(
            request["spec"],
            json!({"audiences": [ISSUER], "expirationSeconds": 3600, "boundObjectRef": null})
        );
        let meta = &request["metadata"];
        assert_eq!([&meta["name"], &meta["namespace"], &meta["uid"]], ["a", "n", "u"]);
    }

    #[test]
    fn bodies_of_other_kinds_are_refused() {
        for (body, fine) in [
            (json!({}), true),
            (
                json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}),
                true,
            ),
            (json!({"kind": "Foo"}), false),
            (json!({"kind": "TokenRequest", "apiVersion": "v1"}), false),
        ] {
            assert_eq!(FORM.decode(body.clone()).is_ok(), fine, "{body}");
        }
        assert_eq!(
            FORM.decode(json!({"kind": "Foo"})).unwrap_err().message(),
            "Foo in version \"v1\" cannot be handled as a TokenRequest: no kind \"Foo\" is registered for version \
             \"authentication.k8s.io/v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        );
    }

    #[test]
    fn too_short_lives_and_other_accounts_are_refused() {
        let code = |mut request: Value| complete(&mut request, &account()).unwrap_err();
        let short = code(json!({"spec": {"expirationSeconds": 10}}));
        assert_eq!(
            short.message(),
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not \
             specify a duration less than 10 minutes"
        );
        assert_eq!(code(json!({"metadata": {"name": "b"}})).code, 422);
        assert_eq!(code(json!({"metadata": {"uid": "v"}})).code, 409);
    }
}

//! `metav1.DeleteOptions`: what a deletion is asked to be, from its query and its body.
use crate::api::Call;
use crate::api::decode;
use crate::api::negotiate;
use crate::api::posted;
use crate::api::query::Query;
use crate::api::status::{ApiError, Result};
use crate::kinds::FieldError;
use crate::kinds::view::View;
use serde_json::{Value, json};

/// The version of a body that says none, and what knows the kinds of options, in words.
const META: &str = "meta.k8s.io/v1";
const SCHEME: &str = "pkg/apis/meta/internalversion/scheme/register.go:27";

/// Its schema.
const DEFINITION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Who deletes the dependents, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagation {
    Foreground,
    Background,
    Orphan,
}

/// `metav1.DeleteOptions`, from query and body.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) grace: Option<i64>,
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
    pub(super) propagation: Option<Propagation>,
    pub(super) dry_run: bool,
    /// The options as they came, for those who are asked.
    pub(super) said: Value,
}

/// From the body; from the query when there is none.
pub(super) fn options(call: &Call) -> Result<Options> {
    if call.body.is_empty() {
        return from_query(&call.query);
    }
    let mut options = Options::default();
    let format = negotiate::body(&call.headers)?;
    if call.body.trim_ascii() == b"null" {
        return Ok(options);
    }
    let mut body = decode::options("DeleteOptions", format, &call.body)?.value;
    check_kind(&body)?;
    decode_body(&mut body)?;
    read_body(&body, &mut options)?;
    options.said = body;
    Ok(options)
}

/// Only the kind counts: clients send it in the version of whatever they delete. Somebody else's body is a mistake that
/// must not cost an object.
fn check_kind(body: &Value) -> Result<()> {
    let version = match body.text("apiVersion") {
        "" => META,
        version => version,
    };
    match body.text("kind") {
        "" | "DeleteOptions" => Ok(()),
        kind => Err(ApiError::bad_request(posted::unregistered(kind, version, SCHEME))),
    }
}

/// Fields must be of the types that they have; those that are unknown are passed over, as upstream does.
fn decode_body(body: &mut Value) -> Result<()> {
    posted::as_defined(DEFINITION, body)
        .map(drop)
        .map_err(ApiError::bad_request)
}

fn from_query(query: &Query) -> Result<Options> {
    let policy = query.get("propagationPolicy");
    let propagation = policy.map(propagation).transpose()?;
    let orphans = query.tristate("orphanDependents").map(orphans);
    if let (Some(policy), Some(_)) = (policy, orphans) {
        return Err(said_twice(policy));
    }
    let options = Options {
        grace: query.number("gracePeriodSeconds")?,
        uid: query.get("uid").map(str::to_owned),
        version: query.get("resourceVersion").map(str::to_owned),
        propagation: propagation.or(orphans),
        dry_run: query.dry_run("DeleteOptions")?,
        said: Value::Null,
    };
    Ok(Options {
        said: said(query, &options),
        ..options
    })
}

/// What a query asks for, as a body would.
fn said(query: &Query, options: &Options) -> Value {
    let mut said = json!({});
    let mut note = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            said[key] = value;
        }
    };
    note("gracePeriodSeconds", options.grace.map(Value::from));
    note(
        "propagationPolicy",
        query.get("propagationPolicy").map(Value::from),
    );
    note(
        "orphanDependents",
        query.tristate("orphanDependents").map(Value::from),
    );
    let mut conditions = json!({});
    for (key, value) in [("uid", &options.uid), ("resourceVersion", &options.version)] {
        if let Some(value) = value {
            conditions[key] = value.as_str().into();
        }
    }
    let conditional = options.uid.is_some() || options.version.is_some();
    note("preconditions", conditional.then_some(conditions));
    said
}

pub(super) fn read_body(body: &Value, options: &mut Options) -> Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    options.grace = body["gracePeriodSeconds"].as_i64().or(options.grace);
    options.uid = text(&body["preconditions"]["uid"]).or(options.uid.take());
    options.version = text(&body["preconditions"]["resourceVersion"]).or(options.version.take());
    if let (Some(policy), Some(_)) = (
        body["propagationPolicy"].as_str(),
        body["orphanDependents"].as_bool(),
    ) {
        return Err(said_twice(policy));
    }
    if let Some(policy) = body["propagationPolicy"].as_str() {
        options.propagation = Some(propagation(policy)?);
    } else if let Some(orphan) = body["orphanDependents"].as_bool() {
        options.propagation = Some(orphans(orphan));
    }
    match &body["dryRun"] {
        Value::Array(list) if list.iter().all(|v| v == "All") => options.dry_run |= !list.is_empty(),
        Value::Null => {}
        other => {
            return Err(invalid(FieldError::not_supported(
                "dryRun",
                other.clone(),
                &["All"],
            )));
        }
    }
    Ok(())
}

fn said_twice(policy: &str) -> ApiError {
    let why = "orphanDependents and deletionPropagation cannot be both set";
    invalid(FieldError::invalid("propagationPolicy", policy, why))
}

fn orphans(orphan: bool) -> Propagation {
    if orphan {
        Propagation::Orphan
    } else {
        Propagation::Background
    }
}

pub(super) fn propagation(text: &str) -> Result<Propagation> {
    match text {
        "Foreground" => Ok(Propagation::Foreground),
        "Background" => Ok(Propagation::Background),
        "Orphan" => Ok(Propagation::Orphan),
        other => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            Err(invalid(FieldError::not_supported(
                "propagationPolicy",
                other,
                &supported,
            )))
        }
    }
}

fn invalid(error: FieldError) -> ApiError {
    ApiError::invalid_options("DeleteOptions", &vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_another_type_is_refused() {
        for (body, why) in [
            (json!({"gracePeriodSeconds": 5, "unknown": 1}), ""),
            (
                json!({"gracePeriodSeconds": "x"}),
                "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
            ),
            (
                json!({"preconditions": {"uid": 7}}),
                "json: cannot unmarshal number into Go struct field Preconditions.preconditions.uid of type types.UID",
            ),
            (
                json!({"dryRun": "All"}),
                "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string",
            ),
        ] {
            let mut decoded = body.clone();
            let said = decode_body(&mut decoded)
                .err()
                .map(|error| error.message().to_owned());
            assert_eq!(said.unwrap_or_default(), why, "{body}");
        }
    }

    #[test]
    fn a_query_has_preconditions_too() {
        let query = Query::of(&"/x?uid=u&resourceVersion=7".parse().unwrap()).unwrap();
        let options = from_query(&query).unwrap();
        assert_eq!(
            (options.uid.as_deref(), options.version.as_deref()),
            (Some("u"), Some("7"))
        );
        assert_eq!(
            options.said,
            json!({"preconditions": {"uid": "u", "resourceVersion": "7"}})
        );
    }

    #[test]
    fn no_body_but_options_deletes() {
        for (body, fits) in [
            (json!({}), true),
            (json!({"gracePeriodSeconds": 0}), true),
            (json!({"kind": "DeleteOptions", "apiVersion": "v1"}), true),
            (json!({"kind": "DeleteOptions", "apiVersion": "foo/v1"}), true),
            (json!({"apiVersion": "apps/v1"}), true),
            (json!({"kind": "ConfigMap", "apiVersion": "v1"}), false),
            (json!({"kind": "ConfigMap"}), false),
        ] {
            assert_eq!(check_kind(&body).is_ok(), fits, "{body}");
        }
        let refused = check_kind(&json!({"kind": "Pod", "apiVersion": "v1"})).expect_err("another kind");
        assert_eq!(refused.code, 400);
        assert_eq!(
            refused.message(),
            "no kind \"Pod\" is registered for version \"v1\" in scheme \"pkg/apis/meta/internalversion/scheme/register.go:27\""
        );
    }
}

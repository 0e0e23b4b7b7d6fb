//! May the user do what the request asks for: from a request to upstream's attributes, and from a refusal to its
//! `Status`.
use super::query::Query;
use super::route::Target;
use super::selectors::FieldSelector;
use super::status::{ApiError, Result};
use super::{Api, Call};
use crate::audit::Told;
use crate::auth::attributes::{Attributes, Resource, What, refusal};
use crate::auth::restrict::{self, Operation, Refused, Write};
use crate::auth::{Authorizer, Identity, Verdict};
use http::request::Parts;
use serde_json::Value;

/// A request to a resource. What is decided is told, where this is the request itself and not a part of it.
pub fn resource(
    api: &Api,
    who: &Identity,
    verb: &str,
    (target, query): (&Target, &Query),
    told: Option<&Told>,
) -> Result<()> {
    let selected = selected(verb, target, query)?;
    let name = target.name.as_deref().or(selected.exact("metadata.name"));
    let what = Resource {
        name,
        on_node: selected.exact("spec.nodeName"),
        ..attributes(target)
    };
    let what = Attributes::resource(verb, what);
    match told {
        Some(told) => decide(api, who, &what, told),
        None => demand(&api.authorizer, who, &what),
    }
}

/// What a request is about, as far as its path tells.
pub fn attributes(target: &Target) -> Resource<'_> {
    Resource {
        group: &target.kind.group,
        resource: &target.kind.plural,
        subresource: target.subresource.as_deref(),
        namespace: namespace(target),
        name: target.name.as_deref(),
        on_node: None,
    }
}

/// A namespace is in itself.
fn namespace(target: &Target) -> Option<&str> {
    match (target.kind.group.as_str(), target.kind.plural.as_str()) {
        ("", "namespaces") => target.name.as_deref(),
        _ => target.namespace.as_deref(),
    }
}

/// What a request for a collection limits itself to.
fn selected(verb: &str, target: &Target, query: &Query) -> Result<FieldSelector> {
    match (verb, &target.name) {
        ("list" | "watch" | "deletecollection", None) => {
            FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
        }
        _ => Ok(FieldSelector::default()),
    }
}

/// A request to a path that is no resource.
pub fn path(api: &Api, who: &Identity, parts: &Parts, told: &Told) -> Result<()> {
    let verb = parts.method.as_str().to_ascii_lowercase();
    decide(api, who, &Attributes::path(&verb, parts.uri.path()), told)
}

/// As [`demand`] of a request itself: its audit event says what was decided and why.
pub fn decide(api: &Api, who: &Identity, what: &Attributes<'_>, told: &Told) -> Result<()> {
    let verdict = api.authorizer.authorize(who, what);
    api.metrics.access.decided(&verdict);
    match verdict {
        Verdict::Allowed { reason } => {
            told.decided(true, reason);
            Ok(())
        }
        Verdict::Refused { reason, .. } => {
            let error = forbidden(who, what, &reason);
            told.decided(false, reason);
            Err(error)
        }
    }
}

/// Fails with 403 unless the user may.
pub fn demand(authorizer: &Authorizer, who: &Identity, what: &Attributes<'_>) -> Result<()> {
    match authorizer.authorize(who, what) {
        Verdict::Refused { reason, .. } => Err(forbidden(who, what, &reason)),
        Verdict::Allowed { .. } => Ok(()),
    }
}

/// The refusal, with a reason or none.
pub fn forbidden(who: &Identity, what: &Attributes<'_>, reason: &str) -> ApiError {
    let mut why = refusal(&who.user, what);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    match &what.what {
        What::Path(_) => ApiError::forbidden_path(&why),
        What::Resource(resource) => ApiError::forbidden(
            resource.group,
            resource.resource,
            resource.name.unwrap_or_default(),
            &why,
        ),
    }
}

/// Writes into a new CertificateSigningRequest who asks.
pub fn sign(call: &Call, object: &mut Value) {
    let kind = &call.target.kind;
    let is_request = kind.group == "certificates.k8s.io" && kind.plural == "certificatesigningrequests";
    if !is_request {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for key in ["username", "uid", "groups", "extra"] {
        spec.remove(key);
    }
    if let Value::Object(who) = call.who.user_info() {
        spec.extend(who);
    }
}

/// Fails when the user may write the object, but not this into it.
pub fn write(call: &Call, operation: Operation, name: &str, old: &Value, new: &Value) -> Result<()> {
    let kind = &call.target.kind;
    // An update that creates what is not there needs the right to create as well.
    if operation == Operation::Create && call.target.name.is_some() && call.target.subresource.is_none() {
        let query = Query::default();
        resource(&call.api, &call.who, "create", (&call.target, &query), None)?;
    }
    let write = Write {
        who: &call.who,
        operation,
        group: &kind.group,
        resource: &kind.plural,
        subresource: call.target.subresource.as_deref(),
        namespace: call.target.namespace.as_deref(),
        name,
        old,
        new,
    };
    let judged = restrict::check(&call.api.authorizer, call.api.reader.as_ref(), &write);
    judged.map_err(|refused| match refused {
        Refused::Forbidden(why) => ApiError::forbidden(&kind.group, &kind.plural, name, &why),
        Refused::NoRole(plural, role) => ApiError::missing(crate::auth::rbac::GROUP, plural, &role),
        Refused::NotFound(plural, name) => ApiError::missing("", plural, &name),
    })
}

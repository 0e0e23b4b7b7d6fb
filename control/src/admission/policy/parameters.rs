//! The parameters that a binding names, in the version that its policy names.
use super::super::{Objects, Review};
use super::matching;
use crate::callout;
use crate::kinds::view::View;
use crate::kinds::{Kind, Registry};
use serde_json::Value;
use std::sync::Arc;

/// Parameters that one binding may select; each is an evaluation.
const PARAMETERS: usize = 1000;
const NONE_FOUND: &str = "no params found for policy binding with `Deny` parameterNotFoundAction";

/// What cannot be put to work.
pub(super) enum Misfit {
    Policy(String),
    Binding(String),
}

impl Misfit {
    /// The refusal in upstream's words; `alone` and `bound` are what the policy is called without and with its binding.
    pub fn told(&self, alone: &str, bound: &str) -> String {
        match self {
            Misfit::Policy(why) => format!("{alone} denied request: failed to configure policy: {why}"),
            Misfit::Binding(why) => format!("{bound} denied request: failed to configure binding: {why}"),
        }
    }
}

/// The kind of a policy's parameters; none of a policy without. What nobody serves is amiss whatever bindings say.
pub(super) fn kind_of(kinds: &Registry, policy: &Value) -> Result<Option<Arc<Kind>>, Misfit> {
    let kind = policy.at("spec.paramKind");
    if kind.is_null() {
        return Ok(None);
    }
    let (version, name) = (kind.text("apiVersion"), kind.text("kind"));
    let served = kinds.object(version, name).cloned().map(Some);
    served.ok_or_else(|| {
        // The oldest group has no name.
        let slash = if version.contains('/') { "" } else { "/" };
        Misfit::Policy(format!(
            "failed to find resource referenced by paramKind: '{slash}{version}, Kind={name}'"
        ))
    })
}

/// The parameters of this kind that a binding names: one that is nothing where there is no kind, or nothing is named.
pub(super) async fn of(
    objects: &dyn Objects,
    review: &Review<'_>,
    kind: Option<&Kind>,
    binding: &Value,
) -> Result<Vec<Option<Arc<Value>>>, Misfit> {
    let reference = binding.at("spec.paramRef");
    let Some(kind) = kind.filter(|_| !reference.is_null()) else {
        return Ok(vec![None]);
    };
    let found = named(objects, kind, namespace(review, kind, reference), reference).await;
    let found = found.map_err(Misfit::Binding)?;
    match (found.is_empty(), reference.text("parameterNotFoundAction")) {
        (true, "Deny") => Err(Misfit::Binding(NONE_FOUND.to_owned())),
        (true, _) => Ok(Vec::new()),
        (false, _) => Ok(found.into_iter().map(Some).collect()),
    }
}

/// Where parameters of the kind are looked for.
fn namespace<'r>(review: &Review<'r>, kind: &Kind, reference: &'r Value) -> Result<Option<&'r str>, String> {
    match (kind.namespaced, reference.text("namespace"), review.about()) {
        (false, "", _) => Ok(None),
        (false, ..) => {
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned())
        }
        (true, "", None) => Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned(),
        ),
        (true, "", own) => Ok(own),
        (true, named, _) => Ok(Some(named)),
    }
}

async fn named(
    objects: &dyn Objects,
    kind: &Kind,
    namespace: Result<Option<&str>, String>,
    reference: &Value,
) -> Result<Vec<Arc<Value>>, String> {
    let namespace = namespace?;
    let resource = (kind.group.as_str(), kind.version.as_str(), kind.plural.as_str());
    let name = Some(reference.text("name")).filter(|name| !name.is_empty());
    let meant = |found: &Arc<Value>| {
        name.is_some() || matching::selects(reference.at("selector"), found.at("metadata.labels"))
    };
    let Some(converter) = kind.converter() else {
        let found: Vec<Arc<Value>> = match name {
            Some(name) => objects.get(resource, namespace, name).into_iter().collect(),
            None => objects.list(resource, namespace),
        };
        return Ok(found.into_iter().filter(meant).take(PARAMETERS).collect());
    };
    // Labels are a converter's to change, but who selects by them selects what is stored.
    let stored = objects.stored(resource, namespace, name).into_iter();
    let mut found: Vec<Value> = stored
        .filter(meant)
        .take(PARAMETERS)
        .map(Arc::unwrap_or_clone)
        .collect();
    let wanted = kind.api_version();
    let foreign: Vec<&mut Value> = found.iter_mut().filter(|o| o["apiVersion"] != *wanted).collect();
    let asked = foreign.iter().map(|object| (**object).clone()).collect();
    let converted = callout::convert(objects, converter, kind, asked, false).await?;
    for (place, object) in foreign.into_iter().zip(converted) {
        *place = object;
    }
    found.iter_mut().for_each(|object| kind.normalise(object));
    Ok(found.into_iter().map(Arc::new).collect())
}

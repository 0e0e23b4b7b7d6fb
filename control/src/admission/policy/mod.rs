//! ValidatingAdmissionPolicy (KEP-3488): expressions that judge requests, put to work by bindings.
//!
//! Flow: every binding → its policy, compiled once per version → does it concern this request → with each parameter →
//! match conditions → validations → deny, warn or audit. Owns that order and upstream's words; what an expression means
//! is `cel`'s.
mod evaluate;
mod matching;

use super::{Action, Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::Registry;
use crate::kinds::policy::Policy;
use crate::kinds::view::View;
use matching::Request;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicies");
const BINDINGS: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicybindings");
const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");
/// Parameters that one binding may select; each is an evaluation.
const PARAMETERS: usize = 1000;
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Compiled policies, by uid; one version of each.
#[derive(Default)]
pub(super) struct Policies(Mutex<HashMap<String, (String, Arc<Policy>)>>);

/// A validation that did not hold, or could not be run.
struct Violation {
    message: String,
    /// `Status.reason`; empty for the usual one.
    reason: String,
    /// Which of the policy's validations it is.
    index: usize,
}

impl Policies {
    /// Judges a request. `object` is null for deletions.
    pub(super) fn check(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        // Whoever writes policies must be able to undo them.
        if review.kind.group == GROUP {
            return Ok(());
        }
        for binding in objects.list(BINDINGS, None) {
            let Some(policy) = objects.get(POLICIES, None, binding.text("spec.policyName")) else {
                continue;
            };
            self.bound(objects, review, object, (&policy, &binding), notes)?;
        }
        Ok(())
    }

    fn bound(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &Value,
        (policy, binding): (&Value, &Value),
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let old = match review.action {
            Action::Create => &Value::Null,
            Action::Update { old } | Action::Delete { old } => old,
        };
        let namespace = review
            .namespace
            .and_then(|name| objects.get(NAMESPACES, None, name));
        let namespace = match review.resource() {
            ("", "namespaces", _) if object.is_null() => Some(old.clone()),
            ("", "namespaces", _) => Some(object.clone()),
            _ => namespace,
        };
        let request = Request {
            review,
            object,
            old,
            namespace: namespace.as_ref(),
        };
        let constraints = policy.at("spec.matchConstraints");
        let narrowed = binding.at("spec.matchResources");
        if !request.matches(constraints) || !(narrowed.is_null() || request.matches(narrowed)) {
            return Ok(());
        }
        let compiled = self.compiled(policy);
        let fails = policy.text("spec.failurePolicy") != "Ignore";
        let parameters = match parameters(objects, review, policy, binding) {
            Ok(parameters) => parameters,
            Err(_) if !fails => return Ok(()),
            Err(why) => {
                let violation = Violation {
                    message: why,
                    reason: String::new(),
                    index: 0,
                };
                return tell(policy, binding, &[violation], notes);
            }
        };
        let facts = evaluate::Facts::of(&request);
        for parameter in &parameters {
            let outcome = compiled.run(&facts, &request, parameter.as_ref(), fails);
            for (key, value) in outcome.annotations {
                notes
                    .audit
                    .push((format!("{}/{key}", policy.text("metadata.name")), value));
            }
            tell(policy, binding, &outcome.violations, notes)?;
        }
        Ok(())
    }

    fn compiled(&self, policy: &Value) -> Arc<Policy> {
        let version = policy.text("metadata.resourceVersion").to_owned();
        let uid = policy.text("metadata.uid").to_owned();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, compiled)) = known.get(&uid).filter(|(v, _)| *v == version) {
            return compiled.clone();
        }
        let compiled = Arc::new(Policy::compile(policy.at("spec")));
        known.insert(uid, (version, compiled.clone()));
        compiled
    }
}

/// The parameters that a binding names; one that is nothing for a policy without.
fn parameters(
    objects: &dyn Objects,
    review: &Review<'_>,
    policy: &Value,
    binding: &Value,
) -> Result<Vec<Option<Value>>, String> {
    let (kind, reference) = (policy.at("spec.paramKind"), binding.at("spec.paramRef"));
    if kind.is_null() || reference.is_null() {
        return Ok(vec![None]);
    }
    let (version, name) = (kind.text("apiVersion"), kind.text("kind"));
    let served = Registry::builtin().object(version, name);
    let served = served.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{version}, Kind={name}'")
    })?;
    let resource = (
        served.group.as_str(),
        served.version.as_str(),
        served.plural.as_str(),
    );
    let namespace = match (served.namespaced, reference.text("namespace")) {
        (false, _) => None,
        (true, "") => review.namespace,
        (true, named) => Some(named),
    };
    let mut found: Vec<Value> = match reference.text("name") {
        "" => {
            let all = objects.list(resource, namespace).into_iter();
            all.filter(|p| matching::selects(reference.at("selector"), p.at("metadata.labels")))
                .collect()
        }
        name => objects.get(resource, namespace, name).into_iter().collect(),
    };
    found.truncate(PARAMETERS);
    match (found.is_empty(), reference.text("parameterNotFoundAction")) {
        (true, "Deny") => {
            let why = "failed to configure binding: no params found for policy binding with `Deny` \
                       parameterNotFoundAction";
            Err(why.to_owned())
        }
        (true, _) => Ok(Vec::new()),
        (false, _) => Ok(found.into_iter().map(Some).collect()),
    }
}

/// Does with the violations what the binding wants done.
fn tell(policy: &Value, binding: &Value, violations: &[Violation], notes: &mut Notes) -> Result<(), Denial> {
    let Some(first) = violations.first() else {
        return Ok(());
    };
    let (policy, name) = (policy.text("metadata.name"), binding.text("metadata.name"));
    let actions: Vec<&str> = binding
        .list("spec.validationActions")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if actions.contains(&"Warn") {
        notes.warnings.extend(violations.iter().map(|violation| {
            let message = &violation.message;
            format!(
                "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"
            )
        }));
    }
    if actions.contains(&"Audit") {
        let all: Vec<Value> = violations
            .iter()
            .map(|violation| {
                json!({"message": violation.message, "policy": policy, "binding": name,
                    "expressionIndex": violation.index.to_string(), "validationActions": actions})
            })
            .collect();
        notes.audit.push((FAILURES.to_owned(), json!(all).to_string()));
    }
    if !actions.contains(&"Deny") {
        return Ok(());
    }
    let message = &first.message;
    Err(Denial::Policy {
        message: format!(
            "ValidatingAdmissionPolicy '{policy}' with binding '{name}' denied request: {message}"
        ),
        reason: first.reason.clone(),
    })
}

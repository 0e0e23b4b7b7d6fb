//! ValidatingAdmissionPolicy (KEP-3488): expressions that judge requests, put to work by bindings; and, in `mutate`,
//! MutatingAdmissionPolicy.
//!
//! Flow: every binding → its policy, compiled once per version → does it concern this request → with each parameter →
//! match conditions → validations → deny, warn or audit. Owns that order and upstream's words; what an expression means
//! is `cel`'s.
mod evaluate;
mod matching;
mod mutate;

use super::expressions::{self, Rights, Seen};
use super::versions::PerVersion;
use super::{Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::policy::Policy;
use crate::kinds::view::View;
use matching::Request;
use serde_json::{Value, json};
use std::sync::Arc;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicies");
const BINDINGS: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicybindings");
const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");
/// Parameters that one binding may select; each is an evaluation.
const PARAMETERS: usize = 1000;
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Compiled policies.
#[derive(Default)]
pub(super) struct Policies(PerVersion<Policy>);

/// A validation that did not hold, or could not be run.
struct Violation {
    message: String,
    /// `Status.reason`; empty for the usual one.
    reason: String,
    /// Which of the policy's validations it is.
    index: usize,
}

/// A binding that takes a request, its policy and what that is told.
struct Invocation {
    policy: Arc<Value>,
    binding: Arc<Value>,
    /// The Namespace of the request; null without.
    namespace: Arc<Value>,
    parameters: Result<Vec<Option<Arc<Value>>>, String>,
}

impl Invocation {
    fn of(
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &Value,
        policies: ResourceName<'_>,
        binding: Arc<Value>,
    ) -> Option<Invocation> {
        let policy = objects.get(policies, None, binding.text("spec.policyName"))?;
        let old = review.action.old();
        let namespace = match review.resource() {
            ("", "namespaces", _) if object.is_null() => Some(Arc::new(old.clone())),
            ("", "namespaces", _) => Some(Arc::new(object.clone())),
            _ => review
                .namespace
                .and_then(|name| objects.get(NAMESPACES, None, name)),
        };
        let request = Request {
            review,
            object,
            old,
            namespace: namespace.as_deref(),
        };
        let narrowed = binding.at("spec.matchResources");
        let matches = request.matches(policy.at("spec.matchConstraints"))
            && (narrowed.is_null() || request.matches(narrowed));
        matches.then(|| Invocation {
            parameters: parameters(objects, review, &policy, &binding),
            namespace: namespace.unwrap_or_default(),
            policy,
            binding,
        })
    }

    fn fails(&self) -> bool {
        self.policy.text("spec.failurePolicy") != "Ignore"
    }
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
            if let Some(invocation) = Invocation::of(objects, review, object, POLICIES, binding) {
                self.judge(review, object, &invocation, notes)?;
            }
        }
        Ok(())
    }

    fn judge(
        &self,
        review: &Review<'_>,
        object: &Value,
        invocation: &Invocation,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let (policy, binding) = (&invocation.policy, &invocation.binding);
        let compiled = self.compiled(policy);
        let fails = invocation.fails();
        let parameters = match &invocation.parameters {
            Ok(parameters) => parameters,
            Err(_) if !fails => return Ok(()),
            Err(why) => {
                let violation = Violation {
                    message: why.clone(),
                    reason: String::new(),
                    index: 0,
                };
                return tell(policy, binding, &[violation], notes);
            }
        };
        let seen = Seen {
            request: &expressions::request(review, review.kind),
            object,
            old: review.action.old(),
            namespace: &invocation.namespace,
            rights: &Rights(review),
        };
        for parameter in parameters {
            let outcome = compiled.run(seen, parameter.as_deref(), fails);
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
        self.0.get(policy, || Policy::compile(policy.at("spec")))
    }
}

/// The parameters that a binding names; one that is nothing for a policy without.
fn parameters(
    objects: &dyn Objects,
    review: &Review<'_>,
    policy: &Value,
    binding: &Value,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let (kind, reference) = (policy.at("spec.paramKind"), binding.at("spec.paramRef"));
    if kind.is_null() || reference.is_null() {
        return Ok(vec![None]);
    }
    let (version, name) = (kind.text("apiVersion"), kind.text("kind"));
    let kinds = objects.kinds();
    let served = kinds.object(version, name);
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
    let mut found: Vec<Arc<Value>> = match reference.text("name") {
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

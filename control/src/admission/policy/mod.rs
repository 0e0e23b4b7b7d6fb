//! ValidatingAdmissionPolicy (KEP-3488): expressions that judge requests, put to work by bindings; and, in `mutate`,
//! MutatingAdmissionPolicy.
//!
//! Flow: every binding → its policy, compiled once per version → does it concern this request → with each parameter →
//! match conditions → validations → deny, warn or audit. Owns that order and upstream's words; what an expression means
//! is `cel`'s.
mod evaluate;
mod matching;
mod mutate;
mod parameters;

use super::equivalent::Match;
use super::expressions::{self, Rights, Seen};
use super::measures::{Amiss, Checks};
use super::shown::{Shown, Versions};
use super::versions::PerVersion;
use super::{Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::policy::Policy;
use crate::kinds::view::View;
use matching::Request;
use parameters::Misfit;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicies");
const BINDINGS: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicybindings");
const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// Whether any policy is put to work.
pub(super) fn any(objects: &dyn Objects) -> bool {
    [BINDINGS, mutate::BINDINGS]
        .into_iter()
        .any(|all| objects.any(all))
}

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
    /// What is counted of it.
    why: (Amiss, Duration),
}

/// A binding that takes a request, its policy and what that is told.
struct Invocation {
    policy: Arc<Value>,
    binding: Arc<Value>,
    /// The version that the policy knows.
    matched: Match,
    /// The Namespace of the request; null without.
    namespace: Arc<Value>,
    parameters: Result<Vec<Option<Arc<Value>>>, Misfit>,
}

impl Invocation {
    async fn of(
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
        let kinds = objects.kinds();
        let request = Request {
            kinds: &kinds,
            review,
            object,
            old,
            namespace: namespace.as_deref(),
        };
        let narrowed = binding.at("spec.matchResources");
        let matched = request.matches(policy.at("spec.matchConstraints"))?;
        if !narrowed.is_null() {
            request.matches(narrowed)?;
        }
        Some(Invocation {
            parameters: parameters::of(objects, review, &policy, &binding).await,
            namespace: namespace.unwrap_or_default(),
            policy,
            binding,
            matched,
        })
    }

    fn fails(&self) -> bool {
        self.policy.text("spec.failurePolicy") != "Ignore"
    }
}

impl Policies {
    /// Judges a request. `object` is null for deletions.
    pub(super) async fn check(
        &self,
        (objects, checks): (&dyn Objects, &Checks),
        review: &Review<'_>,
        object: &Value,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        // Whoever writes policies must be able to undo them.
        if review.kind.group == GROUP {
            return Ok(());
        }
        let mut versions = Versions::default();
        for binding in objects.list(BINDINGS, None) {
            let invocation = Invocation::of(objects, review, object, POLICIES, binding).await;
            let Some(invocation) = invocation else { continue };
            let kind = invocation.matched.kind(review);
            let shown = versions.show(objects, review, kind, object).await;
            self.judge((review, checks), shown, &invocation, notes)?;
        }
        Ok(())
    }

    fn judge(
        &self,
        (review, checks): (&Review<'_>, &Checks),
        shown: Result<Arc<Shown>, String>,
        invocation: &Invocation,
        notes: &mut Notes,
    ) -> Result<(), Denial> {
        let (policy, binding) = (&invocation.policy, &invocation.binding);
        let compiled = self.compiled(policy);
        let fails = invocation.fails();
        let shown = shown.map_err(|why| Misfit::Binding(format!("failed to convert object version: {why}")));
        // Denies whatever the binding's actions are.
        let unconfigured = |misfit: &Misfit| {
            let (policy, binding) = (policy.text("metadata.name"), binding.text("metadata.name"));
            let alone = format!("ValidatingAdmissionPolicy '{policy}'");
            let message = misfit.told(&alone, &format!("{alone} with binding '{binding}'"));
            let reason = String::new();
            Denial::Policy { message, reason }
        };
        let (parameters, shown) = match (&invocation.parameters, &shown) {
            (Ok(parameters), Ok(shown)) => (parameters, shown),
            _ if !fails => return Ok(()),
            (Err(misfit), _) | (_, Err(misfit)) => return Err(unconfigured(misfit)),
        };
        let kind = invocation.matched.kind(review);
        let seen = Seen {
            request: &expressions::request(review, kind, &shown.object),
            object: &shown.object,
            old: &shown.old,
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
            for why in outcome.passed_over {
                checks.observe(names(policy, binding), why, "allow");
            }
            tell((policy, binding), &outcome.violations, notes, checks)?;
        }
        Ok(())
    }

    fn compiled(&self, policy: &Value) -> Arc<Policy> {
        self.0.get(policy, || Policy::compile(policy.at("spec")))
    }
}

fn names<'v>(policy: &'v Value, binding: &'v Value) -> (&'v str, &'v str) {
    (policy.text("metadata.name"), binding.text("metadata.name"))
}

/// Does with the violations what the binding wants done.
fn tell(
    (policy, binding): (&Value, &Value),
    violations: &[Violation],
    notes: &mut Notes,
    checks: &Checks,
) -> Result<(), Denial> {
    let Some(first) = violations.first() else {
        return Ok(());
    };
    let (policy, name) = names(policy, binding);
    let actions: Vec<&str> = binding
        .list("spec.validationActions")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for (action, done) in [("Deny", "deny"), ("Warn", "warn"), ("Audit", "audit")] {
        for violation in violations.iter().filter(|_| actions.contains(&action)) {
            checks.observe((policy, name), violation.why, done);
        }
    }
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
                    "expressionIndex": violation.index, "validationActions": actions})
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

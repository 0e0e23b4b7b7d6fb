//! ValidatingAdmissionPolicy (KEP-3488): expressions that judge requests, put to work by bindings; and, in `mutate`,
//! MutatingAdmissionPolicy.
//!
//! Flow: every binding → its policy, compiled once per version → does it concern this request → with each parameter →
//! match conditions → validations → deny, warn or audit. Owns that order; what an expression means is `cel`'s.
mod evaluate;
mod matching;
mod mutate;
mod parameters;
mod verdict;

use super::equivalent::Match;
use super::expressions::{self, Rights, Seen};
use super::measures::{Amiss, Checks};
use super::shown::Versions;
use super::versions::PerVersion;
use super::{Denial, Notes, Objects, ResourceName, Review};
use crate::kinds::policy::Policy;
use crate::kinds::view::View;
use matching::Request;
use parameters::Misfit;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use verdict::Verdict;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicies");
const BINDINGS: ResourceName<'_> = (GROUP, "v1", "validatingadmissionpolicybindings");
const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");

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
        let matched = request.matches(policy.at("spec.matchConstraints"))?;
        let parameters = match parameters::kind_of(&kinds, &policy) {
            Ok(kind) => {
                let narrowed = binding.at("spec.matchResources");
                if !narrowed.is_null() {
                    request.matches(narrowed)?;
                }
                parameters::of(objects, review, kind.as_deref(), &binding).await
            }
            Err(misfit) => Err(misfit),
        };
        Some(Invocation {
            parameters,
            namespace: namespace.unwrap_or_default(),
            policy,
            binding,
            matched,
        })
    }

    fn fails(&self) -> bool {
        self.policy.text("spec.failurePolicy") != "Ignore"
    }

    /// Of the policy and of the binding.
    fn names(&self) -> (&str, &str) {
        let name = "metadata.name";
        (self.policy.text(name), self.binding.text(name))
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
        let mut verdict = Verdict::default();
        for binding in objects.list(BINDINGS, None) {
            let invocation = Invocation::of(objects, review, object, POLICIES, binding).await;
            let Some(invocation) = invocation else { continue };
            let with = (&mut versions, &mut verdict);
            self.judge((objects, checks), review, object, &invocation, with)
                .await;
        }
        verdict.told(notes)
    }

    /// Runs a policy with each parameter. Without any nothing is asked of a converter.
    async fn judge(
        &self,
        (objects, checks): (&dyn Objects, &Checks),
        review: &Review<'_>,
        object: &Value,
        invocation: &Invocation,
        (versions, verdict): (&mut Versions, &mut Verdict),
    ) {
        let parameters = match &invocation.parameters {
            Ok(parameters) if parameters.is_empty() => return,
            Ok(parameters) => parameters,
            Err(misfit) => return verdict.unconfigured(invocation, misfit),
        };
        let kind = invocation.matched.kind(review);
        let shown = match versions.show(objects, review, kind, object).await {
            Ok(shown) => shown,
            Err(why) => {
                let why = format!("failed to convert object version: {why}");
                return verdict.unconfigured(invocation, &Misfit::Binding(why));
            }
        };
        let seen = Seen {
            request: &expressions::request(review, kind, &shown.object),
            object: &shown.object,
            old: &shown.old,
            namespace: &invocation.namespace,
            rights: &Rights(review),
        };
        let compiled = self.compiled(&invocation.policy);
        for parameter in parameters {
            let outcome = compiled.run(seen, parameter.as_deref(), invocation.fails());
            verdict.add(invocation, outcome, checks);
        }
    }

    fn compiled(&self, policy: &Value) -> Arc<Policy> {
        self.0.get(policy, || Policy::compile(policy.at("spec")))
    }
}

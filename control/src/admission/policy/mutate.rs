//! MutatingAdmissionPolicy (KEP-3962): expressions that change what is about to be stored.
//!
//! Flow: every binding → does it concern the object as it is by now → with each parameter: match conditions → mutations in
//! order. A policy that asks for it runs again when a later one has changed the object.
use super::super::expressions::{self, BUDGET, Rights, Seen, all_hold, evaluate, failure};
use super::super::shown::{self, Shown, Versions};
use super::super::{Action, Denial, Objects, ResourceName, Review};
use super::{GROUP, Invocation, Misfit, Policies};
use crate::api::PatchFailure;
use crate::cel::{Scope, Type, Value as Cel};
use crate::kinds::policy::{Mutation, Policy};
use crate::kinds::view::View;
use crate::kinds::{Kind, managed};
use serde_json::Value;
use std::sync::Arc;

const POLICIES: ResourceName<'_> = (GROUP, "v1", "mutatingadmissionpolicies");
pub(super) const BINDINGS: ResourceName<'_> = (GROUP, "v1", "mutatingadmissionpolicybindings");

/// Why a policy could not do its work, in full.
enum Failure {
    /// It is at fault, for the reason that goes with it.
    Policy { message: String, reason: &'static str },
    /// What it made is no object of the kind, or could not be turned back: whatever its failure policy.
    Internal(String),
}

impl Policies {
    /// Changes the object as policies will; whether any did.
    pub(in super::super) async fn mutate(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &mut Value,
    ) -> Result<bool, Denial> {
        if review.kind.group == GROUP || matches!(review.action, Action::Delete { .. }) {
            return Ok(false);
        }
        let bindings = objects.list(BINDINGS, None);
        let mut last_change = None;
        for (i, binding) in bindings.iter().enumerate() {
            if self.mutate_once(objects, review, binding, object, false).await? {
                last_change = Some(i);
            }
        }
        for binding in bindings.iter().take(last_change.unwrap_or(0)) {
            self.mutate_once(objects, review, binding, object, true).await?;
        }
        Ok(last_change.is_some())
    }

    async fn mutate_once(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        binding: &Arc<Value>,
        object: &mut Value,
        again: bool,
    ) -> Result<bool, Denial> {
        let invocation = Invocation::of(objects, review, object, POLICIES, binding.clone()).await;
        let Some(invocation) = invocation else {
            return Ok(false);
        };
        if again && invocation.policy.text("spec.reinvocationPolicy") != "IfNeeded" {
            return Ok(false);
        }
        let before = object.clone();
        match self.run_all(objects, review, &invocation, object).await {
            Ok(()) => Ok(*object != before),
            Err(Failure::Internal(why)) => Err(Denial::Failed(why)),
            Err(_) if !invocation.fails() => {
                *object = before;
                Ok(false)
            }
            Err(Failure::Policy { message, reason }) => Err(Denial::Mutation { message, reason }),
        }
    }

    async fn run_all(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        invocation: &Invocation,
        object: &mut Value,
    ) -> Result<(), Failure> {
        let unconfigured = |misfit: &Misfit| Failure::Policy {
            message: misfit.told("policy", &invocation.policy, &invocation.binding),
            reason: "Forbidden",
        };
        let parameters = invocation.parameters.as_ref().map_err(unconfigured)?;
        let compiled = self.compiled(&invocation.policy);
        let kind = invocation.matched.kind(review);
        for parameter in parameters {
            let shown = Versions::default().show(objects, review, kind, object).await;
            let shown = shown.map_err(|why| unconfigured(&Misfit::Policy(why)))?;
            let mutated = mutated(&compiled, review, invocation, &shown, parameter.as_deref())?;
            if mutated != shown.object {
                let back = shown::back(objects, review, kind, object, mutated).await;
                *object =
                    back.map_err(|why| Failure::Internal(format!("failed to convert object: {why}")))?;
            }
        }
        Ok(())
    }
}

impl Invocation {
    fn refusal(&self, why: &str) -> Failure {
        let (policy, binding) = (&self.policy, &self.binding);
        let message = format!(
            "policy '{}' with binding '{}' denied request: {why}",
            policy.text("metadata.name"),
            binding.text("metadata.name")
        );
        let reason = "Invalid";
        Failure::Policy { message, reason }
    }
}

/// What the policy makes of the object, in the version that it knows.
fn mutated(
    policy: &Policy,
    review: &Review<'_>,
    invocation: &Invocation,
    before: &Shown,
    parameter: Option<&Value>,
) -> Result<Value, Failure> {
    let kind = invocation.matched.kind(review);
    let request = expressions::request(review, kind, &before.object);
    let denied = |why: String| invocation.refusal(&why);
    let mut current = before.object.clone();
    let mut left = BUDGET;
    for (i, mutation) in policy.mutations.iter().enumerate() {
        let shown = current.clone();
        let seen = Seen {
            request: &request,
            object: &shown,
            old: &before.old,
            namespace: &invocation.namespace,
            rights: &Rights(review),
        };
        let mut scope = seen.scope();
        scope.set("params", parameter.map_or(Cel::Null, |p| Cel::of(p, &Type::Dyn)));
        if i == 0 && !all_hold(&policy.conditions, &scope).map_err(denied)? {
            return Ok(current);
        }
        for (name, program) in &policy.variables {
            let value = evaluate(program, &scope, &mut left);
            scope.set_outcome(format!("variables.{name}"), value);
        }
        let after = apply(review, kind, mutation, &scope, &shown, &mut left).map_err(denied)?;
        current = completed(shown::built(review, kind), after).map_err(Failure::Internal)?;
    }
    Ok(current)
}

fn apply<'a>(
    review: &Review<'_>,
    kind: &Kind,
    mutation: &'a Mutation,
    scope: &Scope<'a>,
    object: &Value,
    left: &mut u64,
) -> Result<Value, String> {
    let program = mutation.program();
    let made = evaluate(program, scope, left).and_then(|value| value.to_json());
    let made = made.map_err(|error| failure(program, &error))?;
    match mutation {
        Mutation::Apply(_) => {
            let mut patch = made;
            for key in ["apiVersion", "kind"] {
                patch[key] = object[key].clone();
            }
            let typed = typed(review, kind, object);
            let laid = typed.and_then(|kind| managed::overlay(kind, object, &patch));
            laid.map_err(|why| format!("error applying patch: {why}"))
        }
        Mutation::Patch(_) => patched(&made, object),
    }
}

/// The kind with the schema of what is shown. Upstream looks for it in the OpenAPI document of the group and version that
/// was asked for, where an Eviction, a TokenRequest, a Scale or the options of a connection are not.
fn typed<'k>(review: &Review<'k>, kind: &'k Kind, object: &Value) -> Result<&'k Kind, String> {
    let version = object.text("apiVersion");
    if version == kind.api_version() && !matches!(review.action, Action::Connect { .. }) {
        return Ok(shown::built(review, kind));
    }
    let slash = if version.contains('/') { "" } else { "/" };
    let told = object.text("kind");
    Err(format!(
        "failed to convert patch object to typed object: no corresponding type for {slash}{version}, Kind={told}"
    ))
}

/// A test that fails leaves the object as it was.
fn patched(operations: &Value, object: &Value) -> Result<Value, String> {
    match crate::api::apply_operations(operations.clone(), object) {
        Ok(after) => Ok(after),
        Err(PatchFailure::Test(_)) => Ok(object.clone()),
        Err(why) => Err(format!("JSON Patch: {why}")),
    }
}

/// The object as it is decoded from what a patch made. Only fields of definitions may be such as nobody knows.
fn completed(kind: &Kind, mut object: Value) -> Result<Value, String> {
    let (version, told) = (object.text("apiVersion"), object.text("kind"));
    if kind.custom.is_none() && (version != kind.api_version() || told != kind.kind) {
        return Err(crate::api::unregistered(told, version, crate::api::SCHEME));
    }
    let unknown = kind.prune(&mut object).map_err(|e| e.to_string())?;
    if kind.custom.is_none() && !unknown.is_empty() {
        let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
        return Err(format!("strict decoding error: {}", unknown.join(", ")));
    }
    kind.default(&mut object);
    kind.normalise(&mut object);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::{Fixed, review};
    use super::*;
    use futures::executor::block_on;
    use serde_json::json;

    fn objects(policies: &[(&str, Value)]) -> Fixed {
        let mut all = vec![("namespaces", json!({"metadata": {"name": "n"}}))];
        for (name, spec) in policies {
            let mut policy = json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"},
                "spec": {"matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
                    "operations": ["CREATE"], "resources": ["configmaps"]}]}}});
            json_patch::merge(&mut policy["spec"], spec);
            all.push(("mutatingadmissionpolicies", policy));
            let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
            all.push(("mutatingadmissionpolicybindings", binding));
        }
        Fixed(all)
    }

    fn mutate(policies: &[(&str, Value)]) -> Result<Value, String> {
        let mut object = json!({"metadata": {"name": "o", "namespace": "n"}, "data": {"a": "1"}});
        let review = review("configmaps", Action::Create);
        let done = block_on(Policies::default().mutate(&objects(policies), &review, &mut object));
        match done {
            Ok(_) => Ok(object["data"].clone()),
            Err(Denial::Mutation { message, .. }) => Err(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn lays(expression: &str) -> Value {
        json!({"mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]})
    }

    #[test]
    fn mutations_see_what_those_before_made() {
        let first = lays("Object{data: {'b': object.data.a + '2'}}");
        let second = json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch":
            {"expression": "[JSONPatch{op: 'add', path: '/data/c', value: object.data.b + '3'}]"}}]});
        let done = mutate(&[("p1", first), ("p2", second)]);
        assert_eq!(done, Ok(json!({"a": "1", "b": "12", "c": "123"})));
    }

    #[test]
    fn a_test_of_a_patch_decides_where_there_is_something_to_test() {
        let tests = |path: &str| {
            let operations = format!(
                "[JSONPatch{{op: 'test', path: '{path}', value: '2'}}, JSONPatch{{op: 'remove', path: '/data/a'}}]"
            );
            mutate(&[(
                "p",
                json!({"mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": operations}}]}),
            )])
        };
        assert_eq!(tests("/data/a"), Ok(json!({"a": "1"})));
        assert_eq!(tests("/data/b"), Ok(json!({"a": "1"})));
        assert!(tests("/nope/b").is_err());
    }

    #[test]
    fn a_policy_runs_again_after_later_changes_if_it_asks() {
        let mut counts = lays("Object{data: {'size': string(object.data.size())}}");
        counts["reinvocationPolicy"] = "IfNeeded".into();
        let adds = lays("Object{data: {'x': 'y'}}");
        let done = mutate(&[("p1", counts), ("p2", adds)]).expect("done");
        assert_eq!(done["size"], "3");
    }

    #[test]
    fn failures_deny_or_are_passed_over() {
        let mut fails = lays("Object{data: {'b': object.nope}}");
        let why = mutate(&[("p", fails.clone())]).expect_err("denied");
        assert!(
            why.starts_with("policy 'p' with binding 'p' denied request: expression '"),
            "{why}"
        );
        fails["failurePolicy"] = "Ignore".into();
        assert_eq!(mutate(&[("p", fails)]), Ok(json!({"a": "1"})));
        let mut excluded = lays("Object{data: {'b': '2'}}");
        excluded["matchConditions"] = json!([{"name": "not-o", "expression": "object.metadata.name != 'o'"}]);
        assert_eq!(mutate(&[("p", excluded)]), Ok(json!({"a": "1"})));
    }
}

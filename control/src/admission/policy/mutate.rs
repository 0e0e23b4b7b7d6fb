//! MutatingAdmissionPolicy (KEP-3962): expressions that change what is about to be stored.
//!
//! Flow: every binding → does it concern the object as it comes → with each parameter: match conditions → mutations in
//! order. In a second round only those run that are due.
use super::super::expressions::{self, BUDGET, Rights, Seen, all_hold, evaluate, failure, set_variables};
use super::super::rounds::Rounds;
use super::super::shown::{self, Shown, Versions};
use super::super::{Action, Denial, Objects, ResourceName, Review};
use super::{GROUP, Invocation, Misfit, Policies};
use crate::api::PatchFailure;
use crate::cel::{Scope, Type, Value as Cel};
use crate::kinds::bounded::{MOST, ROOM};
use crate::kinds::policy::{Mutation, Policy};
use crate::kinds::view::View;
use crate::kinds::{Kind, managed};
use serde_json::Value;

const POLICIES: ResourceName<'_> = (GROUP, "v1", "mutatingadmissionpolicies");
pub(super) const BINDINGS: ResourceName<'_> = (GROUP, "v1", "mutatingadmissionpolicybindings");

/// What a policy made is no object of the kind, or could not be turned back: whatever its failure policy, and whatever else.
struct Broken(String);

/// What policies could not do that may not fail. All are run before they deny, as upstream's.
#[derive(Default)]
struct Refusals {
    /// Of those that are not as they should be, of which is told first.
    unconfigured: Vec<String>,
    refused: Vec<String>,
    size: usize,
}

impl Refusals {
    fn misfit(&mut self, invocation: &Invocation, misfit: &Misfit) {
        let policy = invocation.policy.text("metadata.name");
        let message = misfit.told(&format!("policy {policy:?}"), &invocation.named());
        // One that cannot be put to work is told of once, however many bindings it has.
        if !self.unconfigured.contains(&message) && self.takes(invocation, &message) {
            self.unconfigured.push(message);
        }
    }

    fn failed(&mut self, invocation: &Invocation, why: &str) {
        let message = format!("{} denied request: {why}", invocation.named());
        if self.takes(invocation, &message) {
            self.refused.push(message);
        }
    }

    /// Whether it counts, and there is room for it.
    fn takes(&mut self, invocation: &Invocation, message: &str) -> bool {
        let count = self.unconfigured.len() + self.refused.len();
        let takes = invocation.fails() && count < MOST && self.size < ROOM;
        self.size += if takes { message.len() } else { 0 };
        takes
    }

    fn told(self) -> Result<(), Denial> {
        let reason = match (self.unconfigured.is_empty(), self.refused.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => "Invalid",
            (false, _) => "Forbidden",
        };
        let messages = [self.unconfigured, self.refused].concat();
        Err(Denial::Mutation { messages, reason })
    }
}

impl Policies {
    /// Changes the object as those policies will that the object as it comes concerns.
    pub(in super::super) async fn mutate(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        object: &mut Value,
        rounds: &mut Rounds,
    ) -> Result<(), Denial> {
        if review.kind.group == GROUP || matches!(review.action, Action::Delete { .. }) {
            return Ok(());
        }
        let mut invocations = Vec::new();
        for binding in objects.list(BINDINGS, None) {
            invocations.extend(Invocation::of(objects, review, object, POLICIES, binding).await);
        }
        rounds.policies.begin(object);
        let (mut made, mut refusals) = (false, Refusals::default());
        for invocation in &invocations {
            let telling = (&mut *rounds, &mut refusals);
            let ran = self.run_all(objects, review, invocation, object, telling).await;
            made |= ran.map_err(|Broken(why)| Denial::Failed(why))?;
        }
        refusals.told()?;
        // To upstream what was made anew is changed, whatever became of it.
        if made {
            rounds.policies.changed();
            rounds.wanted = true;
        }
        rounds.policies.end(object);
        Ok(())
    }

    /// Runs a policy with each parameter; whether it made anything.
    async fn run_all(
        &self,
        objects: &dyn Objects,
        review: &Review<'_>,
        invocation: &Invocation,
        object: &mut Value,
        (rounds, refusals): (&mut Rounds, &mut Refusals),
    ) -> Result<bool, Broken> {
        let parameters = match &invocation.parameters {
            Ok(parameters) => parameters,
            Err(misfit) => {
                refusals.misfit(invocation, misfit);
                return Ok(false);
            }
        };
        let compiled = self.compiled(&invocation.policy);
        let mut made = false;
        for parameter in parameters {
            let with = (&*compiled, parameter.as_deref());
            let telling = (&mut *rounds, &mut *refusals);
            made |= run(objects, review, invocation, with, object, telling).await?;
        }
        Ok(made)
    }
}

/// Runs a policy with one parameter, in a second round if it is due; whether it made anything.
async fn run(
    objects: &dyn Objects,
    review: &Review<'_>,
    invocation: &Invocation,
    (policy, parameter): (&Policy, Option<&Value>),
    object: &mut Value,
    (rounds, refusals): (&mut Rounds, &mut Refusals),
) -> Result<bool, Broken> {
    let kind = invocation.matched.kind(review);
    let shown = match Versions::default().show(objects, review, kind, object).await {
        Ok(shown) => shown,
        Err(why) => {
            refusals.misfit(invocation, &Misfit::Policy(why));
            return Ok(false);
        }
    };
    let key = invocation.key(parameter);
    let runs = !rounds.second || rounds.policies.is_due(&key);
    let with = (policy, parameter, runs);
    let Some(made) = mutated(with, review, invocation, &shown, refusals)? else {
        return Ok(false);
    };
    if made.object != shown.object {
        let back = shown::back(objects, review, kind, object, made.object).await;
        *object = back.map_err(|why| Broken(format!("failed to convert object: {why}")))?;
        rounds.policies.changed();
    }
    if invocation.policy.text("spec.reinvocationPolicy") == "IfNeeded" {
        rounds.policies.add(key);
    }
    Ok(made.anything)
}

impl Invocation {
    /// As refusals name it.
    fn named(&self) -> String {
        let (policy, binding) = (&self.policy, &self.binding);
        format!(
            "policy '{}' with binding '{}'",
            policy.text("metadata.name"),
            binding.text("metadata.name")
        )
    }

    /// Which it is among all, with this parameter.
    fn key(&self, parameter: Option<&Value>) -> String {
        let name = |object: &Value| object.text("metadata.name").to_owned();
        let parameter = parameter.map(|p| format!("{}/{}", p.text("metadata.namespace"), name(p)));
        format!(
            "{}/{}/{}",
            name(&self.policy),
            name(&self.binding),
            parameter.unwrap_or_default()
        )
    }
}

/// What became of an object, in the version that a policy knows.
struct Made {
    object: Value,
    /// Some mutation worked.
    anything: bool,
}

/// What the policy makes of the object; none when its conditions do not hold, or when it is not to run. A mutation that fails
/// is left out, which may be refused.
fn mutated(
    (policy, parameter, runs): (&Policy, Option<&Value>, bool),
    review: &Review<'_>,
    invocation: &Invocation,
    before: &Shown,
    refusals: &mut Refusals,
) -> Result<Option<Made>, Broken> {
    let kind = invocation.matched.kind(review);
    let request = expressions::request(review, kind, &before.object);
    let (mut object, mut anything) = (before.object.clone(), false);
    for (i, mutation) in policy.mutations.iter().enumerate() {
        let shown = object.clone();
        let seen = Seen {
            request: &request,
            object: &shown,
            old: &before.old,
            namespace: &invocation.namespace,
            rights: &Rights(review),
        };
        let mut scope = seen.scope();
        scope.set("params", parameter.map_or(Cel::Null, |p| Cel::of(p, &Type::Dyn)));
        if i == 0 {
            let hold = all_hold(&policy.conditions, &scope);
            let hold = hold.unwrap_or_else(|why| {
                refusals.failed(invocation, &why);
                false
            });
            if !(hold && runs) {
                return Ok(None);
            }
        }
        set_variables(&policy.variables, &mut scope);
        match apply(review, kind, mutation, &scope, &shown) {
            Ok(after) => {
                let built = shown::built(review, kind);
                object = completed(built, after).map_err(Broken)?;
                anything = true;
            }
            Err(why) => refusals.failed(invocation, &why),
        }
    }
    Ok(Some(Made { object, anything }))
}

fn apply<'a>(
    review: &Review<'_>,
    kind: &Kind,
    mutation: &'a Mutation,
    scope: &Scope<'a>,
    object: &Value,
) -> Result<Value, String> {
    let program = mutation.program();
    // Each has a budget of its own.
    let made = evaluate(program, scope, &mut BUDGET.clone()).map_err(|spent| spent.to_string())?;
    let made = made.and_then(|value| value.to_json());
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
        let (objects, mut rounds, all) = (objects(policies), Rounds::default(), Policies::default());
        let mut round = |rounds: &mut Rounds| block_on(all.mutate(&objects, &review, &mut object, rounds));
        let mut done = round(&mut rounds);
        if done.is_ok() && rounds.wanted {
            rounds.second = true;
            done = round(&mut rounds);
        }
        match done {
            Ok(()) => Ok(object["data"].clone()),
            Err(Denial::Mutation { messages, .. }) => Err(messages.join("\n")),
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
    fn a_policy_runs_again_if_it_asks() {
        let counts = || lays("Object{data: {'size': string(object.data.size())}}");
        let asking = |mut policy: Value| {
            policy["reinvocationPolicy"] = "IfNeeded".into();
            policy
        };
        let adds = |key: &str| lays(&format!("Object{{data: {{'{key}': 'x'}}}}"));
        let mut late = asking(adds("late"));
        late["matchConstraints"] = json!({"objectSelector": {"matchLabels": {"a": "b"}}});
        let labels = lays("Object{metadata: Object.metadata{labels: {'a': 'b'}}}");
        for (policies, want) in [
            (
                vec![("p1", counts()), ("p2", adds("x"))],
                json!({"a": "1", "size": "1", "x": "x"}),
            ),
            (
                vec![("p1", asking(counts())), ("p2", adds("x"))],
                json!({"a": "1", "size": "3", "x": "x"}),
            ),
            // As upstream's, after what it made itself, too.
            (vec![("p1", asking(counts()))], json!({"a": "1", "size": "2"})),
            // Whom the object did not concern at first is not asked later.
            (vec![("p1", labels), ("p2", late)], json!({"a": "1"})),
        ] {
            assert_eq!(mutate(&policies), Ok(want.clone()), "{want}");
        }
    }

    #[test]
    fn what_works_of_a_policy_that_may_fail_is_kept() {
        let mut policy = lays("Object{data: {'b': '2'}}");
        for expression in ["Object{data: {'c': object.nope}}", "Object{data: {'d': '4'}}"] {
            let other = lays(expression)["mutations"][0].take();
            policy["mutations"].as_array_mut().expect("a list").push(other);
        }
        mutate(&[("p", policy.clone())]).expect_err("denied");
        policy["failurePolicy"] = "Ignore".into();
        assert_eq!(
            mutate(&[("p", policy)]),
            Ok(json!({"a": "1", "b": "2", "d": "4"}))
        );
    }

    #[test]
    fn all_that_fails_is_told() {
        let mut first = lays("Object{data: {'b': object.nope}}");
        let other = lays("Object{data: {'c': object.neither}}")["mutations"][0].take();
        first["mutations"].as_array_mut().expect("a list").push(other);
        let mut passed = lays("Object{data: {'d': object.nope}}");
        passed["failurePolicy"] = "Ignore".into();
        let why = mutate(&[
            ("p1", first),
            ("p2", passed),
            ("p3", lays("Object{data: object.no}")),
        ]);
        let why = why.expect_err("denied");
        let told: Vec<&str> = why
            .lines()
            .filter_map(|line| line.split_once(" denied request: "))
            .map(|(of, _)| of)
            .collect();
        let (p1, p3) = ("policy 'p1' with binding 'p1'", "policy 'p3' with binding 'p3'");
        assert_eq!(told, [p1, p1, p3], "{why}");
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

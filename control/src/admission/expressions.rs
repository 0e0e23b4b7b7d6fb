//! Expressions on a request: what they see of it, and what they may cost. Shared by policies and webhooks.
use super::Review;
use super::shown::kind_of;
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::{Identity, Verdict};
use crate::cel::authority::{Authority, Decision, Draft, Question};
use crate::cel::{CALL_LIMIT, EvalError, Scope, Type, Value as Cel, paid};
use crate::kinds::Kind;
use crate::kinds::policy::{Compiled, seen};
use serde_json::{Value, json};

/// What all expressions of a policy may cost on one request (upstream's `RuntimeCELCostBudget`), and what match
/// conditions may.
pub(super) const BUDGET: u64 = 10_000_000;
const CONDITIONS_BUDGET: u64 = 2_500_000;

/// What expressions are told: the variables that every one of them has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// An AdmissionRequest without its objects, see [`request`].
    pub request: &'a Value,
    pub object: &'a Value,
    pub old: &'a Value,
    pub namespace: &'a Value,
    pub rights: &'a Rights<'a>,
}

/// What the requester, and service accounts, may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rights<'a>(pub &'a Review<'a>);

impl Rights<'_> {
    /// The resource of the request, as a question.
    fn own(&self) -> Question {
        let (review, owned) = (self.0, |text: Option<&str>| text.unwrap_or_default().to_owned());
        Question {
            group: review.kind.group.clone(),
            resource: review.kind.plural.clone(),
            subresource: owned(review.subresource),
            namespace: owned(review.about()),
            name: review.name.to_owned(),
            ..Question::default()
        }
    }
}

impl Authority for Rights<'_> {
    fn decide(&self, question: &Question) -> Decision {
        let Some(authorizer) = self.0.authorizer else {
            return Decision::default();
        };
        let account = question.account.as_ref();
        let account = account.map(|(namespace, name)| Identity::account(namespace, name));
        let who = account.as_ref().unwrap_or(self.0.who);
        let some = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
        let (subresource, namespace, name) = (
            some(&question.subresource),
            some(&question.namespace),
            some(&question.name),
        );
        let what = match &question.path {
            Some(path) => Attributes::path(&question.verb, path),
            None => Attributes::resource(
                &question.verb,
                Resource {
                    group: &question.group,
                    resource: &question.resource,
                    subresource: subresource.as_deref(),
                    namespace: namespace.as_deref(),
                    name: name.as_deref(),
                    on_node: None,
                },
            ),
        };
        match authorizer.authorize(who, &what) {
            Verdict::Allowed { reason } => Decision {
                allowed: true,
                reason,
                error: None,
            },
            Verdict::Refused { reason, error } => Decision {
                allowed: false,
                reason,
                error: (!error.is_empty()).then_some(error),
            },
        }
    }
}

impl<'a> Seen<'a> {
    pub fn scope(self) -> Scope<'a> {
        let mut scope = Scope::default();
        for (name, value, ty) in [
            ("object", self.object, &Type::Dyn),
            ("oldObject", self.old, &Type::Dyn),
            ("request", self.request, seen::request()),
            ("namespaceObject", self.namespace, seen::namespace()),
        ] {
            scope.set(name, Cel::of(value, ty));
        }
        scope.set("authorizer", Cel::Asking(Draft::new(self.rights)));
        let own = Draft::on(self.rights, self.rights.own());
        scope.set("authorizer.requestResource", Cel::Asking(own));
        scope
    }
}

/// The variable `request`; `kind` is the version in which the object is shown.
pub(super) fn request(review: &Review<'_>, kind: &Kind, object: &Value) -> Value {
    let kind_of = |kind: &Kind| kind_of(review, kind, object);
    let resource_of =
        |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let who = review.who;
    let mut request = json!({
        "kind": kind_of(kind), "requestKind": kind_of(review.kind),
        "resource": resource_of(kind), "requestResource": resource_of(review.kind),
        "operation": review.action.word(), "dryRun": review.dry_run,
        "options": review.options.object(review),
        "userInfo": {"username": &*who.user, "uid": who.uid, "groups": &*who.groups, "extra": &*who.extra},
    });
    let subresource = review.subresource;
    for (key, value) in [
        ("name", Some(review.name).filter(|name| !name.is_empty())),
        ("namespace", review.about()),
        ("subResource", subresource),
        ("requestSubResource", subresource),
    ] {
        if let Some(value) = value {
            request[key] = value.into();
        }
    }
    request
}

/// What was granted is spent, and nothing more is run (upstream's `ErrOutOfBudget`).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("validation failed due to running out of cost budget, no further validation rules will be run")]
pub(super) struct Spent;

/// Runs one expression; `left` is lowered by what it cost, with the variables that it was the first to use.
pub(super) fn evaluate<'a>(
    program: &'a Compiled,
    scope: &Scope<'a>,
    left: &mut u64,
) -> Result<Result<Cel<'a>, EvalError>, Spent> {
    let program = match program {
        Ok(program) => program,
        Err(why) => return Ok(Err(EvalError::Failed(why.to_string()))),
    };
    scope.grant(*left);
    let granted = CALL_LIMIT.min(*left);
    let mut budget = granted;
    let result = program.evaluate(scope, &mut budget);
    let rest = scope
        .left()
        .and_then(|rest| paid(rest, granted - budget, &result));
    *left = rest.ok_or(Spent)?;
    Ok(result)
}

/// Makes a policy's variables known, in order: each may use those before it. Upstream evaluates one when it is first used;
/// its error is told to those who use it.
pub(super) fn set_variables<'a>(variables: &'a [(String, Compiled)], scope: &mut Scope<'a>) {
    for (name, program) in variables {
        let variable = format!("variables.{name}");
        match program {
            Ok(program) => scope.set_late(variable, program),
            Err(why) => {
                let why = format!("composited variable {name:?} fails to compile: {why}");
                scope.set_outcome(variable, Err(EvalError::Failed(why)));
            }
        }
    }
}

/// Whether all match conditions hold (KEP-3716). One that is false decides, whatever others come to; else one that
/// cannot be evaluated is an error.
pub(super) fn all_hold<'a>(conditions: &'a [(String, Compiled)], scope: &Scope<'a>) -> Result<bool, String> {
    let mut left = CONDITIONS_BUDGET;
    let (mut errors, mut holds) = (Vec::new(), true);
    for (_, program) in conditions {
        match evaluate(program, scope, &mut left).map_err(|spent| spent.to_string())? {
            Ok(value) => holds &= matches!(value, Cel::Bool(true)),
            Err(error) => errors.push(failure(program, &error)),
        }
    }
    match errors.len() {
        _ if !holds => Ok(false),
        0 => Ok(true),
        1 => Err(errors.swap_remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

/// Upstream's sentence about an expression that could not be evaluated.
pub(super) fn failure(program: &Compiled, error: &EvalError) -> String {
    let source = program.as_ref().map_or("", |p| &*p.source);
    format!("expression '{source}' resulted in error: {error}")
}

#[cfg(test)]
mod tests {
    use super::super::Action;
    use super::super::fixtures::review;
    use super::*;
    use crate::kinds::policy::{Policy, compile_conditions};

    /// A ConfigMap that is created, as expressions see it.
    fn seen<T>(look: impl FnOnce(&Seen<'_>) -> T) -> T {
        let review = review("configmaps", Action::Create);
        let object = json!({"metadata": {"name": "o"}});
        let request = request(&review, review.kind, &object);
        look(&Seen {
            request: &request,
            object: &object,
            old: &Value::Null,
            namespace: &Value::Null,
            rights: &Rights(&review),
        })
    }

    fn holds(expressions: &[&str]) -> Result<bool, String> {
        let rows: Vec<Value> = expressions
            .iter()
            .map(|e| json!({"name": "c", "expression": e}))
            .collect();
        seen(|seen| all_hold(&compile_conditions(&rows), &seen.scope()))
    }

    #[test]
    fn conditions_are_all_needed_and_false_outweighs_errors() {
        assert_eq!(holds(&[]), Ok(true));
        assert_eq!(
            holds(&["object.metadata.name == 'o'", "oldObject == null"]),
            Ok(true)
        );
        assert_eq!(holds(&["request.userInfo.username == 'tester'"]), Ok(true));
        let asks = "!authorizer.group('').resource('pods').namespace('n').check('get').allowed()";
        assert_eq!(holds(&[asks]), Ok(true));
        assert_eq!(
            holds(&["authorizer.requestResource.check('approve').allowed()"]),
            Ok(false)
        );
        assert_eq!(
            holds(&["authorizer.serviceAccount('n', 'a').path('/x').check('get').allowed()"]),
            Ok(false)
        );
        assert_eq!(
            holds(&["object.nope == 1", "object.metadata.name != 'o'"]),
            Ok(false)
        );
        let why = holds(&["object.nope == 1"]).expect_err("an error");
        assert!(
            why.starts_with("expression 'object.nope == 1' resulted in error: "),
            "{why}"
        );
    }

    #[test]
    fn who_uses_a_variable_that_failed_is_told_which() {
        let policy = Policy::compile(&json!({
            "variables": [{"name": "x", "expression": "object.nix"}, {"name": "y", "expression": "variables.x + 1"},
                {"name": "z", "expression": "1"}],
            "validations": [{"expression": "variables.z == 1"}, {"expression": "variables.x == 1 "},
                {"expression": "variables.y == 1"}]}));
        let told: Vec<String> = seen(|seen| {
            let (mut scope, mut left) = (seen.scope(), BUDGET);
            set_variables(&policy.variables, &mut scope);
            let programs = policy.validations.iter().map(|validation| &validation.program);
            let told = programs.map(|program| {
                evaluate(program, &scope, &mut left)
                    .expect("a budget")
                    .map_or_else(|error| failure(program, &error), |_| String::new())
            });
            told.collect()
        });
        let of_x = "composited variable \"x\" fails to evaluate: no such key: nix";
        assert_eq!(
            told,
            [
                String::new(),
                format!("expression 'variables.x == 1 ' resulted in error: {of_x}"),
                format!(
                    "expression 'variables.y == 1' resulted in error: composited variable \"y\" fails to evaluate: {of_x}"
                ),
            ]
        );
    }

    #[test]
    fn conditions_have_a_budget() {
        let endless = "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, \
                       [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, a+b+c+d+e+f > 0))))))";
        let why = holds(&[endless]).expect_err("too dear");
        assert!(why.contains("cost limit exceeded"), "{why}");
        // What one comes to is not told when all of them are too dear, not even that one is false.
        let told = holds(&["false", endless, endless, endless]);
        assert_eq!(told, Err(Spent.to_string()));
    }

    #[test]
    fn a_variable_costs_when_it_is_used_and_once() {
        let dear =
            "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, a+b+c > 0)))";
        let policy = Policy::compile(&json!({
            "variables": [{"name": "x", "expression": dear}, {"name": "x", "expression": "variables.x || false"}],
            "validations": [{"expression": "true"}, {"expression": "variables.x"}, {"expression": "variables.x"}]}));
        let costs: Vec<u64> = seen(|seen| {
            let mut scope = seen.scope();
            set_variables(&policy.variables, &mut scope);
            let programs = policy.validations.iter().map(|validation| &validation.program);
            let costs = programs.map(|program| {
                let mut left = BUDGET;
                let value = evaluate(program, &scope, &mut left)
                    .expect("a budget")
                    .expect("a value");
                assert!(matches!(value, Cel::Bool(true)));
                BUDGET - left
            });
            costs.collect()
        });
        assert!(costs[0] < 10 && costs[1] > 1000 && costs[2] < 10, "{costs:?}");
        seen(|seen| {
            let mut scope = seen.scope();
            set_variables(&policy.variables, &mut scope);
            let (program, mut left) = (&policy.validations[1].program, costs[1] - 1);
            assert_eq!(evaluate(program, &scope, &mut left).map(drop), Err(Spent));
        });
    }
}

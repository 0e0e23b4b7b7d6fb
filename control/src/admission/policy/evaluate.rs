//! One policy on one request with one parameter.
use super::Violation;
use super::matching::Request;
use crate::cel::{CALL_LIMIT, EvalError, Scope, Type, Value as Cel};
use crate::kinds::policy::{Compiled, Policy, Validation};
use serde_json::{Value, json};

/// What all expressions of a policy may cost on one request (upstream's `RuntimeCELCostBudget`), and what its match
/// conditions may.
const BUDGET: u64 = 10_000_000;
const CONDITIONS_BUDGET: u64 = 2_500_000;
/// Bytes of a message, and of an annotation.
const MESSAGE: usize = 5 * 1024;
const ANNOTATION: usize = 10 * 1024;

/// `request`: an AdmissionRequest without its objects.
pub(super) struct Facts {
    request: Value,
}

impl Facts {
    pub fn of(request: &Request<'_>) -> Facts {
        let (review, kind) = (request.review, request.review.kind);
        let own = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let resource = json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
        let who = review.who;
        let mut facts = json!({
            "kind": own, "requestKind": own, "resource": resource, "requestResource": resource,
            "name": review.name, "operation": request.operation(), "dryRun": review.dry_run,
            "userInfo": {"username": &*who.user, "uid": who.uid, "groups": &*who.groups, "extra": &*who.extra},
        });
        for (key, value) in [
            ("namespace", review.namespace),
            ("subResource", review.subresource),
        ] {
            if let Some(value) = value {
                facts[key] = value.into();
            }
        }
        Facts { request: facts }
    }
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    pub violations: Vec<Violation>,
    pub annotations: Vec<(String, String)>,
}

impl Outcome {
    fn failed(message: String, index: usize) -> Outcome {
        let violation = Violation {
            message,
            reason: String::new(),
            index,
        };
        Outcome {
            violations: vec![violation],
            ..Outcome::default()
        }
    }
}

impl Policy {
    /// Runs the policy. With `fails` an expression that cannot be evaluated is a violation.
    pub(super) fn run(
        &self,
        facts: &Facts,
        request: &Request<'_>,
        parameter: Option<&Value>,
        fails: bool,
    ) -> Outcome {
        let mut scope = Scope::default();
        scope.set("object", Cel::of(request.object, &Type::Dyn));
        scope.set("oldObject", Cel::of(request.old, &Type::Dyn));
        scope.set("request", Cel::of(&facts.request, &Type::Dyn));
        let namespace = request.namespace.unwrap_or(&Value::Null);
        scope.set("namespaceObject", Cel::of(namespace, &Type::Dyn));
        scope.set("params", parameter.map_or(Cel::Null, |p| Cel::of(p, &Type::Dyn)));
        match self.concerns(&scope) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(_) if !fails => return Outcome::default(),
            Err(why) => return Outcome::failed(why, 0),
        }
        let mut left = BUDGET;
        for (name, program) in &self.variables {
            let value = evaluate(program, &scope, &mut left);
            scope.set_outcome(format!("variables.{name}"), value);
        }
        let mut outcome = Outcome::default();
        for (index, validation) in self.validations.iter().enumerate() {
            outcome
                .violations
                .extend(judge(validation, index, &scope, fails, &mut left));
        }
        for (key, program) in &self.annotations {
            if let Ok(Cel::String(text)) = evaluate(program, &scope, &mut left) {
                let text: String = text.trim().chars().take(ANNOTATION).collect();
                outcome.annotations.push((key.clone(), text));
            }
        }
        outcome
    }

    /// Whether all match conditions hold. One that is false decides, whatever others come to.
    fn concerns<'a>(&'a self, scope: &Scope<'a>) -> Result<bool, String> {
        let mut left = CONDITIONS_BUDGET;
        let mut failed = None;
        for (name, program) in &self.conditions {
            match evaluate(program, scope, &mut left) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(error) => failed = Some(format!("match condition {name:?} failed: {error}")),
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

fn evaluate<'a>(program: &'a Compiled, scope: &Scope<'a>, left: &mut u64) -> Result<Cel<'a>, EvalError> {
    let program = program.as_ref().map_err(|why| EvalError::Failed(why.clone()))?;
    let granted = CALL_LIMIT.min(*left);
    let mut budget = granted;
    let result = program.evaluate(scope, &mut budget);
    *left -= granted - budget;
    result
}

fn judge<'a>(
    validation: &'a Validation,
    index: usize,
    scope: &Scope<'a>,
    fails: bool,
    left: &mut u64,
) -> Option<Violation> {
    let source = validation.program.as_ref().map_or("", |p| p.source.trim());
    match evaluate(&validation.program, scope, left) {
        Ok(Cel::Bool(true)) => None,
        Ok(_) => {
            let message =
                message(validation, scope, left).unwrap_or_else(|| match validation.message.trim() {
                    "" => format!("failed expression: {source}"),
                    message => message.to_owned(),
                });
            Some(Violation {
                message,
                reason: validation.reason.clone(),
                index,
            })
        }
        Err(_) if !fails => None,
        Err(error) => Some(Violation {
            message: format!("expression '{source}' resulted in error: {error}"),
            reason: String::new(),
            index,
        }),
    }
}

fn message<'a>(validation: &'a Validation, scope: &Scope<'a>, left: &mut u64) -> Option<String> {
    let program = validation.message_program.as_ref()?;
    let Ok(Cel::String(text)) = evaluate(program, scope, left) else {
        return None;
    };
    let text = text.trim();
    let fit = !text.is_empty() && text.len() <= MESSAGE && !text.contains('\n');
    fit.then(|| text.to_owned())
}

//! One policy on one request with one parameter.
use super::super::expressions::{BUDGET, Seen, Spent, all_hold, evaluate, failure, set_variables};
use super::super::measures::Amiss;
use super::Violation;
use crate::cel::{EvalError, Scope, Type, Value as Cel};
use crate::kinds::policy::{Compiled, Policy, Validation};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Bytes of a message, and of an annotation.
const MESSAGE: usize = 5 * 1024;
const ANNOTATION: usize = 10 * 1024;

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    pub violations: Vec<Violation>,
    /// Of validations that could not be run, where that is to be passed over.
    pub passed_over: Vec<(Amiss, Duration)>,
    pub annotations: Vec<(String, String)>,
    /// Annotations that cannot be had, which denies whatever the binding's actions are: why, and what is counted of it.
    pub unannotated: Vec<(String, (Amiss, Duration))>,
}

impl Outcome {
    /// Of a policy that came to nothing else; `fails`: that is a violation.
    fn of_failure(message: String, amiss: Amiss, fails: bool) -> Outcome {
        let why = (amiss, Duration::ZERO);
        let mut outcome = Outcome::default();
        match fails {
            true => outcome.violations.push(Violation {
                message,
                reason: String::new(),
                index: 0,
                why,
            }),
            false => outcome.passed_over.push(why),
        }
        outcome
    }
}

impl Policy {
    /// Runs the policy. With `fails` an expression that cannot be evaluated is a violation.
    pub(super) fn run(&self, seen: Seen<'_>, parameter: Option<&Value>, fails: bool) -> Outcome {
        match all_hold(&self.conditions, &scope(seen, parameter)) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(why) => return Outcome::of_failure(why, Amiss::Otherwise, fails),
        }
        // What validations came to is not told when their budget is spent, and neither is when that of annotations is.
        let judged = self.judge(seen, parameter, fails);
        let told = judged.and_then(|outcome| self.annotate(seen, parameter, fails, outcome));
        told.unwrap_or_else(|spent| Outcome::of_failure(spent.to_string(), Amiss::TooCostly, fails))
    }

    /// Evaluates all validations, then all messages, within one budget; variables are evaluated for each of the two.
    fn judge(&self, seen: Seen<'_>, parameter: Option<&Value>, fails: bool) -> Result<Outcome, Spent> {
        let (validating, telling) = (self.scope(seen, parameter), self.scope(seen, parameter));
        let mut left = BUDGET;
        let mut found = Vec::new();
        for validation in &self.validations {
            let begun = Instant::now();
            let value = evaluate(&validation.program, &validating, &mut left)?;
            found.push((value, begun.elapsed()));
        }
        let mut messages = self.messages(&telling, &mut left);
        let mut outcome = Outcome::default();
        for (index, (validation, (found, took))) in self.validations.iter().zip(found).enumerate() {
            let message = messages.as_mut().map(|messages| messages[index].take());
            match judge(validation, found, message) {
                Judged::Holds => {}
                Judged::Failed(_, amiss) if !fails => outcome.passed_over.push((amiss, took)),
                Judged::Failed(message, amiss) => outcome.violations.push(Violation {
                    message,
                    reason: String::new(),
                    index,
                    why: (amiss, took),
                }),
                Judged::Denied(message) => outcome.violations.push(Violation {
                    message,
                    reason: validation.reason.clone(),
                    index,
                    why: (Amiss::Otherwise, took),
                }),
            }
        }
        Ok(outcome)
    }

    /// What validations would be refused with, by their expressions for it; also of those that hold, as upstream.
    fn messages<'a>(&'a self, scope: &Scope<'a>, left: &mut u64) -> Result<Vec<Option<String>>, Spent> {
        let programs = self.validations.iter().map(|v| v.message_program.as_ref());
        let told = programs.map(|program| match program {
            Some(program) => Ok(message(evaluate(program, scope, left)?)),
            None => Ok(None),
        });
        told.collect()
    }

    /// What is said is not paid for by what is asked.
    fn annotate(
        &self,
        seen: Seen<'_>,
        parameter: Option<&Value>,
        fails: bool,
        mut outcome: Outcome,
    ) -> Result<Outcome, Spent> {
        if self.annotations.is_empty() {
            return Ok(outcome);
        }
        let (scope, mut left) = (self.scope(seen, parameter), BUDGET);
        for (key, program) in &self.annotations {
            let begun = Instant::now();
            match said(program, evaluate(program, &scope, &mut left)?, fails) {
                Ok(Some(text)) => outcome.annotations.push((key.clone(), text)),
                Ok(None) => {}
                Err((message, amiss)) => outcome.unannotated.push((message, (amiss, begun.elapsed()))),
            }
        }
        Ok(outcome)
    }

    /// What expressions see, the policy's variables among it.
    fn scope<'a>(&'a self, seen: Seen<'a>, parameter: Option<&'a Value>) -> Scope<'a> {
        let mut scope = scope(seen, parameter);
        set_variables(&self.variables, &mut scope);
        scope
    }
}

/// What match conditions see.
fn scope<'a>(seen: Seen<'a>, parameter: Option<&'a Value>) -> Scope<'a> {
    let mut scope = seen.scope();
    scope.set("params", parameter.map_or(Cel::Null, |p| Cel::of(p, &Type::Dyn)));
    scope
}

/// What became of a validation.
enum Judged {
    Holds,
    /// It could not be evaluated.
    Failed(String, Amiss),
    Denied(String),
}

/// `message`: what its expression has it told with, unless those of the policy were too dear.
fn judge(
    validation: &Validation,
    found: Result<Cel<'_>, EvalError>,
    message: Result<Option<String>, &mut Spent>,
) -> Judged {
    let message = match (&found, message) {
        (Err(error), _) => {
            let (program, why) = (&validation.program, failure(&validation.program, error));
            return Judged::Failed(why, Amiss::of(program));
        }
        (_, Err(spent)) => {
            return Judged::Failed(format!("failed messageExpression: {spent}"), Amiss::Otherwise);
        }
        (Ok(Cel::Bool(true)), _) => return Judged::Holds,
        (_, Ok(message)) => message,
    };
    let otherwise = || match validation.message.trim() {
        "" => {
            let source = validation.program.as_ref().map_or("", |p| p.source.trim());
            format!("failed expression: {source}")
        }
        message => message.to_owned(),
    };
    Judged::Denied(message.unwrap_or_else(otherwise))
}

/// A message that is one line of some text.
fn message(told: Result<Cel<'_>, EvalError>) -> Option<String> {
    let Ok(Cel::String(text)) = told else {
        return None;
    };
    let text = text.trim();
    let fit = !text.is_empty() && text.len() <= MESSAGE && !text.contains('\n');
    fit.then(|| text.to_owned())
}

/// What an annotation is to say, if anything. Without `fails` what cannot be evaluated says nothing; a value of another type
/// is wrong either way.
fn said(
    program: &Compiled,
    value: Result<Cel<'_>, EvalError>,
    fails: bool,
) -> Result<Option<String>, (String, Amiss)> {
    match value {
        Ok(Cel::String(text)) => Ok(Some(cut(text.trim())).filter(|text| !text.is_empty())),
        Ok(Cel::Null) => Ok(None),
        Ok(other) => {
            let source = program.as_ref().map_or("", |program| &*program.source);
            let ty = other.type_name();
            let message = format!(
                "valueExpression '{source}' resulted in unsupported return type: {ty}. Return type must be either string \
                 or null."
            );
            Err((message, Amiss::Otherwise))
        }
        Err(_) if !fails => Ok(None),
        Err(error) => Err((failure(program, &error), Amiss::of(program))),
    }
}

/// As much of the text as an annotation may say.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(ANNOTATION);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::super::Action;
    use super::super::super::expressions::Rights;
    use super::super::super::fixtures::review;
    use super::*;
    use serde_json::json;

    const TOLD: &str =
        "validation failed due to running out of cost budget, no further validation rules will be run";
    /// Costs most of what one evaluation may, of which a policy has ten times as much.
    const DEAR: &str = "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, \
                        [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, a+b+c+d+e > 0)))))";

    fn run(spec: Value, fails: bool) -> Outcome {
        let review = review("configmaps", Action::Create);
        let object = json!({"metadata": {"name": "o"}});
        let seen = Seen {
            request: &Value::Null,
            object: &object,
            old: &Value::Null,
            namespace: &Value::Null,
            rights: &Rights(&review),
        };
        Policy::compile(&spec).run(seen, None, fails)
    }

    fn violations(spec: Value) -> Vec<(usize, String)> {
        let found = run(spec, true).violations.into_iter();
        found.map(|found| (found.index, found.message)).collect()
    }

    /// As many as no budget is enough for.
    fn many(row: Value) -> Value {
        vec![row; 30].into()
    }

    #[test]
    fn a_policy_whose_budget_is_spent_says_nothing_else() {
        let spent = [(0, TOLD.to_owned())];
        let mut validations = many(json!({"expression": DEAR}));
        validations[0] = json!({"expression": "false", "message": "told before"});
        assert_eq!(violations(json!({"validations": validations})), spent);
        let outcome = run(json!({"validations": many(json!({"expression": DEAR}))}), false);
        assert!(outcome.violations.is_empty());
        assert_eq!(outcome.passed_over, [(Amiss::TooCostly, Duration::ZERO)]);
        let annotations = many(json!({"key": "k", "valueExpression": format!("{DEAR} ? 'a' : 'b'")}));
        let spec = json!({"validations": [{"expression": "false"}], "auditAnnotations": annotations});
        assert_eq!(violations(spec), spent);
    }

    #[test]
    fn messages_are_paid_for_by_what_validations_leave() {
        let validation = |expression: &str, message: String| json!({"expression": expression, "messageExpression": message});
        let mut validations = many(validation("true", format!("{DEAR} ? 'a' : 'b'")));
        validations[1] = validation("object.nix == 1", "'x'".to_owned());
        let told = violations(json!({"validations": validations}));
        assert_eq!(told.len(), 30);
        assert_eq!(told[0].1, format!("failed messageExpression: {TOLD}"));
        assert!(told[1].1.contains("no such key: nix"), "{}", told[1].1);
        let fit = json!([
            validation("false", "' b '".to_owned()),
            validation("true", "'c'".to_owned())
        ]);
        assert_eq!(violations(json!({"validations": fit})), [(0, "b".to_owned())]);
    }
}

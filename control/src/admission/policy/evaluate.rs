//! One policy on one request with one parameter.
use super::super::expressions::{BUDGET, Seen, all_hold, evaluate, failure, set_variables};
use super::super::measures::Amiss;
use super::Violation;
use crate::cel::{Scope, Type, Value as Cel};
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
    fn failed(message: String, index: usize) -> Outcome {
        let violation = Violation {
            message,
            reason: String::new(),
            index,
            why: (Amiss::Otherwise, Duration::ZERO),
        };
        Outcome {
            violations: vec![violation],
            ..Outcome::default()
        }
    }
}

impl Policy {
    /// Runs the policy. With `fails` an expression that cannot be evaluated is a violation.
    pub(super) fn run(&self, seen: Seen<'_>, parameter: Option<&Value>, fails: bool) -> Outcome {
        let mut scope = seen.scope();
        scope.set("params", parameter.map_or(Cel::Null, |p| Cel::of(p, &Type::Dyn)));
        match all_hold(&self.conditions, &scope) {
            Ok(true) => {}
            Ok(false) => return Outcome::default(),
            Err(_) if !fails => {
                return Outcome {
                    passed_over: vec![(Amiss::Otherwise, Duration::ZERO)],
                    ..Outcome::default()
                };
            }
            Err(why) => return Outcome::failed(why, 0),
        }
        let mut left = BUDGET;
        set_variables(&self.variables, &mut scope, &mut left);
        let mut outcome = Outcome::default();
        for (index, validation) in self.validations.iter().enumerate() {
            match judge(validation, index, &scope, fails, &mut left) {
                Judged::Holds => {}
                Judged::PassedOver(why) => outcome.passed_over.push(why),
                Judged::Violated(violation) => outcome.violations.push(violation),
            }
        }
        // What is said is not paid for by what is asked.
        let mut left = BUDGET;
        for (key, program) in &self.annotations {
            let begun = Instant::now();
            match said(program, &scope, fails, &mut left) {
                Ok(Some(text)) => outcome.annotations.push((key.clone(), text)),
                Ok(None) => {}
                Err((message, amiss)) => outcome.unannotated.push((message, (amiss, begun.elapsed()))),
            }
        }
        outcome
    }
}

/// What became of a validation.
enum Judged {
    Holds,
    PassedOver((Amiss, Duration)),
    Violated(Violation),
}

fn judge<'a>(
    validation: &'a Validation,
    index: usize,
    scope: &Scope<'a>,
    fails: bool,
    left: &mut u64,
) -> Judged {
    let source = validation.program.as_ref().map_or("", |p| p.source.trim());
    let begun = Instant::now();
    let found = evaluate(&validation.program, scope, left);
    let took = begun.elapsed();
    match found {
        Ok(Cel::Bool(true)) => Judged::Holds,
        Ok(_) => {
            let message =
                message(validation, scope, left).unwrap_or_else(|| match validation.message.trim() {
                    "" => format!("failed expression: {source}"),
                    message => message.to_owned(),
                });
            Judged::Violated(Violation {
                message,
                reason: validation.reason.clone(),
                index,
                why: (Amiss::Otherwise, took),
            })
        }
        Err(error) if !fails => Judged::PassedOver((Amiss::of(&validation.program, &error), took)),
        Err(error) => Judged::Violated(Violation {
            message: failure(&validation.program, &error),
            reason: String::new(),
            index,
            why: (Amiss::of(&validation.program, &error), took),
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

/// What an annotation is to say, if anything. Without `fails` what cannot be evaluated says nothing; a value of another type
/// is wrong either way.
fn said<'a>(
    program: &'a Compiled,
    scope: &Scope<'a>,
    fails: bool,
    left: &mut u64,
) -> Result<Option<String>, (String, Amiss)> {
    match evaluate(program, scope, left) {
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
        Err(error) => Err((failure(program, &error), Amiss::of(program, &error))),
    }
}

/// As much of the text as an annotation may say.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(ANNOTATION);
    text[..end].to_owned()
}

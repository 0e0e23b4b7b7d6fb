//! What all policies come to on one request: each is asked, whatever another said, and says what it has to say; then the first
//! that denies does (upstream's `validating.dispatcher`).
use super::super::measures::{Amiss, Checks};
use super::super::{Denial, Notes};
use super::evaluate::Outcome;
use super::{Invocation, Misfit, Violation};
use crate::kinds::bounded::ROOM;
use crate::kinds::view::View;
use serde_json::Value;
use std::time::Duration;

const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

/// What was found so far.
#[derive(Default)]
pub(super) struct Verdict {
    /// The first of them.
    denied: Option<Denial>,
    warnings: Vec<String>,
    /// What did not hold, as the audit log has it: upstream keeps the first.
    failure: Option<String>,
    /// What policies say for the audit log, by policy and key: each value once.
    annotations: Vec<(String, Vec<String>)>,
    /// Bytes of the above.
    size: usize,
}

impl Verdict {
    /// A policy or a binding that cannot be put to work denies, whatever the binding's actions are.
    pub fn unconfigured(&mut self, invocation: &Invocation, misfit: &Misfit) {
        if invocation.fails() {
            let (policy, _) = invocation.names();
            let alone = format!("ValidatingAdmissionPolicy '{policy}'");
            let message = misfit.told(&alone, &bound(invocation));
            self.deny(message, "");
        }
    }

    /// Does with what a policy came to what its binding wants done.
    pub fn add(&mut self, invocation: &Invocation, outcome: Outcome, checks: &Checks) {
        let observe = |why: (Amiss, Duration), done| checks.observe(invocation.names(), why, done);
        for why in outcome.passed_over {
            observe(why, "allow");
        }
        let actions = invocation.binding.list("spec.validationActions");
        for violation in &outcome.violations {
            for action in actions.iter().filter_map(Value::as_str) {
                match action {
                    "Deny" => {
                        self.refuse(invocation, &violation.message, &violation.reason);
                        observe(violation.why, "deny");
                    }
                    "Warn" => {
                        self.warn(invocation, violation);
                        observe(violation.why, "warn");
                    }
                    "Audit" => {
                        self.audit(invocation, violation);
                        observe(violation.why, "audit");
                    }
                    _ => {}
                }
            }
        }
        for (key, value) in outcome.annotations {
            self.annotate(format!("{}/{key}", invocation.names().0), value);
        }
        for (message, why) in outcome.unannotated {
            self.refuse(invocation, &message, "");
            observe(why, "deny");
        }
    }

    fn refuse(&mut self, invocation: &Invocation, why: &str, reason: &str) {
        self.deny(format!("{} denied request: {why}", bound(invocation)), reason);
    }

    fn deny(&mut self, message: String, reason: &str) {
        let reason = reason.to_owned();
        self.denied.get_or_insert(Denial::Policy { message, reason });
    }

    fn warn(&mut self, invocation: &Invocation, violation: &Violation) {
        let warning = format!(
            "Validation failed for {}: {}",
            bound(invocation),
            violation.message
        );
        if self.has_room(warning.len()) {
            self.warnings.push(warning);
        }
    }

    fn audit(&mut self, invocation: &Invocation, violation: &Violation) {
        self.failure.get_or_insert_with(|| {
            let (policy, binding) = invocation.names();
            // In upstream's order, as some look for text.
            format!(
                r#"[{{"message":{},"policy":{},"binding":{},"expressionIndex":{},"validationActions":{}}}]"#,
                Value::from(&*violation.message),
                Value::from(policy),
                Value::from(binding),
                violation.index,
                invocation.binding.at("spec.validationActions")
            )
        });
    }

    fn annotate(&mut self, key: String, value: String) {
        let known = self.annotations.iter().position(|(other, _)| *other == key);
        let told = known.is_some_and(|i| self.annotations[i].1.contains(&value));
        if told || !self.has_room(key.len() + value.len()) {
            return;
        }
        match known {
            Some(i) => self.annotations[i].1.push(value),
            None => self.annotations.push((key, vec![value])),
        }
    }

    /// Parameters are many, and upstream has no limit.
    fn has_room(&mut self, bytes: usize) -> bool {
        let fits = self.size < ROOM;
        self.size += if fits { bytes } else { 0 };
        fits
    }

    /// Tells it all.
    pub fn told(self, notes: &mut Notes) -> Result<(), Denial> {
        notes.warnings.extend(self.warnings);
        let failure = self.failure.map(|failure| (FAILURE.to_owned(), failure));
        notes.audit.extend(failure);
        let said = self.annotations.into_iter();
        notes
            .audit
            .extend(said.map(|(key, values)| (key, values.join(", "))));
        self.denied.map_or(Ok(()), Err)
    }
}

/// A policy with its binding, as it is named to those whom it concerns.
fn bound(invocation: &Invocation) -> String {
    let (policy, binding) = invocation.names();
    format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}'")
}

//! Rules run on an object, within what they may cost.
use serde_json::Value;

use super::super::correlated::Correlated;
use super::super::place::Place;
use super::super::schema::Structural;
use super::{MESSAGE, NO_MORE, OBJECT_BUDGET, Rule};
use crate::cel::{CALL_LIMIT, EvalError, Program, Scope, Value as Cel};
use crate::kinds::bounded::Found;
use crate::kinds::error::FieldError;

/// Runs all rules on an object. Rules about transitions run where there is an old state to compare with.
pub(in super::super) fn validate(schema: &Structural, object: &Value, was: Option<Correlated<'_>>) -> Judged {
    let mut run = Run {
        judged: Judged::default(),
        left: OBJECT_BUDGET,
        over: false,
    };
    let whole = Was {
        here: was,
        known: was,
    };
    run.part(schema, object, whole, Place::Root);
    run.judged
}

/// What rules say of an object.
#[derive(Debug, Default)]
pub(in super::super) struct Judged {
    pub(in super::super) errors: Found,
    /// What was so before, and is none of this update's doing.
    pub(in super::super) kept: Found,
}

/// What is known of the state of a part before an update.
#[derive(Clone, Copy)]
struct Was<'v> {
    here: Option<Correlated<'v>>,
    /// The part, or the nearest above it, whose old state can be told apart.
    known: Option<Correlated<'v>>,
}

impl<'v> Was<'v> {
    /// The same of a part below.
    fn below(self, here: Option<Correlated<'v>>) -> Self {
        Was {
            here,
            known: here.or(self.known),
        }
    }

    fn is_unchanged(self) -> bool {
        self.known.is_some_and(Correlated::is_unchanged)
    }

    fn old(self) -> Option<&'v Value> {
        self.here.map(|was| was.old)
    }
}

struct Run {
    judged: Judged,
    left: u64,
    /// The budget is gone, or the room for what is told.
    over: bool,
}

impl Run {
    fn part<'v>(&mut self, schema: &Structural, value: &'v Value, was: Was<'v>, path: Place<'_>) {
        if !schema.has_rules || value.is_null() {
            return;
        }
        for rule in &schema.rules {
            if self.over {
                return;
            }
            self.rule(rule, schema, (value, was), path);
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let Some(member) = schema.member(key) {
                        let before = was.here.and_then(|was| was.member(key));
                        let was = was.below(before.filter(|before| !before.old.is_null()));
                        self.part(member, value, was, member_place(schema, &path, key));
                    }
                }
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Some(schema_of_item) = schema.items.as_deref() {
                        let was = was.below(was.here.and_then(|was| was.element(item)));
                        self.part(schema_of_item, item, was, Place::Item(&path, i));
                    }
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Rule, schema: &Structural, (value, was): (&Value, Was<'_>), path: Place<'_>) {
        let invalid = |why: String| FieldError::invalid(shown(path), schema.ty.as_str(), why);
        let program = match &rule.program {
            Ok(program) => program,
            Err(error) => return self.push(invalid(format!("rule compile error: {error}"))),
        };
        if rule.uses_old() && was.here.is_none() && !rule.optional_old {
            return;
        }
        let scope = scope(rule, value, was.old());
        match self.evaluate(program, &scope) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => {
                let error = self.told(rule, schema, value, &scope, path);
                match !rule.uses_old() && was.is_unchanged() {
                    true => self.judged.kept.push(error),
                    false => self.push(error),
                }
            }
            Err(EvalError::Cost) if self.left == 0 => {
                self.over = true;
                self.push(invalid(NO_MORE.to_owned()));
            }
            Err(EvalError::Cost) => {
                self.over = true;
                self.push(invalid(format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    EvalError::Cost,
                    rule.shown()
                )));
            }
            Err(EvalError::Failed(why)) if why.starts_with("no such overload") => self.push(invalid(format!(
                "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                rule.shown()
            ))),
            Err(EvalError::Failed(why)) => {
                self.push(invalid(format!("{why} evaluating rule: {}", rule.shown())))
            }
        }
    }

    fn push(&mut self, error: FieldError) {
        self.judged.errors.push(error);
        self.over |= self.judged.errors.is_full();
    }

    /// Evaluates within the limit of one call and what is left of the object's.
    fn evaluate<'a>(&mut self, program: &'a Program, scope: &Scope<'a>) -> Result<Cel<'a>, EvalError> {
        let granted = CALL_LIMIT.min(self.left);
        let mut budget = granted;
        let result = program.evaluate(scope, &mut budget);
        self.left -= granted - budget;
        result
    }

    fn told<'a>(
        &mut self,
        rule: &'a Rule,
        schema: &Structural,
        value: &Value,
        scope: &Scope<'a>,
        path: Place<'_>,
    ) -> FieldError {
        let detail = self
            .message(rule, scope)
            .unwrap_or_else(|| match rule.message.trim() {
                "" => format!("failed rule: {}", rule.shown()),
                message => message.to_owned(),
            });
        let field = match rule.field_path.as_str() {
            "" => shown(path),
            below => Place::Member(&path, below).to_string(),
        };
        let whole = matches!(schema.ty.as_str(), "object" | "array");
        match rule.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(field, detail),
            "FieldValueRequired" => FieldError::required(field, detail),
            "FieldValueDuplicate" if whole => FieldError::duplicate_part(field),
            "FieldValueDuplicate" => FieldError::duplicate(field, value.clone()),
            _ if whole => FieldError::invalid_part(field, detail),
            _ => FieldError::invalid(field, value.clone(), detail),
        }
    }

    /// What the rule's own expression says; nothing when it fails or says nothing fit to print.
    fn message<'a>(&mut self, rule: &'a Rule, scope: &Scope<'a>) -> Option<String> {
        let program = rule.message_program.as_ref()?.as_ref().ok()?;
        let granted = CALL_LIMIT.min(self.left);
        let mut budget = granted;
        let result = evaluate_message(program, scope, &mut budget);
        self.left -= granted - budget;
        let message = result?.trim().to_owned();
        let fit = !message.is_empty() && message.len() <= MESSAGE && !message.contains('\n');
        fit.then_some(message)
    }
}

fn evaluate_message<'a>(program: &'a Program, scope: &Scope<'a>, budget: &mut u64) -> Option<String> {
    match program.evaluate(scope, budget) {
        Ok(Cel::String(text)) => Some(text.to_string()),
        _ => None,
    }
}

fn scope<'a>(rule: &'a Rule, value: &'a Value, old: Option<&'a Value>) -> Scope<'a> {
    let mut scope = Scope::default();
    scope.set("self", Cel::of(value, &rule.ty));
    let before = old.map(|old| Cel::of(old, &rule.ty));
    match (rule.optional_old, before) {
        (true, Some(before)) => scope.set("oldSelf", Cel::some(before)),
        (true, None) => scope.set("oldSelf", Cel::Optional(None)),
        (false, Some(before)) => scope.set("oldSelf", before),
        (false, None) => {}
    }
    scope
}

/// Upstream's path of a part, and of the whole object.
fn shown(path: Place<'_>) -> String {
    match path {
        Place::Root => "<nil>".to_owned(),
        part => part.to_string(),
    }
}

/// A member is a field, a key of a map stands in brackets.
fn member_place<'p>(schema: &Structural, above: &'p Place<'p>, key: &'p str) -> Place<'p> {
    match schema.properties.contains_key(key) {
        true => Place::Member(above, key),
        false => Place::Key(above, key),
    }
}

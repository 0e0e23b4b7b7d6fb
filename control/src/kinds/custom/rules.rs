//! `x-kubernetes-validations`: rules in CEL, judged when a definition is written and run when an object is.
//!
//! Words and limits are upstream's ("Validation rules" of "Extend the API with CustomResourceDefinitions").
mod run;

use std::sync::Arc;

use serde_json::{Value, json};

use super::declare::{REQUEST, smallest};
use super::schema::{Additional, Structural};
use crate::cel::{CompileError, Extent, Program, Type};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
pub(super) use run::validate;

/// What all rules may cost on one object (upstream's `RuntimeCELCostBudget`).
const OBJECT_BUDGET: u64 = 10_000_000;
/// What one rule may cost by its estimate, and all rules of a schema.
const RULE_ESTIMATE: u64 = 10_000_000;
const SCHEMA_ESTIMATE: u64 = 100_000_000;
/// Bytes of a message that an expression makes.
const MESSAGE: usize = 5 * 1024;
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
const NO_MORE: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// One rule, ready to run.
#[derive(Debug)]
pub struct Rule {
    program: Result<Program, CompileError>,
    message: String,
    message_program: Option<Result<Program, CompileError>>,
    reason: String,
    field_path: String,
    optional_old: bool,
    ty: Type,
}

impl Rule {
    fn uses_old(&self) -> bool {
        self.program.as_ref().is_ok_and(|p| p.uses("oldSelf"))
    }

    /// The rule as messages name it: by its own message when it has one.
    fn shown(&self) -> &str {
        let source = self.program.as_ref().map_or("", |p| p.source.trim());
        if self.message.is_empty() {
            source
        } else {
            self.message.trim()
        }
    }
}

/// Compiles the rules of a part of this type and extent.
pub(super) fn compile(sources: &[Value], part: &Structural, own: (&Type, &Arc<Extent>)) -> Vec<Rule> {
    sources.iter().map(|source| rule(source, part, own)).collect()
}

/// A path below a part as errors name it: a property after a dot, a key of a map in brackets.
fn told_path(part: &Structural, text: &str) -> String {
    let parsed = super::jsonpath::JsonPath::parse(text).ok();
    let (mut told, mut part) = (String::new(), Some(part));
    for name in parsed.and_then(|path| path.members()).unwrap_or_default() {
        let here = part.filter(|part| part.properties.is_empty());
        match here.map(|part| &part.additional) {
            Some(Additional::Schema(value)) => {
                told.push_str(&format!("[{name}]"));
                part = Some(value);
            }
            _ => {
                told.push_str(&format!(".{name}"));
                part = part.and_then(|part| part.properties.get(&name));
            }
        }
    }
    told.trim_start_matches('.').to_owned()
}

fn rule(source: &Value, part: &Structural, (ty, extent): (&Type, &Arc<Extent>)) -> Rule {
    let optional_old = source.flag("optionalOldSelf");
    let old = if optional_old {
        Type::optional(ty.clone())
    } else {
        ty.clone()
    };
    let variables = [("self", ty.clone()), ("oldSelf", old)];
    let program = |text: &str, wanted: &Type, word: &str| {
        let compiled = Program::compile_within(text, &variables, extent);
        let compiled = compiled.map_err(|e| CompileError(format!("{}compilation failed: {e}", word)));
        let instantiated = |p: Program| match p.constants() {
            Ok(()) => Ok(p),
            Err(why) if word.is_empty() => Err(CompileError(format!("program instantiation failed: {why}"))),
            Err(why) => Err(CompileError(format!("{word}instantiation failed: {why}"))),
        };
        compiled.and_then(|p| match p.ty.is(wanted) {
            true => instantiated(p),
            false if word.is_empty() => Err(CompileError("cel expression must evaluate to a bool".into())),
            false => Err(CompileError("messageExpression must evaluate to a string".into())),
        })
    };
    let expression = source.text("messageExpression");
    Rule {
        program: program(source.text("rule"), &Type::Bool, ""),
        message: source.text("message").to_owned(),
        message_program: (!expression.is_empty())
            .then(|| program(expression, &Type::String, "messageExpression ")),
        reason: source.text("reason").to_owned(),
        field_path: told_path(part, source.text("fieldPath")),
        optional_old,
        ty: ty.clone(),
    }
}

/// What is wrong with how the rules of a part are written down, before they are compiled.
pub(super) fn shape(schema: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    for (i, rule) in schema.list("x-kubernetes-validations").iter().enumerate() {
        let at = |key: &str| format!("{path}.x-kubernetes-validations[{i}].{key}");
        let (text, message) = (rule.text("rule").trim(), rule.text("message"));
        let broken = |text: &str| text.contains(['\n', '\r']);
        if text.is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.push(FieldError::invalid(
                at("message"),
                message,
                "must be non-empty if specified",
            ));
        } else if broken(message.trim()) {
            errors.push(FieldError::invalid(
                at("message"),
                message,
                "must not contain line breaks",
            ));
        } else if broken(text) && message.trim().is_empty() {
            let why = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), why));
        }
        let expression = rule.text("messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let why = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(at("messageExpression"), why));
        }
        let reason = rule.text("reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errors.push(FieldError::not_supported(at("reason"), reason, &REASONS));
        }
        errors.extend(field_path(schema, rule.text("fieldPath"), at("fieldPath")));
    }
    errors
}

fn field_path(schema: &Value, text: &str, at: String) -> Option<FieldError> {
    if text.is_empty() {
        return None;
    }
    if text.trim().is_empty() {
        return Some(FieldError::invalid(at, text, "must be non-empty if specified"));
    }
    let path = super::jsonpath::JsonPath::parse(text)
        .ok()
        .filter(|_| text.starts_with(['.', '[']));
    let members = path.and_then(|p| p.members());
    let found = members.and_then(|members| {
        members.iter().try_fold(schema, |schema, name| {
            let own = schema.at("properties").get(name);
            own.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()))
        })
    });
    found
        .is_none()
        .then(|| FieldError::invalid(at, text, "must be a valid path"))
}

/// What is wrong with the rules of a schema: they do not compile, or may cost too much.
pub(super) fn judge(schema: &Value, parsed: &Structural, path: &str) -> FieldErrors {
    let mut judge = Judge::default();
    judge.part(
        schema,
        parsed,
        path,
        &Place {
            count: Some(1),
            atomic: None,
        },
    );
    let mut errors = judge.errors;
    if judge.total > SCHEMA_ESTIMATE {
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        judge.costs.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        let counts = |(cost, _): &(u64, String)| *cost >= SCHEMA_ESTIMATE / 100;
        let worst = judge.costs.into_iter().take(4).filter(counts);
        errors.extend(worst.map(|(_, path)| FieldError::forbidden(path, why)));
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(
            path,
            too_costly(name, judge.total, SCHEMA_ESTIMATE),
        ));
    }
    errors
}

#[derive(Default)]
struct Judge {
    errors: FieldErrors,
    total: u64,
    costs: Vec<(u64, String)>,
}

/// Where in an object a part stands.
#[derive(Clone)]
struct Place {
    /// How often it can occur, when that is declared.
    count: Option<u64>,
    /// The part above whose old state cannot be told apart.
    atomic: Option<String>,
}

impl Judge {
    fn part(&mut self, schema: &Value, parsed: &Structural, path: &str, place: &Place) {
        if !parsed.has_rules {
            return;
        }
        let times = |limit: Option<u64>| place.count.zip(limit).map(|(a, b)| a.saturating_mul(b));
        if let Some(items) = &parsed.items {
            let keyed = parsed.list_type.as_deref() == Some("map");
            let below = Place {
                count: times(parsed.checks.max_items),
                atomic: place.atomic.clone().or_else(|| (!keyed).then(|| path.to_owned())),
            };
            self.part(schema.at("items"), items, &format!("{path}.items"), &below);
        }
        if let Additional::Schema(value) = &parsed.additional {
            let below = Place {
                count: times(parsed.checks.max_properties),
                ..place.clone()
            };
            let path = format!("{path}.additionalProperties");
            self.part(schema.at("additionalProperties"), value, &path, &below);
        }
        let granular = parsed.map_type.as_deref() != Some("atomic");
        for (name, member) in &parsed.properties {
            let below = Place {
                atomic: place
                    .atomic
                    .clone()
                    .or_else(|| (!granular).then(|| path.to_owned())),
                ..place.clone()
            };
            let schema = schema.at("properties").get(name).unwrap_or(&Value::Null);
            self.part(schema, member, &format!("{path}.properties[{name}]"), &below);
        }
        let count = place.count.unwrap_or_else(|| REQUEST / (smallest(parsed) + 1));
        for (i, rule) in parsed.rules.iter().enumerate() {
            let source = &schema.list("x-kubernetes-validations")[i];
            self.rule(
                rule,
                source,
                &format!("{path}.x-kubernetes-validations[{i}]"),
                (count, place),
            );
        }
    }

    fn rule(&mut self, rule: &Rule, source: &Value, path: &str, (count, place): (u64, &Place)) {
        let programs = [
            (Some(&rule.program), "rule", "estimated rule cost"),
            (
                rule.message_program.as_ref(),
                "messageExpression",
                "estimated messageExpression cost",
            ),
        ];
        for (program, key, name) in programs {
            let at = format!("{path}.{key}");
            match program {
                None => {}
                Some(Err(error)) => {
                    self.errors
                        .push(FieldError::invalid(at, shown(source), error.0.clone()));
                    if key == "rule" {
                        break;
                    }
                }
                Some(Ok(program)) => {
                    let cost = program.cost.saturating_mul(if key == "rule" { count } else { 1 });
                    if cost > RULE_ESTIMATE {
                        self.errors.push(FieldError::forbidden(
                            at.clone(),
                            too_costly(name, cost, RULE_ESTIMATE),
                        ));
                    }
                    self.total = self.total.saturating_add(cost);
                    self.costs.push((cost, at));
                }
            }
        }
        match (&place.atomic, rule.uses_old()) {
            (Some(atomic), true) => {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {atomic}"
                );
                self.errors.push(FieldError::invalid(
                    format!("{path}.rule"),
                    source.text("rule"),
                    why,
                ));
            }
            (_, false) if source.has("optionalOldSelf") => {
                let why = "may not be set if oldSelf is not used in rule";
                let value = source.at("optionalOldSelf").clone();
                self.errors
                    .push(FieldError::invalid(format!("{path}.optionalOldSelf"), value, why));
            }
            _ => {}
        }
    }
}

/// A rule as upstream prints its internal form.
fn shown(source: &Value) -> Value {
    json!({
        "Rule": source.text("rule"), "Message": source.text("message"),
        "MessageExpression": source.text("messageExpression"), "Reason": source.at("reason"),
        "FieldPath": source.text("fieldPath"), "OptionalOldSelf": source.at("optionalOldSelf"),
    })
}

fn too_costly(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

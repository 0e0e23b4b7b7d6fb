//! A policy's expressions, compiled; the same when a policy is written and when it is run.
use crate::cel::{Program, Type};
use crate::kinds::view::View;
use serde_json::Value;

/// An expression or why it cannot be used.
pub type Compiled = Result<Program, String>;

/// One validation.
#[derive(Debug)]
pub struct Validation {
    pub program: Compiled,
    pub message: String,
    pub message_program: Option<Compiled>,
    pub reason: String,
}

/// All that a policy says, ready to run.
#[derive(Debug)]
pub struct Policy {
    pub conditions: Vec<(String, Compiled)>,
    /// In order: each may use those before it.
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    pub annotations: Vec<(String, Compiled)>,
}

impl Policy {
    pub fn compile(spec: &Value) -> Policy {
        let with_params = spec.has("paramKind");
        let mut known = base(with_params);
        let named =
            |list: &str, key: &str, known: &[(String, Type)], wanted: &[Type]| -> Vec<(String, Compiled)> {
                let rows = spec.list(list).iter();
                rows.map(|row| (row.text(key).to_owned(), compile(expression(row), known, wanted)))
                    .collect()
            };
        let conditions = named("matchConditions", "name", &known, &[Type::Bool]);
        let mut variables = Vec::new();
        for row in spec.list("variables") {
            let name = row.text("name").to_owned();
            let program = compile(row.text("expression"), &known, &[]);
            let ty = program.as_ref().map_or(Type::Dyn, |p| p.ty.clone());
            known.push((format!("variables.{name}"), ty));
            variables.push((name, program));
        }
        let validations = spec
            .list("validations")
            .iter()
            .map(|row| validation(row, &known))
            .collect();
        let annotations = named("auditAnnotations", "key", &known, &[Type::string(), Type::Null]);
        Policy {
            conditions,
            variables,
            validations,
            annotations,
        }
    }
}

fn expression(row: &Value) -> &str {
    match row.text("expression") {
        "" => row.text("valueExpression"),
        text => text,
    }
}

fn validation(row: &Value, known: &[(String, Type)]) -> Validation {
    let message = row.text("messageExpression");
    Validation {
        program: compile(row.text("expression"), known, &[Type::Bool]),
        message: row.text("message").to_owned(),
        message_program: (!message.is_empty()).then(|| compile(message, known, &[Type::string()])),
        reason: row.text("reason").to_owned(),
    }
}

/// The variables of every expression.
fn base(with_params: bool) -> Vec<(String, Type)> {
    let mut known: Vec<(String, Type)> = ["object", "oldObject", "request", "namespaceObject"]
        .map(|name| (name.to_owned(), Type::Dyn))
        .into();
    if with_params {
        known.push(("params".to_owned(), Type::Dyn));
    }
    known
}

fn compile(source: &str, known: &[(String, Type)], wanted: &[Type]) -> Compiled {
    let known: Vec<(&str, Type)> = known
        .iter()
        .map(|(name, ty)| (name.as_str(), ty.clone()))
        .collect();
    let program = Program::compile(source, &known).map_err(|e| format!("compilation failed: {e}"))?;
    match wanted.is_empty() || wanted.iter().any(|ty| program.ty.fits(ty)) {
        true => Ok(program),
        false => {
            let words: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            let one = if words.len() == 1 {
                "must evaluate to"
            } else {
                "must evaluate to one of:"
            };
            Err(format!("{one} {}", words.join(" ")))
        }
    }
}

//! A policy's expressions, compiled; the same when a policy is written and when it is run.
use super::seen;
use crate::cel::authority::Asking;
use crate::cel::{Program, Type, patches};
use crate::kinds::view::View;
use serde_json::Value;

/// An expression or why it cannot be used.
pub type Compiled = Result<Program, Unusable>;

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Unusable {
    /// It does not parse, or is of a wrong type.
    #[error("{0}")]
    Invalid(String),
    /// It is constant where it cannot be: upstream takes that for an error of its own.
    #[error("program instantiation failed: {0}")]
    Planned(String),
}

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
    /// Of a MutatingAdmissionPolicy.
    pub mutations: Vec<Mutation>,
}

/// What a policy does to an object.
#[derive(Debug)]
pub enum Mutation {
    /// Fields, laid over it as an apply would.
    Apply(Compiled),
    /// A list of operations of JSON patch.
    Patch(Compiled),
}

impl Mutation {
    fn of(row: &Value, known: &[(String, Type)]) -> Mutation {
        match row.text("patchType") {
            "JSONPatch" => {
                let wanted = [Type::list(patches::of(patches::PATCH))];
                Mutation::Patch(compile_with(
                    row.text("jsonPatch.expression"),
                    known,
                    &wanted,
                    true,
                ))
            }
            _ => {
                let wanted = [patches::of(patches::OBJECT)];
                let source = row.text("applyConfiguration.expression");
                Mutation::Apply(compile_with(source, known, &wanted, true))
            }
        }
    }

    pub fn program(&self) -> &Compiled {
        match self {
            Mutation::Apply(program) | Mutation::Patch(program) => program,
        }
    }
}

impl Policy {
    pub fn compile(spec: &Value) -> Policy {
        let with_params = spec.has("paramKind");
        let mut known = base(with_params, &Type::Dyn);
        let named =
            |list: &str, key: &str, known: &[(String, Type)], wanted: &[Type]| -> Vec<(String, Compiled)> {
                let rows = spec.list(list).iter();
                rows.map(|row| (row.text(key).to_owned(), compile(expression(row), known, wanted)))
                    .collect()
            };
        let conditions = named("matchConditions", "name", &known, &[Type::Bool]);
        let mut variables = Vec::new();
        let patches = spec.has("mutations");
        for row in spec.list("variables") {
            let name = row.text("name").to_owned();
            let program = compile_with(row.text("expression"), &known, &[], patches);
            let ty = program.as_ref().map_or(Type::Dyn, |p| p.ty.clone());
            known.push((format!("variables.{name}"), ty));
            variables.push((name, program));
        }
        let validations = spec
            .list("validations")
            .iter()
            .map(|row| validation(row, &known))
            .collect();
        let annotations = named("auditAnnotations", "key", &known, &[Type::String, Type::Null]);
        let mutations = spec.list("mutations").iter();
        let mutations = mutations.map(|row| Mutation::of(row, &known)).collect();
        Policy {
            conditions,
            variables,
            validations,
            annotations,
            mutations,
        }
    }
}

/// The match conditions of a webhook: they see no parameters.
pub fn compile_conditions(rows: &[Value]) -> Vec<(String, Compiled)> {
    let known = base(false, &Type::Dyn);
    let rows = rows.iter();
    rows.map(|row| {
        let program = compile(row.text("expression"), &known, &[Type::Bool]);
        (row.text("name").to_owned(), program)
    })
    .collect()
}

fn expression(row: &Value) -> &str {
    match row.text("expression") {
        "" => row.text("valueExpression"),
        text => text,
    }
}

fn validation(row: &Value, known: &[(String, Type)]) -> Validation {
    let message = row.text("messageExpression");
    // Rights are not asked for the words of a refusal.
    let told: Vec<(String, Type)> = known
        .iter()
        .filter(|(name, _)| !name.starts_with("authorizer"))
        .cloned()
        .collect();
    Validation {
        program: compile(row.text("expression"), known, &[Type::Bool]),
        message: row.text("message").to_owned(),
        message_program: (!message.is_empty()).then(|| compile(message, &told, &[Type::String])),
        reason: row.text("reason").to_owned(),
    }
}

/// The variables of every expression.
pub(super) fn base(with_params: bool, object: &Type) -> Vec<(String, Type)> {
    let mut known: Vec<(String, Type)> = ["object", "oldObject"]
        .map(|name| (name.to_owned(), object.clone()))
        .into();
    known.push(("request".to_owned(), seen::request().clone()));
    known.push(("namespaceObject".to_owned(), seen::namespace().clone()));
    known.push(("authorizer".to_owned(), Type::Asking(Asking::Authorizer)));
    let own = "authorizer.requestResource".to_owned();
    known.push((own, Type::Asking(Asking::ResourceCheck)));
    if with_params {
        known.push(("params".to_owned(), Type::Dyn));
    }
    known
}

pub(super) fn compile(source: &str, known: &[(String, Type)], wanted: &[Type]) -> Compiled {
    compile_with(source, known, wanted, false)
}

/// With `patches` the expression may make them.
fn compile_with(source: &str, known: &[(String, Type)], wanted: &[Type], patches: bool) -> Compiled {
    let known: Vec<(&str, Type)> = known
        .iter()
        .map(|(name, ty)| (name.as_str(), ty.clone()))
        .collect();
    let program = match patches {
        true => Program::compile_patch(source, &known),
        false => Program::compile(source, &known),
    };
    let program = program.map_err(|e| Unusable::Invalid(format!("compilation failed: {e}")))?;
    match wanted.is_empty() || wanted.iter().any(|ty| program.ty.is(ty)) {
        true => {
            program.constants().map_err(Unusable::Planned)?;
            Ok(program)
        }
        false => {
            let words: Vec<String> = wanted.iter().map(named).collect();
            let got = named(&program.ty);
            Err(Unusable::Invalid(match words.as_slice() {
                [one] => format!("must evaluate to {one} but got {got}"),
                several => format!("must evaluate to one of [{}] but got {got}", several.join(" ")),
            }))
        }
    }
}

/// A type by the name that upstream's refusals give it.
fn named(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::List(item) => format!("list({})", named(item)),
        Type::Map(key, value) => format!("map({}, {})", named(key), named(value)),
        Type::Optional(inner) => format!("optional_type({})", named(inner)),
        Type::Type(of) => format!("type({})", named(of)),
        other => other.to_string(),
    }
}

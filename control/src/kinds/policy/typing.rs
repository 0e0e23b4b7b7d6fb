//! Type checking of a ValidatingAdmissionPolicy against the schemas of what it matches (`status.typeChecking`). What it
//! finds are warnings: at run time nothing is known of an object's type.
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::program::{base, compile};
use crate::cel::{Structure, Type, escape};
use crate::kinds::schema::{self, Definition, Schemas};
use crate::kinds::view::View;
use crate::kinds::{Kind, Registry};

/// Kinds that one policy is checked against (upstream's).
const KINDS: usize = 10;

/// The `expressionWarnings` of a policy's specification.
pub fn warnings(spec: &Value, registry: &Registry) -> Vec<Value> {
    let kinds = matched(spec, registry);
    let types: Vec<(String, Type)> = kinds.iter().map(|kind| (name(kind), object(kind))).collect();
    let mut warnings = Vec::new();
    for (i, row) in spec.list("validations").iter().enumerate() {
        for key in ["expression", "messageExpression"] {
            let source = row.text(key);
            if source.is_empty() {
                continue;
            }
            let told: Vec<String> = types
                .iter()
                .filter_map(|(name, ty)| Some(format!("{name}: {}\n", mistake(spec, ty, source)?)))
                .collect();
            if !told.is_empty() {
                let field = format!("spec.validations[{i}].{key}");
                warnings.push(json!({"fieldRef": field, "warning": told.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that the rules name; what a `*` would take in is not checked.
fn matched(spec: &Value, registry: &Registry) -> Vec<Arc<Kind>> {
    let mut kinds: Vec<Arc<Kind>> = Vec::new();
    for rule in spec.list("matchConstraints.resourceRules") {
        let all = |key: &str| rule.list(key).iter().filter_map(Value::as_str);
        let texts = |key: &str| match all(key).any(|text| text.contains('*')) {
            true => Vec::new(),
            false => all(key).collect(),
        };
        // Of resources those are left out that are none, or all.
        let plurals: Vec<&str> = all("resources")
            .filter(|text| !text.contains(['*', '/']))
            .collect();
        for group in texts("apiGroups") {
            for version in texts("apiVersions") {
                for plural in &plurals {
                    kinds.extend(registry.resource(group, version, plural).cloned());
                }
            }
        }
    }
    kinds.sort_by_key(|kind| (kind.group.clone(), kind.version.clone(), kind.kind.clone()));
    kinds.dedup_by(|a, b| Arc::ptr_eq(a, b));
    kinds.truncate(KINDS);
    kinds
}

fn name(kind: &Kind) -> String {
    let (group, version, name) = (&kind.group, &kind.version, &kind.kind);
    match group.as_str() {
        "" => format!("/{version}, Kind={name}"),
        group => format!("{group}/{version}, Kind={name}"),
    }
}

/// What is wrong with an expression on objects of a type.
fn mistake(spec: &Value, object: &Type, source: &str) -> Option<String> {
    let mut known = base(spec.has("paramKind"), object);
    for row in spec.list("variables") {
        let program = compile(row.text("expression"), &known, &[]);
        let ty = program.map_or(Type::Dyn, |program| program.ty);
        known.push((format!("variables.{}", row.text("name")), ty));
    }
    let why = compile(source, &known, &[]).err()?.to_string();
    Some(
        why.strip_prefix("compilation failed: ")
            .unwrap_or(&why)
            .to_owned(),
    )
}

/// The type of a kind's objects.
fn object(kind: &Kind) -> Type {
    let mut types = Types {
        schemas: &kind.schemas,
        made: HashMap::new(),
        making: Vec::new(),
    };
    types.definition(&kind.definition)
}

/// Types of definitions, each made once.
struct Types<'s> {
    schemas: &'s Schemas,
    made: HashMap<String, Type>,
    making: Vec<String>,
}

impl Types<'_> {
    fn definition(&mut self, definition: &Definition) -> Type {
        if let Some(ty) = self.made.get(&definition.name) {
            return ty.clone();
        }
        // A type within itself, such as a schema of schemas, has no end.
        if self.making.contains(&definition.name) {
            return Type::Dyn;
        }
        self.making.push(definition.name.clone());
        let ty = match &definition.alias {
            Some(alias) => self.of(alias),
            None if definition.fields.is_empty() => Type::Dyn,
            None => self.structure(definition),
        };
        self.making.pop();
        self.made.insert(definition.name.clone(), ty.clone());
        ty
    }

    fn structure(&mut self, definition: &Definition) -> Type {
        let fields = definition.fields.iter();
        let fields = fields.filter_map(|field| Some((escape(&field.name)?, self.of(&field.ty))));
        Type::Object(Arc::new(Structure {
            name: definition.name.clone(),
            fields: fields.collect(),
        }))
    }

    fn of(&mut self, ty: &schema::Type) -> Type {
        match ty {
            schema::Type::String => Type::String,
            schema::Type::Bool => Type::Bool,
            schema::Type::Int32 | schema::Type::Int64 => Type::Int,
            schema::Type::Float => Type::Double,
            schema::Type::Bytes => Type::Bytes,
            schema::Type::Time | schema::Type::MicroTime => Type::Timestamp,
            schema::Type::Quantity | schema::Type::IntOrString | schema::Type::Any => Type::Dyn,
            schema::Type::List(item) => Type::list(self.of(item)),
            schema::Type::Map(value) => Type::map(Type::String, self.of(value)),
            schema::Type::Ref(name) => match self.schemas.get(name).cloned() {
                Some(definition) => self.definition(&definition),
                None => Type::Dyn,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(validation: Value) -> Vec<(String, String)> {
        let spec = json!({"matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
            "resources": ["*/status", "deployments", "deployments/scale"]}]}, "variables": [{"name": "r", "expression": "object.spec.replicas"}],
            "validations": [validation]});
        let warnings = warnings(&spec, Registry::builtin());
        let text = |w: &Value, key: &str| w[key].as_str().unwrap_or_default().to_owned();
        warnings
            .iter()
            .map(|w| (text(w, "fieldRef"), text(w, "warning")))
            .collect()
    }

    #[test]
    fn confused_types_are_told() {
        assert_eq!(
            told(json!({"expression": "object.spec.replicas > 1 && variables.r > 1"})),
            []
        );
        let confused = told(json!({"expression": "object.spec.replicas > '1'",
            "messageExpression": "'wants more, got ' + object.spec.replicas"}));
        assert_eq!(confused[0].0, "spec.validations[0].expression");
        let why = "found no matching overload for '_>_' applied to '(int, string)'";
        assert!(
            confused[0].1.starts_with("apps/v1, Kind=Deployment: ERROR: ") && confused[0].1.contains(why),
            "{confused:?}"
        );
        assert!(
            confused[1].1.contains("'_+_' applied to '(string, int)'"),
            "{confused:?}"
        );
        let missing = told(json!({"expression": "object.spec.nope == 1"}));
        assert!(missing[0].1.contains("undefined field 'nope'"), "{missing:?}");
    }
}

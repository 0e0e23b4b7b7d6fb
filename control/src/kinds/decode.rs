//! Decoding by schema: unknown fields dropped and told, types checked, scalars brought into canonical form.
//!
//! Follows Kubernetes' JSON decoder in what it accepts and in the words of its errors. Refuses to know single kinds.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::ops::Range;

use super::error::{DecodeError, FieldIssue, Unknown};
use super::quantity::Quantity;
use super::schema::{Definition, Field, Schemas, Type};
use super::time;

/// Decodes `object` in place. See [`super::Kind::prune`].
pub fn decode<'a>(
    schemas: &'a Schemas,
    root: &'a Definition,
    object: &mut Value,
) -> Result<Vec<FieldIssue>, DecodeError> {
    let mut decoder = Decoder {
        schemas,
        unknown: Unknown::default(),
        path: String::new(),
        names: Vec::new(),
    };
    match object {
        Value::Object(map) => decoder.object(root, map)?,
        other => {
            let name = format!("v1.{}", root.short_name());
            return Err(DecodeError::new(format!(
                "json: cannot unmarshal {} into Go value of type {name}",
                word(other)
            )));
        }
    }
    Ok(decoder.unknown.into_issues())
}

struct Decoder<'a> {
    schemas: &'a Schemas,
    unknown: Unknown,
    /// With indices, for issues: `spec.containers[0].foo`.
    path: String,
    /// Where in `path` the names are, for errors, which have no indices: `spec.containers.foo`.
    names: Vec<Range<usize>>,
}

/// Where a value sits, for the error that says it does not fit.
#[derive(Clone, Copy)]
struct Place<'a> {
    structure: &'a str,
    field: &'a Field,
    /// What the value is an element of.
    within: Option<(&'a Place<'a>, &'static str, &'a Type)>,
}

impl Place<'_> {
    fn go_type(&self) -> String {
        let Some((outer, prefix, item)) = self.within else {
            return self.field.go_type();
        };
        let outer = outer.go_type();
        let inner = outer.strip_prefix(prefix);
        inner.map_or_else(|| item.go_name(), str::to_owned)
    }
}

impl<'a> Decoder<'a> {
    fn object(
        &mut self,
        definition: &'a Definition,
        map: &mut Map<String, Value>,
    ) -> Result<(), DecodeError> {
        let mut outcome = Ok(());
        map.retain(|key, value| {
            if outcome.is_err() {
                return true;
            }
            let length = self.enter(key);
            let kept = self.member(definition, key, value);
            self.leave(length);
            kept.unwrap_or_else(|error| {
                outcome = Err(error);
                true
            })
        });
        outcome
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        let start = self.path.len();
        self.path.push_str(key);
        self.names.push(start..self.path.len());
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
        self.names.pop();
    }

    /// Whether the member stays.
    fn member(
        &mut self,
        definition: &'a Definition,
        key: &str,
        value: &mut Value,
    ) -> Result<bool, DecodeError> {
        let Some(field) = definition.field(key) else {
            self.unknown.note(&self.path);
            return Ok(false);
        };
        if value.is_null() {
            return Ok(false);
        }
        let place = Place {
            structure: definition.short_name(),
            field,
            within: None,
        };
        self.value(&field.ty, value, &place).map(|()| true)
    }

    fn value(&mut self, ty: &'a Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        match ty {
            Type::Any => Ok(()),
            Type::List(item) => self.list(item, value, place),
            Type::Map(item) => self.map(item, value, place),
            Type::Ref(_) => self.reference(ty, value, place),
            _ => self.scalar(ty, value, place),
        }
    }

    fn reference(&mut self, ty: &'a Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        let Some(definition) = self.schemas.resolve(ty) else {
            return Ok(());
        };
        if definition.alias.is_some() || definition.fields.is_empty() && definition.name.contains(".JSON") {
            return Ok(());
        }
        match value {
            Value::Object(map) => self.object(definition, map),
            other => Err(self.mismatch(other, place)),
        }
    }

    fn list(&mut self, item: &'a Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        let Value::Array(items) = value else {
            return Err(self.mismatch(value, place));
        };
        let inner = Place {
            within: Some((place, "[]", item)),
            ..*place
        };
        for (i, element) in items.iter_mut().enumerate() {
            let length = self.path.len();
            // Writing to a text cannot fail.
            let _ = write!(self.path, "[{i}]");
            self.element(item, element, &inner)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, item: &'a Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        let Value::Object(members) = value else {
            return Err(self.mismatch(value, place));
        };
        let inner = Place {
            within: Some((place, "map[string]", item)),
            ..*place
        };
        for (key, member) in members.iter_mut() {
            // A key is no field: errors do not name it.
            let length = self.path.len();
            self.path.push('.');
            self.path.push_str(key);
            self.element(item, member, &inner)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    /// A null element is the zero value of its type.
    fn element(&mut self, ty: &'a Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        if value.is_null() {
            *value = zero(ty);
            return Ok(());
        }
        self.value(ty, value, place)
    }

    fn scalar(&self, ty: &Type, value: &mut Value, place: &Place<'_>) -> Result<(), DecodeError> {
        match ty {
            Type::String if value.is_string() => Ok(()),
            Type::Bool if value.is_boolean() => Ok(()),
            Type::Float if value.is_number() => Ok(()),
            Type::Int32 if fits(value, i64::from(i32::MIN), i64::from(i32::MAX)) => Ok(()),
            Type::Int64 if fits(value, i64::MIN, i64::MAX) => Ok(()),
            Type::Bytes if value.is_string() => bytes(value),
            Type::Quantity => quantity(value),
            Type::IntOrString => int_or_string(value),
            Type::Time => moment(value, time::rfc3339),
            Type::MicroTime => moment(value, time::rfc3339_micro),
            _ => Err(self.mismatch(value, place)),
        }
    }

    fn mismatch(&self, value: &Value, place: &Place<'_>) -> DecodeError {
        let names: Vec<&str> = self.names.iter().map(|at| &self.path[at.clone()]).collect();
        let path = names.join(".");
        let wanted = place.within.map_or(&place.field.ty, |(_, _, item)| item);
        let word = match (value, wanted) {
            (Value::Number(n), Type::Int32 | Type::Int64) => format!("number {n}"),
            (Value::Number(_), _) => "number".to_owned(),
            _ => word(value),
        };
        let (structure, ty) = (place.structure, place.go_type());
        DecodeError::misplaced(
            format!("json: cannot unmarshal {word} into Go struct field {structure}.{path} of type {ty}"),
            unrestored(value, place, &ty),
        )
    }
}

/// Why upstream's converter cannot put a value into a field of type `ty`.
fn unrestored(value: &Value, place: &Place<'_>, ty: &str) -> String {
    let (kind, of) = match value {
        Value::Null => ("invalid", "nil"),
        Value::Bool(_) => ("bool", "bool"),
        Value::Number(n) if n.is_i64() => ("int64", "int64"),
        Value::Number(_) => ("float64", "float64"),
        Value::String(_) => ("string", "string"),
        Value::Array(_) => ("slice", "[]interface {}"),
        Value::Object(_) => ("map", "map[string]interface {}"),
    };
    let wanted = place.within.map_or(&place.field.ty, |(_, _, item)| item);
    // Go converts between numbers, and an integer to the letter that it stands for.
    let converts = match wanted {
        Type::Int32 | Type::Int64 | Type::Float => value.is_number(),
        Type::String => value.is_i64(),
        Type::Bool => false,
        _ => true,
    };
    match wanted {
        plain if !converts => format!("unrecognized type: {}", plain.go_name()),
        Type::List(_) | Type::Bytes => format!("cannot restore slice from {kind}"),
        Type::Map(_) => format!("cannot restore map from {kind}"),
        Type::Ref(_) => format!("cannot restore struct from: {kind}"),
        _ => format!("cannot convert {of} to {ty}"),
    }
}

fn fits(value: &Value, low: i64, high: i64) -> bool {
    value.as_i64().is_some_and(|n| (low..=high).contains(&n))
}

/// A value's kind as Go's decoder names it; a number comes with its digits when it is the digits that do not fit.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(n) if n.as_i64().is_none_or(|i| i32::try_from(i).is_err()) => format!("number {n}"),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(_) => "array".into(),
        Value::Object(_) => "object".into(),
    }
}

/// The zero value of a type, as the encoder writes it.
pub(super) fn zero(ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
        Type::Quantity => Value::from("0"),
        // Free JSON that nobody gave.
        Type::Ref(name) if name.ends_with(".RawExtension") => Value::Null,
        Type::Ref(_) => Value::Object(Map::new()),
        Type::List(_) | Type::Map(_) | Type::Any | Type::Time | Type::MicroTime => Value::Null,
    }
}

/// Line breaks in base64 are passed over, and not kept.
fn bytes(value: &mut Value) -> Result<(), DecodeError> {
    let said = value.as_str().unwrap_or_default();
    if !said.contains(['\r', '\n']) {
        return base64_text(said);
    }
    let text = said.replace(['\r', '\n'], "");
    base64_text(&text)?;
    *value = Value::from(text);
    Ok(())
}

fn base64_text(text: &str) -> Result<(), DecodeError> {
    match STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(illegal_base64(at))
        }
        Err(_) => Err(illegal_base64(text.len() / 4 * 4)),
    }
}

fn illegal_base64(at: usize) -> DecodeError {
    DecodeError::new(format!("illegal base64 data at input byte {at}"))
}

fn quantity(value: &mut Value) -> Result<(), DecodeError> {
    let text = match &*value {
        Value::String(s) => s.trim().to_owned(),
        other => other.to_string(),
    };
    let parsed = Quantity::parse(&text).map_err(|e| DecodeError::new(e.to_string()))?;
    *value = Value::from(parsed.to_string());
    Ok(())
}

fn int_or_string(value: &Value) -> Result<(), DecodeError> {
    if value.is_string() || fits(value, i64::from(i32::MIN), i64::from(i32::MAX)) {
        return Ok(());
    }
    Err(DecodeError::new(format!(
        "json: cannot unmarshal {} into Go value of type int32",
        word(value)
    )))
}

fn moment(value: &mut Value, canonical: fn(&str) -> Result<String, String>) -> Result<(), DecodeError> {
    let Value::String(text) = &*value else {
        return Err(DecodeError::new(format!(
            "json: cannot unmarshal {} into Go value of type string",
            word(value)
        )));
    };
    *value = Value::from(canonical(text).map_err(DecodeError::new)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(mut object: Value) -> Result<(Value, Vec<String>), String> {
        let schemas = Schemas::builtin();
        let definition = schemas.get("io.k8s.api.core.v1.Pod").expect("definition");
        let issues = decode(schemas, definition, &mut object).map_err(|e| e.to_string())?;
        Ok((object, issues.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn unknown_fields_go_and_are_told_with_their_path() {
        let (object, issues) = pod(json!({
            "metadata": {"name": "p", "nope": 1},
            "spec": {"containers": [{"name": "c", "env": [{"name": "A", "valu": "x"}]}], "foo": {}},
        }))
        .expect("decodes");
        assert_eq!(
            object,
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "env": [{"name": "A"}]}]}})
        );
        let mut issues = issues;
        issues.sort();
        let want = [
            "unknown field \"metadata.nope\"",
            "unknown field \"spec.containers[0].env[0].valu\"",
            "unknown field \"spec.foo\"",
        ];
        assert_eq!(issues, want);
    }

    #[test]
    fn nulls_are_absence_and_zero_values() {
        let (object, _) = pod(json!({
            "metadata": {"labels": {"a": null}, "creationTimestamp": null},
            "spec": {"containers": [null, {"command": [null, "x"]}]},
        }))
        .expect("decodes");
        assert_eq!(
            object,
            json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}, {"command": ["", "x"]}]}})
        );
    }

    #[test]
    fn wrong_types_are_told_as_upstream_tells_them() {
        let cases = [
            (
                json!({"spec": {"containers": "x"}}),
                "string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": {"containers": [{"name": 1}]}}),
                "number into Go struct field Container.spec.containers.name of type string",
            ),
            (
                json!({"spec": {"containers": ["c"]}}),
                "string into Go struct field PodSpec.spec.containers of type v1.Container",
            ),
            (
                json!({"metadata": {"name": true}}),
                "bool into Go struct field ObjectMeta.metadata.name of type string",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "number into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"spec": {"restartPolicy": 1}}),
                "number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
            ),
            (
                json!({"spec": {"priority": 3_000_000_000_i64}}),
                "number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                json!({"spec": []}),
                "array into Go struct field Pod.spec of type v1.PodSpec",
            ),
            (
                json!({"spec": {"containers": [{"ports": [{"containerPort": 1.5}]}]}}),
                "number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (json!([]), "array into Go value of type v1.Pod"),
        ];
        for (object, want) in cases {
            assert_eq!(
                pod(object).expect_err("refused"),
                format!("json: cannot unmarshal {want}")
            );
        }
    }

    #[test]
    fn scalars_become_canonical() {
        let (object, _) = pod(json!({
            "metadata": {"creationTimestamp": "2024-01-02T03:04:05.6+01:00"},
            "spec": {"overhead": {"cpu": 1, "memory": "1024Ki"}},
        }))
        .expect("decodes");
        assert_eq!(object["metadata"]["creationTimestamp"], "2024-01-02T02:04:05Z");
        assert_eq!(object["spec"]["overhead"], json!({"cpu": "1", "memory": "1Mi"}));
        let bad = pod(json!({"spec": {"overhead": {"cpu": "one"}}})).expect_err("refused");
        assert!(
            bad.starts_with("quantities must match the regular expression"),
            "{bad}"
        );
    }
}

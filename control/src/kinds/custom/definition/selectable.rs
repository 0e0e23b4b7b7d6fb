//! What makes a selectable field of a version invalid: a path that leads nowhere, or to what is no scalar. Pure.
use crate::kinds::custom::schema::{Additional, Structural};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::view::View;
use serde_json::Value;
use std::collections::BTreeSet;

/// Selectable fields of one version.
const MOST: usize = 8;

/// What is wrong with the selectable fields of a version, which are at `path`.
pub(super) fn selectable(version: &Value, path: &str) -> FieldErrors {
    let fields = version.list("selectableFields");
    if fields.is_empty() {
        return Vec::new();
    }
    let schema = Structural::parse(version.at("schema.openAPIV3Schema"));
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (text, path) = (field.text("jsonPath"), format!("{path}[{i}].jsonPath"));
        errors.extend(complaints(text, &schema, &path, &mut seen));
    }
    if seen.len() > MOST {
        errors.push(FieldError::too_many(path, seen.len(), MOST));
    }
    errors
}

/// What is wrong with one, where these have been seen.
fn complaints(text: &str, schema: &Structural, at: &str, seen: &mut BTreeSet<Vec<String>>) -> FieldErrors {
    if text.is_empty() {
        return vec![FieldError::required(at, "")];
    }
    let invalid = |why: &str| FieldError::invalid(at, text, why);
    let (steps, found) = match follow(text, schema) {
        Ok(found) => found,
        Err(why) => return vec![invalid(&format!("is an invalid path: {why}"))],
    };
    let mut errors = Vec::new();
    if steps.first().is_some_and(|root| root == "metadata") {
        errors.push(invalid("must not point to fields in metadata"));
    }
    if !found.is_some_and(|found| ["string", "boolean", "integer"].contains(&&*found.ty)) {
        errors.push(invalid(
            "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
             are allowed.",
        ));
    }
    if !seen.insert(steps) {
        errors.push(FieldError::duplicate(at, text));
    }
    errors
}

type Found<'s> = (Vec<String>, Option<&'s Structural>);

/// Where a path leads: its steps, and the schema of what is there, where there is one (upstream's `ValidFieldPath`).
fn follow<'s>(text: &str, schema: &'s Structural) -> Result<Found<'s>, String> {
    let (mut steps, mut at) = (Vec::new(), Some(schema));
    let mut tokens = tokens(text).into_iter();
    while let Some(token) = tokens.next() {
        match token {
            "." => {}
            "[" => return Err("array notation is not allowed".to_owned()),
            other => return Err(format!("expected [ or . but got: {other}")),
        }
        let name = tokens.next().ok_or("unexpected end of JSON path")?;
        at = below(at, name).ok_or("does not refer to a valid field")?;
        steps.push(name.to_owned());
    }
    Ok((steps, at))
}

/// The schema of a member, if it has one; none when there is no such member.
fn below<'s>(schema: Option<&'s Structural>, name: &str) -> Option<Option<&'s Structural>> {
    let schema = schema?;
    match (&schema.additional, schema.properties.is_empty()) {
        (_, false) => schema.properties.get(name).map(Some),
        (Additional::Schema(value), true) => Some(Some(value)),
        (Additional::Any, true) => Some(None),
        (Additional::None, true) => None,
    }
}

/// A path cut at `.`, `[` and `]`, which are tokens too.
fn tokens(text: &str) -> Vec<&str> {
    let delimiter = |c: char| ['.', '[', ']'].contains(&c);
    let parts = text.split_inclusive(delimiter).flat_map(|part| {
        let end = part.len()
            - part
                .chars()
                .next_back()
                .filter(|c| delimiter(*c))
                .map_or(0, char::len_utf8);
        let (name, delimiter) = part.split_at(end);
        [name, delimiter]
    });
    parts.filter(|token| !token.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::error::join;
    use serde_json::json;

    #[test]
    fn paths_are_judged_in_upstreams_words() {
        let version = |paths: &[&str]| {
            let fields: Vec<Value> = paths.iter().map(|path| json!({"jsonPath": path})).collect();
            json!({"selectableFields": fields, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
                "spec": {"type": "object", "properties": {"color": {"type": "string"}, "tags": {"type": "array",
                    "items": {"type": "string"}}, "map": {"type": "object", "additionalProperties": {"type": "integer"}}}}}}}})
        };
        let told = |paths: &[&str]| join(&selectable(&version(paths), "f"));
        let scalar = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                      formats are allowed.";
        assert_eq!(told(&[".spec.color", ".spec.map.any"]), "[]");
        for (path, why) in [
            (
                ".spec['color']",
                "is an invalid path: array notation is not allowed",
            ),
            (
                ".spec.color[0]",
                "is an invalid path: array notation is not allowed",
            ),
            (".spec.nix", "is an invalid path: does not refer to a valid field"),
            (
                ".metadata.uid",
                "is an invalid path: does not refer to a valid field",
            ),
            (
                ".spec.color.x",
                "is an invalid path: does not refer to a valid field",
            ),
            ("spec.color", "is an invalid path: expected [ or . but got: spec"),
            (".spec.", "is an invalid path: unexpected end of JSON path"),
            (".metadata.name", "must not point to fields in metadata"),
            (".spec.tags", scalar),
        ] {
            assert_eq!(
                told(&[path]),
                format!("f[0].jsonPath: Invalid value: {path:?}: {why}")
            );
        }
        assert_eq!(
            told(&[".spec.color"; 2]),
            "f[1].jsonPath: Duplicate value: \".spec.color\""
        );
    }
}

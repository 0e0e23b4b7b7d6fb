//! What makes one version of a definition invalid: subresources, columns, deprecation.
use super::selectable::selectable;
use crate::kinds::custom::definition_schema;
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;
use serde_json::Value;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

/// What all versions have the same, which upstream keeps once and names at the top.
pub(super) struct Common {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Common {
    pub(super) fn of(versions: &[Value]) -> Common {
        let same = |path: &str| {
            let first = versions.first().map(|v| v.at(path));
            first.is_some_and(|f| !f.is_null() && versions.iter().all(|v| v.at(path) == f))
        };
        Common {
            schema: same("schema"),
            subresources: same("subresources"),
            columns: same("additionalPrinterColumns"),
            selectable: same("selectableFields"),
        }
    }
}

pub(super) fn version_errors(version: &Value, path: &str, common: &Common) -> FieldErrors {
    let name = version.text("name");
    let mut errors = Vec::new();
    let complaints = names::label_1035(name);
    if !complaints.is_empty() {
        errors.push(FieldError::invalid(
            format!("{path}.name"),
            name,
            complaints.join(","),
        ));
    }
    errors.extend(deprecation(version, &format!("{path}.deprecationWarning")));
    let status = version.has("subresources.status");
    if !common.schema {
        errors.extend(definition_schema::validate(
            version.at("schema"),
            &format!("{path}.schema"),
            status,
        ));
    }
    if !common.subresources {
        errors.extend(subresources(
            version.at("subresources"),
            &format!("{path}.subresources"),
        ));
    }
    if !common.columns {
        errors.extend(columns(version, &format!("{path}.additionalPrinterColumns")));
    }
    if !common.selectable {
        errors.extend(selectable(version, &format!("{path}.selectableFields")));
    }
    errors
}

pub(super) fn common_errors(first: &Value, versions: &[Value], common: &Common) -> FieldErrors {
    let mut errors = Vec::new();
    let status = versions.iter().any(|v| v.has("subresources.status"));
    if common.schema {
        errors.extend(definition_schema::validate(
            first.at("schema"),
            "spec.validation",
            status,
        ));
    }
    if common.subresources {
        errors.extend(subresources(first.at("subresources"), "spec.subresources"));
    }
    if common.columns {
        errors.extend(columns(first, "spec.additionalPrinterColumns"));
    }
    if common.selectable {
        errors.extend(selectable(first, "spec.selectableFields"));
    }
    errors
}

fn deprecation(version: &Value, path: &str) -> FieldErrors {
    let Some(warning) = version.at("deprecationWarning").as_str() else {
        return Vec::new();
    };
    let invalid = |why: &str| FieldError::invalid(path, warning, why);
    if !version.flag("deprecated") {
        return vec![invalid("can only be set for deprecated versions")];
    }
    let mut errors = Vec::new();
    if warning.len() > 256 {
        errors.push(invalid("must be <= 256 characters long"));
    }
    if warning.is_empty() {
        errors.push(invalid("must not be an empty string"));
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        errors.push(invalid(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        )));
    }
    errors
}

fn subresources(subresources: &Value, path: &str) -> FieldErrors {
    if !subresources.has("scale") {
        return Vec::new();
    }
    let scale = subresources.at("scale");
    let mut errors = Vec::new();
    for (key, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (text, path) = (scale.text(key), format!("{path}.scale.{key}"));
        if text.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if let Some(error) = simple_path(text, &path) {
            errors.push(error);
        } else if !text.starts_with(root) {
            let why = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.push(FieldError::invalid(path, text, why));
        }
    }
    let (text, path) = (
        scale.text("labelSelectorPath"),
        format!("{path}.scale.labelSelectorPath"),
    );
    if !text.is_empty() {
        match simple_path(text, &path) {
            Some(error) => errors.push(error),
            None if [".spec.", ".status."].iter().any(|root| text.starts_with(root)) => {}
            None => {
                let why = "should be a json path under either .spec or .status";
                errors.push(FieldError::invalid(path, text, why));
            }
        }
    }
    errors
}

fn simple_path(text: &str, path: &str) -> Option<FieldError> {
    (!text.starts_with('.'))
        .then(|| FieldError::invalid(path, text, "must be a simple json path starting with ."))
}

fn columns(version: &Value, path: &str) -> FieldErrors {
    let columns = version.list("additionalPrinterColumns").iter().enumerate();
    columns
        .flat_map(|(i, column)| self::column(column, &format!("{path}[{i}]")))
        .collect()
}

fn column(column: &Value, path: &str) -> FieldErrors {
    let mut errors = Vec::new();
    let one_of = |list: &[&str]| format!("must be one of {}", list.join(","));
    if column.text("name").is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    }
    match column.text("type") {
        "" => errors.push(FieldError::required(
            format!("{path}.type"),
            one_of(&COLUMN_TYPES),
        )),
        ty if COLUMN_TYPES.contains(&ty) => {}
        ty => errors.push(FieldError::invalid(
            format!("{path}.type"),
            ty,
            one_of(&COLUMN_TYPES),
        )),
    }
    match column.text("format") {
        "" => {}
        format if COLUMN_FORMATS.contains(&format) => {}
        format => errors.push(FieldError::invalid(
            format!("{path}.format"),
            format,
            one_of(&COLUMN_FORMATS),
        )),
    }
    match column.text("jsonPath") {
        "" => errors.push(FieldError::required(format!("{path}.JSONPath"), "")),
        text => errors.extend(simple_path(text, &format!("{path}.JSONPath"))),
    }
    errors
}

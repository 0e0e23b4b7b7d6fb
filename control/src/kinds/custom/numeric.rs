//! Numbers in custom resources: which of them are integers to a schema, what its formats hold, and its bounds.
use serde_json::{Number, Value};

use super::place::Place;
use super::schema::{Checks, Structural};
use crate::kinds::bounded::Found;
use crate::kinds::error::FieldError;
use crate::kinds::numbers::{exact, whole};
use crate::kinds::printed::printed;

/// Whether a number is an integer though it is written with a fraction or an exponent.
pub(super) fn is_integral(value: &Value) -> bool {
    value.as_f64().and_then(exact).is_some()
}

/// The format of a number by its schema; others mean nothing.
pub(super) fn format(schema: &Structural) -> Option<&str> {
    let format = schema.checks.format.as_deref()?;
    let known = match schema.ty.as_str() {
        _ if schema.int_or_string => false,
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    known.then_some(format)
}

/// The format that a value has by itself, as upstream infers it.
pub(super) fn inferred(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        _ => "",
    }
}

/// Everything wrong with a number but its type.
pub(super) fn validate(schema: &Structural, number: &Number, path: Place<'_>, errors: &mut Found) {
    if !holds(schema, number) {
        let format = match format(schema) {
            Some(format) => format!("with format {format}"),
            None => "(default format)".to_owned(),
        };
        let why = format!("Checked value must be of type {} {format} in {path}", schema.ty);
        errors.push(FieldError::invalid("<nil>", "", why));
    }
    bounds(&schema.checks, number, path, errors);
}

/// Whether the type and the format have room for a number.
fn holds(schema: &Structural, number: &Number) -> bool {
    let float = number.as_f64().unwrap_or(f64::NAN);
    let integer = number.as_i64().or_else(|| whole(float));
    match (schema.ty.as_str(), format(schema)) {
        _ if schema.int_or_string => true,
        ("integer", Some("int32")) => integer.is_some_and(|n| i32::try_from(n).is_ok()),
        ("integer", _) => integer.is_some(),
        ("number", Some("float")) => float.abs() <= f64::from(f32::MAX),
        _ => true,
    }
}

fn bounds(checks: &Checks, number: &Number, path: Place<'_>, errors: &mut Found) {
    let n = number.as_f64().unwrap_or(0.0);
    let shown = printed(&Value::Number(number.clone()));
    let mut invalid = |detail: String| {
        let detail = format!("{path} in body should be {detail}");
        errors.push(FieldError::invalid_shown(path, shown.clone(), detail));
    };
    if let Some(factor) = checks
        .multiple_of
        .filter(|f| *f != 0.0 && (n / f).fract().abs() > f64::EPSILON)
    {
        invalid(format!("a multiple of {factor}"));
    }
    match checks.maximum {
        Some(max) if checks.exclusive_maximum && n >= max => invalid(format!("less than {max}")),
        Some(max) if n > max => invalid(format!("less than or equal to {max}")),
        _ => {}
    }
    match checks.minimum {
        Some(min) if checks.exclusive_minimum && n <= min => invalid(format!("greater than {min}")),
        Some(min) if n < min => invalid(format!("greater than or equal to {min}")),
        _ => {}
    }
}

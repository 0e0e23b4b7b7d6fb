//! Printer columns: one cell for each column a definition names (`additionalPrinterColumns`).
use jiff::Timestamp;
use serde_json::Value;

use super::jsonpath::JsonPath;
use crate::kinds::kind::Column;
use crate::kinds::time;
use crate::kinds::view::View;

/// The cells of one object; the first column is its name and has no path.
pub(super) fn row(paths: &[JsonPath], columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let cells = paths.iter().zip(columns.iter().skip(1));
    let cells = cells.map(|(path, column)| cell(&column.ty, path.find(object).first().copied(), now));
    std::iter::once(Value::from(object.text("metadata.name")))
        .chain(cells)
        .collect()
}

fn cell(ty: &str, value: Option<&Value>, now: Timestamp) -> Value {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Value::Null;
    };
    match (ty, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => Value::from(other.to_string()),
        ("integer", Value::Number(n)) => n.as_i64().map_or_else(|| truncated(n.as_f64()), Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) if text.parse::<Timestamp>().is_err() => Value::from("<invalid>"),
        ("date", Value::String(text)) => Value::from(time::age(Some(text), now)),
        _ => Value::Null,
    }
}

fn truncated(number: Option<f64>) -> Value {
    number.map_or(Value::Null, |n| Value::from(n as i64))
}

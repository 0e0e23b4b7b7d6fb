//! Values as JSON, for what expressions make.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonObject, Value as Json};

use super::eval::EvalError;
use super::value::{Key, List, Map, Value};

impl Value<'_> {
    /// The JSON of a value that has one (`google.protobuf.Value`).
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Value::Null => Json::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(n) => (*n).into(),
            Value::Uint(n) => (*n).into(),
            Value::Double(n) => (*n).into(),
            Value::String(text) => (**text).into(),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Value::Timestamp(moment) => moment.time().to_string().into(),
            Value::Duration(duration) => format!("{}s", duration.as_secs_f64()).into(),
            Value::List(List::Json(items, _)) => items.to_vec().into(),
            Value::List(List::Shared(items)) => {
                let items = items.iter().map(Value::to_json);
                items.collect::<Result<Vec<_>, _>>()?.into()
            }
            Value::Map(Map::Json(map, _) | Map::Object(map, _)) => Json::Object((*map).clone()),
            Value::Map(Map::Shared(map)) => {
                let members = map.iter().map(|(key, value)| Ok((text(key)?, value.to_json()?)));
                Json::Object(members.collect::<Result<JsonObject<_, _>, EvalError>>()?)
            }
            Value::Optional(Some(inner)) => inner.to_json()?,
            other => {
                let why = format!("a value of type {} cannot be written as JSON", other.type_name());
                return Err(EvalError::new(why));
            }
        })
    }
}

fn text(key: &Key) -> Result<String, EvalError> {
    match key {
        Key::String(text) => Ok(text.to_string()),
        _ => Err(EvalError::new("only text can be the name of a JSON member")),
    }
}

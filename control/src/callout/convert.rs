//! Objects of a definition in another version, by its converter (KEP-598): all of a request in a few calls.
use serde_json::Value;

use super::{Exchange, post};
use crate::admission::Objects;
use crate::kinds::Kind;
use crate::kinds::custom::{Conversion, Converter};

/// Seconds that a converter may take (upstream's).
const WITHIN: u64 = 30;
/// Objects of one call: what they take is bounded, as is how much is lost when a call fails.
const PER_CALL: usize = 500;
/// Bytes of one answer: that many objects of ordinary size, or a few of the largest.
const ANSWER: usize = 32 << 20;

/// These objects as `kind` has them; the error is what clients are told. `list` says whether they are shown together.
pub async fn convert(
    objects: &dyn Objects,
    converter: &Converter,
    kind: &Kind,
    asked: Vec<Value>,
    list: bool,
) -> Result<Vec<Value>, String> {
    let wanted = kind.api_version();
    let mut converted = Vec::with_capacity(asked.len());
    for part in asked.chunks(PER_CALL) {
        let conversion = Conversion {
            converter,
            objects: part,
            wanted: &wanted,
            list,
        };
        converted.extend(ask(objects, &conversion).await?);
    }
    Ok(converted)
}

async fn ask(objects: &dyn Objects, conversion: &Conversion<'_>) -> Result<Vec<Value>, String> {
    let uid = uuid::Uuid::new_v4().to_string();
    let review = conversion.review(&uid)?;
    let exchange = Exchange {
        within: WITHIN,
        answer: ANSWER,
    };
    let answer = post(objects, &conversion.converter.client_config, exchange, &review).await;
    let answer = answer.map_err(|failed| failed.why);
    let answer = answer.and_then(|answer| crate::api::decoded(&answer));
    conversion.read(&answer.map_err(|why| conversion.failed(&why))?, &uid)
}

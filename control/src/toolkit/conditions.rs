//! Conditions of a status, as JSON.
use serde_json::{Value, json};

/// The condition of a type.
pub fn find<'a>(status: &'a Value, ty: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == ty)
}

/// Sets a condition; its time of transition stays while its status does.
pub fn set(status: &mut Value, ty: &str, (state, reason, message): (&str, &str, &str), now: &str) {
    let found = find(status, ty);
    let since = found
        .filter(|c| c["status"] == state)
        .map(|c| c["lastTransitionTime"].clone());
    let new = json!({
        "type": ty, "status": state, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| now.into()),
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let list = status["conditions"].as_array_mut().into_iter();
    list.for_each(|list| match list.iter_mut().find(|c| c["type"] == ty) {
        Some(old) => *old = new.clone(),
        None => list.push(new.clone()),
    });
}

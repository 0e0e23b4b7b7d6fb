//! ConfigMaps, Secrets, Namespaces and Leases.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{complain, immutable};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// All values of a ConfigMap or Secret together, in bytes: what fits into one entry of the store with room to spare.
const MAX_SIZE: usize = 1024 * 1024;
const FIXED: &str = "field is immutable when `immutable` is set";
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
const TOKEN_OWNER: &str = "kubernetes.io/service-account.name";

pub fn config_map(object: &Value) -> FieldErrors {
    let (data, binary) = (object.map("data"), object.map("binaryData"));
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        let path = format!("data[{key}]");
        errors.extend(complain(&path, key, names::config_key(key)));
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid(
                path,
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        errors.extend(complain(
            format_args!("binaryData[{key}]"),
            key,
            names::config_key(key),
        ));
        size += decoded_len(value);
    }
    errors.extend((size > MAX_SIZE).then(|| FieldError::too_long("[]", MAX_SIZE)));
    errors
}

pub fn config_map_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = frozen(new, old, &["data", "binaryData"]);
    errors.extend(config_map(new));
    errors
}

/// Nothing of an immutable object's content changes, nor that it is immutable.
fn frozen(new: &Value, old: &Value, keys: &[&str]) -> FieldErrors {
    if !old.flag("immutable") {
        return Vec::new();
    }
    let loosened = (!new.flag("immutable")).then_some("immutable");
    let changed = loosened
        .into_iter()
        .chain(keys.iter().copied().filter(|key| new.at(key) != old.at(key)));
    changed.map(|key| FieldError::forbidden(key, FIXED)).collect()
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3
        - text
            .bytes()
            .rev()
            .take_while(|b| *b == b'=')
            .count()
            .min(text.len() / 4 * 3)
}

pub fn secret(object: &Value) -> FieldErrors {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in object.map("data").into_iter().flatten() {
        errors.extend(complain(format_args!("data[{key}]"), key, names::config_key(key)));
        size += decoded_len(value);
    }
    errors.extend((size > MAX_SIZE).then(|| FieldError::too_long("data", MAX_SIZE)));
    errors.extend(secret_type(object));
    errors
}

/// What Secrets of the built-in types must hold.
fn secret_type(object: &Value) -> FieldErrors {
    let has = |key: &str| object.map("data").is_some_and(|d| d.contains_key(key));
    let missing = |key: &str| (!has(key)).then(|| FieldError::required(format!("data[{key}]"), ""));
    match object.text("type") {
        "kubernetes.io/service-account-token" => {
            let owner = object
                .at("metadata.annotations")
                .get(TOKEN_OWNER)
                .and_then(Value::as_str);
            let path = format!("metadata.annotations[{TOKEN_OWNER}]");
            let none = owner.is_none_or(str::is_empty);
            none.then(|| FieldError::required(path, "")).into_iter().collect()
        }
        "kubernetes.io/dockercfg" => registry_config(object, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => registry_config(object, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            ["username", "password"].into_iter().filter_map(missing).collect()
        }
        "kubernetes.io/ssh-auth"
            if object
                .at("data")
                .get("ssh-privatekey")
                .is_none_or(|key| key == "") =>
        {
            vec![FieldError::required("data[ssh-privatekey]", "")]
        }
        "kubernetes.io/tls" => ["tls.crt", "tls.key"].into_iter().filter_map(missing).collect(),
        _ => Vec::new(),
    }
}

fn registry_config(object: &Value, key: &str) -> FieldErrors {
    let path = format!("data[{key}]");
    let Some(text) = object.at("data").get(key).and_then(Value::as_str) else {
        return vec![FieldError::required(path, "")];
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    match serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        Ok(_) => Vec::new(),
        Err(error) => vec![FieldError::invalid(
            path,
            "<secret contents redacted>",
            match bytes.is_empty() {
                true => "unexpected end of JSON input".to_owned(),
                false => error.to_string(),
            },
        )],
    }
}

pub fn secret_update(_: Option<&str>, new: &Value, old: &Value) -> FieldErrors {
    let mut errors: FieldErrors = immutable(new, old, "type").into_iter().collect();
    errors.extend(frozen(new, old, &["data"]));
    errors.extend(secret(new));
    errors
}

pub fn namespace(object: &Value) -> FieldErrors {
    let finalizers = object.list("spec.finalizers").iter().filter_map(Value::as_str);
    finalizers
        .flat_map(|name| finalizer(name, "spec.finalizers"))
        .collect()
}

fn finalizer(name: &str, path: &str) -> FieldErrors {
    let mut errors = complain(path, name, names::qualified(name));
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
    errors
}

pub fn namespace_update(subresource: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    match subresource {
        Some("status") => phase(new).into_iter().collect(),
        Some("finalize") => {
            let finalizers = new.list("spec.finalizers").iter().filter_map(Value::as_str);
            let each = finalizers.enumerate();
            each.flat_map(|(i, name)| finalizer(name, &format!("spec.finalizers[{i}]")))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The phase follows the deletion.
fn phase(namespace: &Value) -> Option<FieldError> {
    let phase = namespace.text("status.phase");
    let (wanted, detail) = match namespace.has("metadata.deletionTimestamp") {
        true => (
            "Terminating",
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        ),
        false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
    };
    (phase != wanted).then(|| FieldError::invalid("status.Phase", phase, detail))
}

pub fn lease(object: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    if let Some(seconds) = object.int("spec.leaseDurationSeconds").filter(|s| *s <= 0) {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    errors.extend(super::not_negative(object.at("spec"), "leaseTransitions", "spec"));
    errors
}

pub fn lease_update(_: Option<&str>, new: &Value, _: &Value) -> FieldErrors {
    lease(new)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::error::join;

    #[test]
    fn secrets_of_a_type_hold_what_it_needs() {
        let of = |ty: &str, data: Value| join(&secret(&json!({"type": ty, "data": data})));
        assert_eq!(
            of("kubernetes.io/tls", json!({"tls.crt": ""})),
            "data[tls.key]: Required value"
        );
        assert_eq!(of("Opaque", json!({})), "[]");
        assert!(
            of(
                "kubernetes.io/dockerconfigjson",
                json!({".dockerconfigjson": "eA=="})
            )
            .contains("redacted")
        );
        assert!(of("kubernetes.io/basic-auth", json!({})).starts_with("[data[username]: Required value"));
    }

    #[test]
    fn an_immutable_config_map_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let errors = config_map_update(None, &json!({"data": {"a": "2"}}), &old);
        assert_eq!(
            errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
            ["immutable", "data"]
        );
        assert_eq!(config_map_update(None, &old, &old), []);
    }

    #[test]
    fn sizes_are_of_decoded_bytes() {
        assert_eq!(decoded_len(&json!("YWI=")), 2);
        assert_eq!(decoded_len(&json!("")), 0);
        assert_eq!(decoded_len(&json!("====")), 0);
    }
}

//! Bodies as audit events show them: JSON, in whatever format they were sent. What cannot be read is not shown, and objects
//! that are sent are shown as they were understood (`audit::Told::sent`).
use super::decode;
use super::negotiate::{self, PatchType};
use super::status::Result;
use http::HeaderMap;
use serde_json::Value;

/// What a patch or a deletion came with.
pub(super) fn request(verb: &str, headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    match verb {
        "patch" => match negotiate::patch(headers).ok()? {
            PatchType::Apply => decode::config(body).ok(),
            _ => decode::json(body).ok(),
        }
        .map(|decoded| decoded.value),
        "delete" | "deletecollection" => options(headers, body),
        _ => None,
    }
}

/// Upstream shows them in the version that it reads all options in.
fn options(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let mut options = object("DeleteOptions", headers, body).ok()?.value;
    let fields = options.as_object_mut()?;
    fields.insert("kind".to_owned(), "DeleteOptions".into());
    fields.insert("apiVersion".to_owned(), "meta.k8s.io/__internal".into());
    Some(options)
}

/// What was answered.
pub(super) fn answer(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let decoded = object("Status", headers, body).ok();
    decoded.map(|decoded| decoded.value)
}

fn object(kind: &str, headers: &HeaderMap, body: &[u8]) -> Result<decode::Decoded> {
    decode::object(kind, negotiate::body(headers)?, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::protobuf;
    use http::header::CONTENT_TYPE;
    use serde_json::json;

    fn sent_as(content: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, content.parse().unwrap())])
    }

    #[test]
    fn every_format_is_shown() {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"}, "items": [
            {"metadata": {"name": "a"}}]});
        for object in [&map, &list] {
            let binary = protobuf::encode(object).unwrap();
            for (content, body) in [
                ("application/json", object.to_string().into_bytes()),
                ("application/yaml", object.to_string().into_bytes()),
                ("application/vnd.kubernetes.protobuf", binary),
            ] {
                let seen = answer(&sent_as(content), &body).unwrap();
                assert_eq!(
                    seen["items"][0]["metadata"]["name"], object["items"][0]["metadata"]["name"],
                    "{content}"
                );
            }
        }
        let json = sent_as("application/json;charset=utf-8");
        for body in ["", "5", "[1]", "{"] {
            assert_eq!(request("delete", &json, body.as_bytes()), None, "{body}");
        }
        let seen = request("delete", &json, br#"{"gracePeriodSeconds":1}"#).unwrap();
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/__internal", "gracePeriodSeconds": 1});
        assert_eq!(seen, options);
    }

    #[test]
    fn patches_are_shown_as_they_are() {
        for (content, body, want) in [
            (
                "application/json-patch+json",
                r#"[{"op":"test"}]"#,
                json!([{"op": "test"}]),
            ),
            (
                "application/merge-patch+json",
                r#"{"a":null}"#,
                json!({"a": null}),
            ),
            ("application/apply-patch+yaml", "a: 1", json!({"a": 1})),
        ] {
            assert_eq!(request("patch", &sent_as(content), body.as_bytes()), Some(want));
        }
    }
}

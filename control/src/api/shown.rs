//! Bodies as audit events show them: JSON, in whatever format they were sent. What cannot be read is not shown.
use super::decode;
use super::negotiate::{self, PatchType};
use super::status::Result;
use http::HeaderMap;
use serde_json::Value;

/// What was sent for an object of `kind`.
pub(super) fn request(kind: &str, verb: &str, headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let decoded = match verb {
        _ if body.is_empty() => return None,
        "patch" => match negotiate::patch(headers).ok()? {
            PatchType::Apply => decode::config(body).ok(),
            _ => decode::json(body).ok(),
        },
        "delete" | "deletecollection" => object("DeleteOptions", headers, body).ok(),
        _ => object(kind, headers, body).ok(),
    };
    decoded.map(|decoded| decoded.value)
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
                let seen = request("ConfigMap", "create", &sent_as(content), &body).unwrap();
                assert_eq!(
                    seen["metadata"]["name"], object["metadata"]["name"],
                    "{content}: {seen}"
                );
                let seen = answer(&sent_as(content), &body).unwrap();
                assert_eq!(
                    seen["items"][0]["metadata"]["name"], object["items"][0]["metadata"]["name"],
                    "{content}"
                );
            }
        }
        let json = sent_as("application/json;charset=utf-8");
        for body in ["", "5", "[1]", "{"] {
            assert_eq!(
                request("ConfigMap", "create", &json, body.as_bytes()),
                None,
                "{body}"
            );
        }
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
            assert_eq!(
                request("ConfigMap", "patch", &sent_as(content), body.as_bytes()),
                Some(want)
            );
        }
    }
}

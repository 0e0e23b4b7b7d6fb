//! Conversion of custom resources between versions by a webhook: `ConversionReview` (KEP-598), what is asked and what an
//! answer may be. Pure; who asks is the API server.
use serde_json::{Map, Value, json};

use crate::kinds::error::FieldErrors;
use crate::kinds::view::View;
use crate::kinds::{error, meta};

const GROUP: &str = "apiextensions.k8s.io";
/// Members of the metadata that a converter may change.
const CHANGEABLE: [&str; 2] = ["labels", "annotations"];

/// Who converts the objects of a definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Converter {
    /// `url` or `service`, and `caBundle`.
    pub client_config: Value,
    review_version: Option<&'static str>,
    group: String,
    kind: String,
}

/// Objects on their way into another version.
#[derive(Debug)]
pub struct Conversion<'a> {
    pub converter: &'a Converter,
    /// None of them in the wanted version.
    pub objects: &'a [Value],
    /// The wanted `apiVersion`.
    pub wanted: &'a str,
    /// Whether they are the items of a list, which errors tell.
    pub list: bool,
}

impl Converter {
    /// What a definition says; none when versions differ by nothing but their name.
    pub(super) fn of(definition: &Value) -> Option<Converter> {
        let conversion = definition.at("spec.conversion");
        if conversion.text("strategy") != "Webhook" {
            return None;
        }
        let versions = conversion.list("webhook.conversionReviewVersions");
        let mut versions = versions.iter().filter_map(Value::as_str);
        Some(Converter {
            client_config: conversion.at("webhook.clientConfig").clone(),
            review_version: versions.find_map(|v| ["v1", "v1beta1"].into_iter().find(|known| v == *known)),
            group: definition.text("spec.group").to_owned(),
            kind: definition.text("status.acceptedNames.kind").to_owned(),
        })
    }
}

impl Conversion<'_> {
    /// The question.
    pub fn review(&self, uid: &str) -> Result<Value, String> {
        let version = self.converter.review_version;
        let version = version.ok_or("no supported conversion review versions")?;
        Ok(json!({
            "kind": "ConversionReview", "apiVersion": format!("{GROUP}/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": self.wanted, "objects": self.objects},
        }))
    }

    /// `stable.example.com/v1, Kind=CronTab`: what errors call the objects.
    fn name(&self) -> String {
        let first = self.objects.first().map_or("", |o| o.text("apiVersion"));
        let kind = &self.converter.kind;
        match self.list {
            true => format!("{}, Kind={kind}List", self.wanted),
            false => format!("{first}, Kind={kind}"),
        }
    }

    /// Upstream's sentence about a converter that could not be asked, or said no.
    pub fn failed(&self, why: &str) -> String {
        format!("conversion webhook for {} failed: {why}", self.name())
    }

    /// The converted objects, with the metadata that a converter may not change put back.
    pub fn read(&self, answer: &Value, uid: &str) -> Result<Vec<Value>, String> {
        let response = self.response(answer, uid).map_err(|why| self.failed(&why))?;
        let converted = response.list("convertedObjects");
        if converted.len() != self.objects.len() {
            return Err(format!(
                "conversion webhook for {} returned {} objects, expected {}",
                self.name(),
                converted.len(),
                self.objects.len()
            ));
        }
        let pairs = self.objects.iter().zip(converted).enumerate();
        pairs
            .map(|(i, (before, after))| {
                self.object(before, after)
                    .map_err(|wrong| self.malformed(i, &wrong))
            })
            .collect()
    }

    fn response<'v>(&self, answer: &'v Value, uid: &str) -> Result<&'v Value, String> {
        let response = answer.at("response");
        let strict = self.converter.review_version == Some("v1");
        let (version, kind) = (answer.text("apiVersion"), answer.text("kind"));
        if strict && (version != format!("{GROUP}/v1") || kind != "ConversionReview") {
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=ConversionReview, got {version}, Kind={kind}"
            ));
        }
        if !response.is_object() {
            return Err("no response provided".to_owned());
        }
        if strict && response.text("uid") != uid {
            return Err(format!(
                "expected response.uid={uid:?}, got {:?}",
                response.text("uid")
            ));
        }
        let (status, message) = (response.text("result.status"), response.text("result.message"));
        match (status, message) {
            ("Success", _) => Ok(response),
            (_, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
            (_, message) => Err(message.to_owned()),
        }
    }

    fn malformed(&self, index: usize, wrong: &Wrong) -> String {
        let (what, why) = match wrong {
            Wrong::Object(why) if self.list => (format!("converted object at index {index}"), why),
            Wrong::Type(why) => (format!("object at index {index}"), why),
            Wrong::Object(why) => ("object".to_owned(), why),
            Wrong::Metadata(why) if self.list => (format!("metadata in object at index {index}"), why),
            Wrong::Metadata(why) => ("metadata".to_owned(), why),
        };
        format!(
            "conversion webhook for {} returned invalid {what}: {why}",
            self.name()
        )
    }

    fn object(&self, before: &Value, after: &Value) -> Result<Value, Wrong> {
        let typed = |why: String| match self.list {
            true => Wrong::Object(why),
            false => Wrong::Type(why),
        };
        let (expected, got) = (self.wanted, after.text("apiVersion"));
        if expected != got {
            let why = format!("invalid groupVersion (expected {expected}, received {got})");
            return Err(typed(why));
        }
        let (expected, got) = (before.text("kind"), after.text("kind"));
        if expected != got {
            return Err(typed(format!(
                "invalid kind (expected {expected}, received {got})"
            )));
        }
        for (path, what) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
            let (expected, got) = (before.at("metadata").text(path), after.at("metadata").text(path));
            if expected != got {
                return Err(Wrong::Object(format!(
                    "must have the same {what}: {expected} != {got}"
                )));
            }
        }
        let metadata = metadata(before.at("metadata"), after).map_err(Wrong::Metadata)?;
        let mut converted = after.clone();
        if let Some(map) = converted.as_object_mut() {
            map.insert("metadata".into(), metadata.into());
        }
        Ok(converted)
    }
}

/// What is wrong with a converted object.
enum Wrong {
    Object(String),
    /// Version or kind.
    Type(String),
    Metadata(String),
}

/// The metadata as it was, with the labels and annotations of the answer.
fn metadata(before: &Value, after: &Value) -> Result<Map<String, Value>, String> {
    let said = match after.get("metadata") {
        None => return Err("missing metadata in converted object".to_owned()),
        Some(Value::Object(said)) => said,
        Some(_) => return Err("invalid metadata in converted object".to_owned()),
    };
    let mut metadata = before.as_object().cloned().unwrap_or_default();
    for field in CHANGEABLE {
        let Some(new) = said.get(field).filter(|new| !new.is_null()) else {
            metadata.remove(field);
            continue;
        };
        let Value::Object(texts) = new else {
            return Err(format!("invalid metadata.{field} in converted object"));
        };
        if let Some((key, _)) = texts.iter().find(|(_, v)| !v.is_string()) {
            return Err(format!(
                "metadata.{field}[{key}] must be a string in converted object"
            ));
        }
        if metadata.get(field) != Some(new) {
            let errors: FieldErrors = match field {
                "labels" => meta::labels(new, "metadata.labels"),
                _ => meta::annotations(new, "metadata.annotation"),
            };
            if !errors.is_empty() {
                return Err(error::join(&errors));
            }
        }
        metadata.insert(field.to_owned(), new.clone());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converter() -> Converter {
        let definition = json!({"spec": {"group": "e.com", "conversion": {"strategy": "Webhook",
            "webhook": {"conversionReviewVersions": ["v2", "v1"], "clientConfig": {"url": "https://c"}}}},
            "status": {"acceptedNames": {"kind": "Foo"}}});
        Converter::of(&definition).expect("a converter")
    }

    fn foo(version: &str, metadata: Value) -> Value {
        json!({"apiVersion": format!("e.com/{version}"), "kind": "Foo", "metadata": metadata})
    }

    fn converted(list: bool, before: Value, response: Value) -> Result<Vec<Value>, String> {
        let converter = converter();
        let conversion = Conversion {
            converter: &converter,
            objects: &[before],
            wanted: "e.com/v2",
            list,
        };
        assert_eq!(
            conversion.review("u").expect("a review")["request"]["desiredAPIVersion"],
            "e.com/v2"
        );
        let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        conversion.read(&answer, "u")
    }

    fn success(after: Value) -> Value {
        json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [after]})
    }

    #[test]
    fn labels_and_annotations_change_and_nothing_else_of_the_metadata() {
        let before = foo(
            "v1",
            json!({"name": "a", "uid": "x", "finalizers": ["f/g"], "labels": {"old": "1"}}),
        );
        let after = foo(
            "v2",
            json!({"name": "a", "uid": "x", "annotations": {"new": "1"}, "generation": 7}),
        );
        let found = converted(false, before, success(after)).expect("converted");
        let want = json!({"name": "a", "uid": "x", "finalizers": ["f/g"], "annotations": {"new": "1"}});
        assert_eq!(found[0]["metadata"], want);
    }

    #[test]
    fn refusals_and_lies_are_told_in_upstreams_words() {
        let named = || json!({"name": "a"});
        let before = || foo("v1", named());
        for (list, response, want) in [
            (
                false,
                json!({"uid": "u", "result": {"status": "Failed", "message": "no way"}}),
                "conversion webhook for e.com/v1, Kind=Foo failed: no way",
            ),
            (
                false,
                json!({"uid": "o"}),
                "conversion webhook for e.com/v1, Kind=Foo failed: expected response.uid=\"u\", got \"o\"",
            ),
            (
                true,
                json!({"uid": "u", "result": {"status": "Success"}}),
                "conversion webhook for e.com/v2, Kind=FooList returned 0 objects, expected 1",
            ),
            (
                false,
                success(foo("v1", named())),
                "conversion webhook for e.com/v1, Kind=Foo returned invalid object at index 0: invalid groupVersion \
                 (expected e.com/v2, received e.com/v1)",
            ),
            (
                true,
                success(foo("v2", json!({"name": "b"}))),
                "conversion webhook for e.com/v2, Kind=FooList returned invalid converted object at index 0: must have \
                 the same name: a != b",
            ),
            (
                false,
                success(foo("v2", json!({"name": "a", "labels": {"a b": "c"}}))),
                "returned invalid metadata: metadata.labels: Invalid value: \"a b\"",
            ),
        ] {
            let told = converted(list, before(), response).expect_err("refused");
            assert!(told.contains(want), "{told}");
        }
    }
}

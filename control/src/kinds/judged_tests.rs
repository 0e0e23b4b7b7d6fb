//! Compares with what the registries of upstream 1.36.2 say of the same objects: errors in their order, the generation of
//! what is accepted, warnings.
//!
//! `data/judgements.jsonl` has a sample of each kind and, by line, one change of it: created so, or changed so in an update
//! of the object or of a subresource. `data/judge/` has how the answers were recorded. Values that upstream shows by the
//! names of its internal structs are left out.
use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Kind, Registry};

const JUDGEMENTS: &str = include_str!("data/judgements.jsonl");

struct Sample {
    kind: &'static Kind,
    object: Value,
}

impl Sample {
    fn of(line: &Value) -> Self {
        let text = |key: &str| line[key].as_str().expect("text");
        let kind = Registry::builtin().resource(text("group"), text("version"), text("plural"));
        Self {
            kind: kind.expect("served"),
            object: line["object"].clone(),
        }
    }

    fn decoded(&self, mut object: Value) -> Value {
        self.kind.prune(&mut object).expect("decodes");
        self.kind.default(&mut object);
        object
    }

    fn unsaved(&self) -> Value {
        let mut object = self.object.clone();
        object.as_object_mut().expect("object").remove("status");
        object
    }

    /// As it lies in the store, with its status.
    fn stored(&self) -> Value {
        let mut object = self.made(self.unsaved()).0;
        if self.object["status"].is_object() {
            object["status"] = self.object["status"].clone();
        }
        object
    }

    fn made(&self, object: Value) -> (Value, Vec<String>) {
        let mut object = self.decoded(object);
        object["metadata"]["uid"] = "U".into();
        object["metadata"]["creationTimestamp"] = "2023-11-14T22:13:20Z".into();
        self.kind.prepare_create(&mut object);
        let errors = lines(&self.kind.validate_create(&object));
        self.kind.normalise(&mut object);
        (object, errors)
    }

    fn changed(&self, subresource: Option<&str>, new: Value, old: Value) -> (Value, Vec<String>) {
        let (mut new, mut old) = (self.decoded(new), self.decoded(old));
        self.kind.normalise(&mut old);
        self.kind.prepare_update(subresource, &mut new, &old);
        let errors = lines(&self.kind.validate_update(subresource, &new, &old));
        self.kind.normalise(&mut new);
        (new, errors)
    }

    /// What is said of one line: errors, generation and warnings.
    fn judge(&self, line: &Value) -> Value {
        let (object, errors, old) = match line["as"].as_str() {
            Some("create") => {
                let mut new = self.unsaved();
                change(&mut new, line);
                let (object, errors) = self.made(new);
                (object, errors, None)
            }
            how => {
                let (mut new, old) = (self.stored(), self.stored());
                change(&mut new, line);
                let (new, errors) = self.changed(how.filter(|how| *how != "update"), new, old.clone());
                (new, errors, Some(old))
            }
        };
        let mut said = json!({ "errors": errors });
        if !line["generation"].is_null() {
            said["generation"] = object["metadata"]["generation"].clone();
        }
        if !line["warnings"].is_null() {
            said["warnings"] = self.kind.warnings(&object, old.as_ref()).into();
        }
        said
    }
}

/// Each once, without the dumps that follow the first line of some.
fn lines(errors: &[super::FieldError]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for error in errors {
        let line = error.to_string().lines().next().unwrap_or_default().to_owned();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Puts `to` at the place `at`; without a `to` what is there is taken away.
fn change(object: &mut Value, line: &Value) {
    let Some((last, path)) = line["at"].as_array().and_then(|at| at.split_last()) else {
        return;
    };
    let mut place = object;
    for step in path {
        place = match step {
            Value::String(key) => &mut place[key],
            step => &mut place[step.as_u64().expect("index") as usize],
        };
    }
    match (last, line.get("to")) {
        (Value::String(key), Some(to)) => place[key] = to.clone(),
        (Value::String(key), None) => drop(place.as_object_mut().map(|map| map.remove(key))),
        (at, Some(to)) => place[at.as_u64().expect("index") as usize] = to.clone(),
        (at, None) => {
            let list = place.as_array_mut().expect("list");
            list.remove(at.as_u64().expect("index") as usize);
        }
    }
}

/// Sentences that come often are numbered in the first line.
fn unpacked(mut line: Value, words: &[Value]) -> Value {
    let errors = line["errors"].as_array_mut().into_iter().flatten();
    for error in errors {
        let text = error.as_str().expect("text");
        let number = text
            .rsplit_once('{')
            .and_then(|(head, n)| Some((head, n.strip_suffix('}')?)));
        if let Some((head, number)) = number
            && let Ok(number) = number.parse::<usize>()
        {
            *error = format!("{head}{}", words[number].as_str().expect("text")).into();
        }
    }
    line
}

#[test]
fn kinds_are_judged_as_upstream_judges_them() {
    let mut lines = JUDGEMENTS
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let words = lines.next().expect("words")["words"]
        .as_array()
        .expect("list")
        .clone();
    let (mut samples, mut count, mut failures) = (HashMap::new(), 0, Vec::new());
    for line in lines {
        if let Some(name) = line["base"].as_str() {
            samples.insert(name.to_owned(), Sample::of(&line));
            continue;
        }
        let line = unpacked(line, &words);
        let mut want = line.clone();
        let shown = ["of", "as", "at", "to"]
            .map(|key| want[key].take().to_string())
            .join(" ");
        want.as_object_mut().expect("object").retain(|_, v| !v.is_null());
        let got = samples[line["of"].as_str().expect("name")].judge(&line);
        count += 1;
        if got != want {
            failures.push(format!("{shown}\n  upstream {want}\n  here     {got}"));
        }
    }
    assert!(count > 2000);
    assert!(
        failures.is_empty(),
        "{} differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

//! Rows of role bindings.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, name};
use crate::kinds::view::View;

pub fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = object.at("roleRef");
    let role = format!("{}/{}", role.text("kind"), role.text("name"));
    let of = |kind: &str, shown: fn(&Value) -> String| {
        let subjects = object.list("subjects").iter().filter(|s| s.text("kind") == kind);
        json!(subjects.map(shown).collect::<Vec<_>>().join(", "))
    };
    let plain = |subject: &Value| subject.text("name").to_owned();
    let account = |subject: &Value| format!("{}/{}", subject.text("namespace"), subject.text("name"));
    vec![
        name(object),
        json!(role),
        age(object, now),
        of("User", plain),
        of("Group", plain),
        of("ServiceAccount", account),
    ]
}

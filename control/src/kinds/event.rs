//! Events: one object, served as `v1` and as `events.k8s.io/v1`; stored as `v1`.
use serde_json::{Map, Value};

use super::view::View;

/// `(v1, events.k8s.io/v1)` names of the fields that are called differently.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// `events.k8s.io/v1` to `v1`.
pub fn to_core(event: &mut Value) {
    rename(event, RENAMED.iter().map(|(core, new)| (*new, *core)), "v1");
}

/// `v1` to `events.k8s.io/v1`.
pub fn from_core(event: &mut Value) {
    rename(event, RENAMED.iter().copied(), "events.k8s.io/v1");
}

fn rename<'a>(event: &mut Value, names: impl Iterator<Item = (&'a str, &'a str)>, version: &str) {
    let Some(map) = event.as_object_mut() else { return };
    let moved: Vec<(String, Option<Value>)> = names
        .map(|(from, to)| (to.to_owned(), map.remove(from)))
        .collect();
    map.extend(moved.into_iter().filter_map(|(to, value)| Some((to, value?))));
    map.insert("apiVersion".into(), version.into());
}

/// Field labels of a stored (`v1`) Event.
pub(super) fn selectable(event: &Value) -> Vec<(String, String)> {
    let object = event.at("involvedObject");
    let mut fields: Vec<(String, String)> = [
        "kind",
        "namespace",
        "name",
        "uid",
        "apiVersion",
        "resourceVersion",
        "fieldPath",
    ]
    .iter()
    .map(|key| (format!("involvedObject.{key}"), object.text(key).to_owned()))
    .collect();
    let source = match event.text("source.component") {
        "" => event.text("reportingComponent"),
        component => component,
    };
    for (label, value) in [
        ("reason", event.text("reason")),
        ("reportingComponent", event.text("reportingComponent")),
        ("source", source),
        ("type", event.text("type")),
    ] {
        fields.push((label.to_owned(), value.to_owned()));
    }
    fields
}

/// Field labels of an `events.k8s.io/v1` Event: those of its stored form by their new names; it has no `source`.
pub(super) fn selectable_new(event: &Value) -> Vec<(String, String)> {
    let rename = |(label, value): (String, String)| {
        let label = match label.split_once('.') {
            Some((_, member)) => format!("regarding.{member}"),
            None if label == "reportingComponent" => "reportingController".to_owned(),
            None => label,
        };
        (label, value)
    };
    let core = selectable(&as_core(event)).into_iter();
    core.filter(|(label, _)| label != "source").map(rename).collect()
}

/// A copy in `v1` form.
pub(super) fn as_core(event: &Value) -> Value {
    let mut event = if event.is_object() {
        event.clone()
    } else {
        Value::Object(Map::new())
    };
    to_core(&mut event);
    event
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_labels_have_the_names_of_their_version() {
        let event = json!({"regarding": {"name": "p"}, "reportingController": "c"});
        let fields = selectable_new(&event);
        let of = |label: &str| {
            fields
                .iter()
                .find(|(l, _)| l == label)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(
            (of("regarding.name"), of("reportingController")),
            (Some("p"), Some("c"))
        );
        assert_eq!(
            (of("involvedObject.name"), of("reportingComponent"), of("source")),
            (None, None, None)
        );
    }

    #[test]
    fn both_versions_hold_the_same() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "p"}, "message": "m", "count": 2,
            "reason": "R", "reportingComponent": "c", "eventTime": null});
        let mut event = core.clone();
        from_core(&mut event);
        assert_eq!(
            (
                &event["note"],
                &event["regarding"]["name"],
                &event["deprecatedCount"]
            ),
            (&json!("m"), &json!("p"), &json!(2))
        );
        assert!(event.get("message").is_none());
        to_core(&mut event);
        assert_eq!(event, core);
    }
}

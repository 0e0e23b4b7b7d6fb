//! The priority classes and the flow control configuration that upstream's clusters begin with. What is there is left
//! alone here, whatever an administrator made of it: what becomes of flow control is `controllers/flow_control.rs`'s.
use super::policy::call;
use futures::{StreamExt, TryStreamExt, stream};
use http::Method;
use kube::Client;
use serde_json::Value;

/// `data/extract.py` makes it and documents its form.
const OBJECTS: &str = include_str!("data/cluster.jsonl");
/// Writes under way at once: they share commits.
const AT_ONCE: usize = 32;

pub(super) async fn ensure(client: &Client) -> Result<(), kube::Error> {
    stream::iter(lines())
        .map(|line| create(client, line))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// The FlowSchemas and PriorityLevelConfigurations that every cluster begins with.
pub(crate) fn flow_control() -> impl Iterator<Item = Value> {
    let objects = lines().map(|mut line| line["object"].take());
    objects.filter(|object| object["apiVersion"] == "flowcontrol.apiserver.k8s.io/v1")
}

/// Flow control's objects without which requests would have nowhere to go: their specs are nobody's to change.
pub(crate) const MANDATORY: [&str; 2] = ["catch-all", "exempt"];

fn lines() -> impl Iterator<Item = Value> {
    OBJECTS.lines().filter_map(|line| serde_json::from_str(line).ok())
}

async fn create(client: &Client, line: Value) -> Result<(), kube::Error> {
    let path = line["path"].as_str().unwrap_or_default();
    match call(client, Method::POST, path, &line["object"]).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn all_objects_are_of_served_kinds_and_valid() {
        let lines: Vec<Value> = OBJECTS
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 21);
        for line in lines {
            let mut object = line["object"].clone();
            let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
            let kind = Registry::builtin()
                .object(&text("apiVersion"), &text("kind"))
                .expect("a served kind")
                .clone();
            assert_eq!(kind.prune(&mut object), Ok(Vec::new()));
            kind.default(&mut object);
            assert_eq!(kind.validate_create(&object), [], "{object}");
        }
    }
}

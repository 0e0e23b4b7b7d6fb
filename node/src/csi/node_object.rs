//! What the cluster is told of this node's drivers: the CSINode of its name, and on the Node their ids of it and their topology.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::Driver;

const IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// Writes what changed since `before` was written.
pub async fn write(
    client: &Client,
    node: &str,
    before: &[Driver],
    drivers: &[Driver],
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let found = nodes.get(node).await?;
    let change = json!({"metadata": {"annotations": {IDS: ids(drivers)}, "labels": labels(before, drivers)}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(change))
        .await?;
    let objects: Api<CSINode> = Api::all(client.clone());
    let drivers: Vec<Value> = drivers.iter().map(told).collect();
    if objects.get_opt(node).await?.is_some() {
        let change = json!({"spec": {"drivers": drivers}});
        let patched = objects
            .patch(node, &PatchParams::default(), &Patch::Merge(change))
            .await;
        return patched.map(drop);
    }
    let object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": node, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": node, "uid": found.metadata.uid}]},
        "spec": {"drivers": drivers},
    });
    let object: CSINode = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    objects.create(&PostParams::default(), &object).await.map(drop)
}

/// A driver in the CSINode.
fn told(driver: &Driver) -> Value {
    let keys: Vec<&String> = driver.topology.keys().collect();
    let mut told = json!({"name": driver.name, "nodeID": driver.node_id, "topologyKeys": keys});
    if driver.limit > 0 {
        told["allocatable"] = json!({"count": driver.limit});
    }
    told
}

/// The annotation's text; none without drivers.
fn ids(drivers: &[Driver]) -> Option<String> {
    let ids: BTreeMap<&str, &str> = drivers
        .iter()
        .map(|driver| (driver.name.as_str(), driver.node_id.as_str()))
        .collect();
    (!ids.is_empty()).then(|| json!(ids).to_string())
}

/// Labels of the drivers' topology; those of drivers that are gone go.
fn labels(before: &[Driver], drivers: &[Driver]) -> BTreeMap<String, Option<String>> {
    let gone = before.iter().flat_map(|driver| driver.topology.keys());
    let mut labels: BTreeMap<String, Option<String>> = gone.map(|key| (key.clone(), None)).collect();
    let here = drivers.iter().flat_map(|driver| driver.topology.iter());
    labels.extend(here.map(|(key, value)| (key.clone(), Some(value.clone()))));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str, zone: &str) -> Driver {
        Driver {
            name: name.into(),
            endpoint: "/s".into(),
            node_id: "id".into(),
            limit: 3,
            topology: [(format!("{name}/zone"), zone.to_owned())].into(),
            stages: false,
            gives_groups: false,
            expands: false,
        }
    }

    #[test]
    fn drivers_are_told_and_untold() {
        let (a, b) = (driver("a", "z1"), driver("b", "z2"));
        assert_eq!(
            told(&a),
            json!({"name": "a", "nodeID": "id", "topologyKeys": ["a/zone"], "allocatable": {"count": 3}})
        );
        assert_eq!(
            ids(&[a.clone(), b.clone()]).as_deref(),
            Some(r#"{"a":"id","b":"id"}"#)
        );
        assert_eq!(ids(&[]), None);
        let expected = [
            ("a/zone".to_owned(), None),
            ("b/zone".to_owned(), Some("z2".to_owned())),
        ];
        assert_eq!(labels(&[a], &[b]), expected.into());
    }
}

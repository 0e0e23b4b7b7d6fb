//! The class `wasm-isolated`: Pods whose Wasm containers share a process with no other Pod's. What an administrator made of it is
//! left alone.
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use serde_json::{Value, json};

/// Its name, and that of the handler on our nodes.
const CLASS: &str = "wasm-isolated";

pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    super::ensure::<RuntimeClass>(&Api::all(client.clone()), CLASS, class(), None).await
}

fn class() -> Value {
    json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": CLASS}, "handler": CLASS})
}

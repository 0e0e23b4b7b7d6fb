//! The classes for what our nodes' runtime handlers do beyond letting each artifact decide. What an administrator made of one is
//! left alone.
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::{Api, Client};
use serde_json::{Value, json};

/// Their names, which are those of the handlers on our nodes: WebAssembly in any image, the same in a process of the Pod's own,
/// native programs only.
const CLASSES: [&str; 3] = ["wasm", "wasm-isolated", "linux"];

pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let classes = Api::all(client.clone());
    for name in CLASSES {
        super::ensure::<RuntimeClass>(&classes, name, class(name), None).await?;
    }
    Ok(())
}

fn class(name: &str) -> Value {
    json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name})
}

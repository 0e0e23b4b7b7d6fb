//! A control plane of its own for each test, nodes that only exist as objects, and a kubelet that only writes statuses.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Change, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::plane::Plane;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Cluster {
    plane: Plane,
    pub client: Client,
    stop: CancellationToken,
}

impl Cluster {
    pub async fn start() -> Self {
        let plane = Plane::start().await;
        let client = plane.client();
        // Without it no Pod is admitted; a controller makes it a moment after the start.
        let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
        until_one(&accounts, "default", "the default ServiceAccount", |_| true).await;
        Self {
            plane,
            client,
            stop: CancellationToken::new(),
        }
    }

    /// A cluster with one node on which every Pod becomes ready.
    pub async fn with_node() -> Self {
        let cluster = Self::start().await;
        cluster.add_node("node1", json!({})).await;
        cluster.run_pods();
        cluster
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.plane.control.shutdown(Duration::from_secs(10)).await;
    }

    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn add_node(&self, name: &str, details: Value) -> Node {
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                    "lastHeartbeatTime": jiff::Timestamp::now(), "lastTransitionTime": jiff::Timestamp::now()}]}
        });
        json_patch::merge(&mut node, &details);
        let status = json!({"status": node["status"]});
        create::<Node>(&self.all(), node).await;
        let patch = Patch::Merge(status);
        self.all::<Node>()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .expect("the node's status")
    }

    /// Makes every bound Pod run and be ready, and lets every deleted one go.
    pub fn run_pods(&self) {
        let (client, stop) = (self.client.clone(), self.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let pods: Api<Pod> = Api::all(client.clone());
            let mut changes = std::pin::pin!(watcher(pods, watcher::Config::default()).default_backoff());
            while let Some(change) = changes.next().await {
                if let Ok(Change::Apply(pod) | Change::InitApply(pod)) = change {
                    run_pod(&client, &pod).await;
                }
            }
        }));
    }

    /// Waits for an Event about an object, with this reason; returns its message.
    pub async fn event(&self, about: &str, reason: &str) -> String {
        let found = |events: &BTreeMap<String, Event>| {
            let mut events = events.values();
            let event = events.find(|event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.reason.as_deref() == Some(reason)
            });
            event.map(|event| event.message.clone().unwrap_or_default())
        };
        until(&self.all(), &format!("event {reason} about {about}"), found).await
    }

    /// Waits for an Event about an object that says just this.
    pub async fn says(&self, about: &str, message: &str) {
        let found = |events: &BTreeMap<String, Event>| {
            let mut events = events.values();
            let said = events.any(|event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.message.as_deref() == Some(message)
            });
            said.then_some(())
        };
        until(&self.all(), &format!("event about {about}: {message}"), found).await;
    }
}

async fn run_pod(client: &Client, pod: &Pod) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let started = pod
        .status
        .as_ref()
        .is_some_and(|status| status.phase.as_deref() == Some("Running"));
    if pod.metadata.deletion_timestamp.is_some() {
        // Another step may have removed it already.
        let _ = pods
            .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await;
    } else if bound && !started {
        set_ready(&pods, &pod.name_any(), true).await;
    }
}

/// What a kubelet would write about a running Pod.
pub async fn set_ready(pods: &Api<Pod>, name: &str, ready: bool) {
    let ip = format!("10.45.0.{}", name.bytes().fold(1_u8, u8::wrapping_add));
    let status = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [
        {"type": "Ready", "status": status, "lastTransitionTime": jiff::Timestamp::now()}]}});
    // The Pod may be gone meanwhile; whoever waits for it will notice.
    let _ = pods
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(status))
        .await;
}

pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let typed: K = serde_json::from_value(object).expect("a valid object");
    api.create(&PostParams::default(), &typed)
        .await
        .expect("it is created")
}

pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .expect("it is patched")
}

/// Follows `api` until `found` finds what it looks for among the objects (by name).
pub async fn until<K, T>(api: &Api<K>, what: &str, found: impl Fn(&BTreeMap<String, K>) -> Option<T>) -> T
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut objects = BTreeMap::new();
    let search = async {
        let mut changes = std::pin::pin!(watcher(api.clone(), watcher::Config::default()).default_backoff());
        let mut listed = false;
        while let Some(change) = changes.next().await {
            match change {
                Ok(Change::Init) | Err(_) => {}
                Ok(Change::InitDone) => listed = true,
                Ok(Change::Apply(object) | Change::InitApply(object)) => {
                    objects.insert(object.name_any(), object);
                }
                Ok(Change::Delete(object)) => {
                    objects.remove(&object.name_any());
                }
            }
            if let Some(result) = listed.then(|| found(&objects)).flatten() {
                return Some(result);
            }
        }
        None
    };
    let result = tokio::time::timeout(PATIENCE, search).await.ok().flatten();
    match result {
        Some(result) => result,
        None => panic!("waited in vain for {what}; last seen: {objects:#?}"),
    }
}

/// Follows one object until `holds`.
pub async fn until_one<K>(api: &Api<K>, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    until(api, &format!("{name}: {what}"), |objects| {
        objects.get(name).filter(|object| holds(object)).cloned()
    })
    .await
}

/// Follows until the object is gone.
pub async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    until(api, &format!("{name} to go"), |objects| {
        (!objects.contains_key(name)).then_some(())
    })
    .await;
}

/// Waits until the garbage collector has seen all that happened to Pods up to now, as it deletes one of an owner that
/// never was: its watches of two kinds are as late as they like, upstream's too.
pub async fn until_collector_saw(pods: &Api<Pod>) {
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody",
        "uid": "00000000-0000-0000-0000-000000000000"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "last", "ownerReferences": [owner]},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]}});
    create(pods, pod).await;
    until_gone(pods, "last").await;
}

//! The node's Lease in kube-node-lease (KEP-589): renewed every ten seconds, it is how the cluster knows the
//! node is alive.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Where node leases are.
const NAMESPACE: &str = "kube-node-lease";
/// Upstream's nodeLeaseDurationSeconds.
pub const DURATION_SECONDS: i32 = 40;
/// A quarter of it, as upstream.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failed renewal: several fit into the lease.
const RETRY: Duration = Duration::from_secs(2);

/// Renews until `shutdown`.
pub async fn run(client: Client, node: Node, shutdown: CancellationToken) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    loop {
        let pause = match shutdown.run_until_cancelled(renew(&api, &node)).await {
            Some(Ok(())) => RENEW_EVERY,
            Some(Err(error)) => {
                tracing::warn!(%error, "the lease of the node was not renewed; trying again");
                RETRY
            }
            None => return,
        };
        if shutdown
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
    }
}

async fn renew(api: &Api<Lease>, node: &Node) -> Result<(), kube::Error> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let now = MicroTime(Timestamp::now());
    let patch =
        json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => api
            .create(&PostParams::default(), &lease(name, node, now))
            .await
            .map(drop),
        Err(error) => Err(error),
    }
}

fn lease(name: &str, node: &Node, now: MicroTime) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

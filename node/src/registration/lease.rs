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

/// Renews the lease of the node of that name until `shutdown`.
pub async fn run(client: Client, name: String, shutdown: CancellationToken) {
    loop {
        let pause = match shutdown.run_until_cancelled(renew(&client, &name)).await {
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

async fn renew(client: &Client, name: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch =
        json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": DURATION_SECONDS}});
    let params = PatchParams::default();
    match api.patch(name, &params, &Patch::Merge(patch)).await {
        Ok(lease) if lease.metadata.owner_references.iter().flatten().next().is_none() => {
            let owned = json!({"metadata": {"ownerReferences": [owner(client, name).await?]}});
            api.patch(name, &params, &Patch::Merge(owned)).await.map(drop)
        }
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let made = lease(name, owner(client, name).await?, now);
            api.create(&PostParams::default(), &made).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// The Node of now: somebody may have deleted the one there was, and a lease whose owner is gone is collected. While there is none
/// there is no lease either, as upstream (`setNodeOwnerFunc`).
async fn owner(client: &Client, name: &str) -> Result<OwnerReference, kube::Error> {
    let node = Api::<Node>::all(client.clone()).get(name).await?;
    Ok(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}

fn lease(name: &str, owner: OwnerReference, now: MicroTime) -> Lease {
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

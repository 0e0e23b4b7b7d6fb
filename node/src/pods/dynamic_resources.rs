//! Devices that a Pod claims (dynamic resource allocation, KEP-4381). No driver can register with this agent, so a Pod that
//! was given some waits, and says for what: without them it does not run. Refuses to know how claims are allocated.

use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Api;

use super::context::Context;
use super::view::PodView;

/// Why a Pod cannot have what it claims, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    #[error("prepare dynamic resources: pod \"{namespace}/{name}\": ResourceClaim not created yet")]
    NotMade { namespace: String, name: String },
    #[error("prepare dynamic resources: fetch ResourceClaim {name}: {source}")]
    Fetch { name: String, source: kube::Error },
    #[error(
        "prepare dynamic resources: fetch ResourceClaim {0}: resourceclaims.resource.k8s.io {0:?} not found"
    )]
    Absent(String),
    #[error("prepare dynamic resources: {0}")]
    Refused(String),
}

/// Whether the Pod has what it claims.
pub async fn look(ctx: &Context, pod: PodView<'_>) -> Result<(), ResourcesError> {
    for asked in pod.spec.resource_claims.iter().flatten() {
        let Some(name) = name_of(pod, asked)? else {
            continue;
        };
        let claims: Api<ResourceClaim> = Api::namespaced(ctx.options.client.clone(), pod.namespace());
        let found = claims
            .get_opt(name)
            .await
            .map_err(|source| ResourcesError::Fetch {
                name: name.to_owned(),
                source,
            })?;
        let claim = found.ok_or_else(|| ResourcesError::Absent(name.to_owned()))?;
        refusal(pod, name, &claim).map_or(Ok(()), |why| Err(ResourcesError::Refused(why)))?;
    }
    Ok(())
}

/// The claim's object; none when the Pod needs none.
fn name_of<'a>(pod: PodView<'a>, asked: &'a PodResourceClaim) -> Result<Option<&'a str>, ResourcesError> {
    if let Some(name) = &asked.resource_claim_name {
        return Ok(Some(name));
    }
    let made = pod
        .pod
        .status
        .as_ref()
        .and_then(|s| s.resource_claim_statuses.as_ref());
    let made = made.into_iter().flatten().find(|made| made.name == asked.name);
    match made {
        Some(made) => Ok(made.resource_claim_name.as_deref()),
        None => Err(ResourcesError::NotMade {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
        }),
    }
}

/// Why the Pod may not run with this claim; one that was given no device hinders nobody.
fn refusal(pod: PodView<'_>, name: &str, claim: &ResourceClaim) -> Option<String> {
    let status = claim.status.as_ref();
    let mut reserved = status.into_iter().flat_map(|s| s.reserved_for.iter().flatten());
    if !reserved.any(|by| by.uid == pod.uid()) {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let (pod, of) = (pod.name(), pod.uid());
        return Some(format!(
            "pod {pod} ({of}) is not allowed to use ResourceClaim {name} ({uid})"
        ));
    }
    let Some(allocation) = status.and_then(|s| s.allocation.as_ref()) else {
        return Some(format!("ResourceClaim {name}: not allocated"));
    };
    let devices = allocation.devices.as_ref().and_then(|d| d.results.as_ref());
    let given = devices.into_iter().flatten().next()?;
    Some(format!("DRA driver {} is not registered", given.driver))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn pod(claim: Value, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [claim]}, "status": status}))
        .unwrap()
    }

    #[test]
    fn a_claim_is_found_by_name_or_by_what_was_made_from_its_template() {
        let template = json!({"name": "g", "resourceClaimTemplateName": "t"});
        for (claim, status, expected) in [
            (
                json!({"name": "g", "resourceClaimName": "c"}),
                json!({}),
                Ok(Some("c")),
            ),
            (
                template.clone(),
                json!({"resourceClaimStatuses": [{"name": "g"}]}),
                Ok(None),
            ),
            (
                template.clone(),
                json!({"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "p-g-x"}]}),
                Ok(Some("p-g-x")),
            ),
            (
                template,
                json!({}),
                Err("pod \"n/p\": ResourceClaim not created yet"),
            ),
        ] {
            let pod = pod(claim, status);
            let view = PodView::new(&pod).unwrap();
            let name = name_of(view, &view.spec.resource_claims.as_ref().unwrap()[0]);
            match (name, expected) {
                (Ok(name), Ok(expected)) => assert_eq!(name, expected),
                (Err(error), Err(expected)) => assert!(error.to_string().ends_with(expected), "{error}"),
                (name, _) => panic!("{name:?}"),
            }
        }
    }

    #[test]
    fn a_pod_does_not_run_without_what_it_was_given() {
        let pod = pod(json!({"name": "g", "resourceClaimName": "c"}), json!({}));
        let mine = json!([{"name": "p", "resource": "pods", "uid": "u"}]);
        for (status, expected) in [
            (
                json!({}),
                Some("pod p (u) is not allowed to use ResourceClaim c (x)"),
            ),
            (
                json!({"reservedFor": mine}),
                Some("ResourceClaim c: not allocated"),
            ),
            (
                json!({"reservedFor": mine, "allocation": {"devices": {"results": [
                    {"driver": "d.io", "device": "0", "pool": "a", "request": "r"}]}}}),
                Some("DRA driver d.io is not registered"),
            ),
            (json!({"reservedFor": mine, "allocation": {}}), None),
        ] {
            let claim: ResourceClaim =
                serde_json::from_value(json!({"metadata": {"uid": "x"}, "spec": {}, "status": status}))
                    .unwrap();
            let why = refusal(PodView::new(&pod).unwrap(), "c", &claim);
            assert_eq!(why.as_deref(), expected);
        }
    }
}

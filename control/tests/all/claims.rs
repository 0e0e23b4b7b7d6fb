//! Who may write which part of the status of a ResourceClaim (KEP-4817).
use super::impersonation::grant;
use super::plane::Plane;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const GROUP: &str = "resource.k8s.io";
const ROBOT: &str = "system:serviceaccount:default:robot";
const DRIVER: &str = "d.e.com";

fn rule(verbs: &[&str], resource: &str, names: &[&str]) -> Value {
    json!({"apiGroups": [GROUP], "resources": [resource], "verbs": verbs, "resourceNames": names})
}

/// Patches the status of the claim `mine` as somebody, a service account on the node `n`: the code, and what is said of it.
async fn patch(plane: &Plane, user: &str, status: Value) -> (StatusCode, String) {
    let mut request = Request::patch(format!("{CLAIMS}/mine/status"))
        .header("content-type", "application/merge-patch+json")
        .header("impersonate-user", user);
    if user == ROBOT {
        request = request.header("impersonate-extra-authentication.kubernetes.io%2fnode-name", "n");
    }
    let body = json!({ "status": status }).to_string().into_bytes();
    let response = plane
        .client()
        .send(request.body(body.into()).unwrap())
        .await
        .unwrap();
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    (code, body["message"].as_str().unwrap_or_default().to_owned())
}

fn allocation(node: &str) -> Value {
    let result = json!({"request": "r", "driver": DRIVER, "pool": "p", "device": "x"});
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    json!({"devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}})
}

fn devices(ready: bool) -> Value {
    json!([{"driver": DRIVER, "pool": "p", "device": "x", "data": {"ready": ready}}])
}

#[tokio::test]
async fn who_binds_a_claim_and_who_speaks_of_its_devices_has_a_right_to_that() {
    let plane = Plane::start().await;
    let status = || rule(&["patch"], "resourceclaims/status", &[]);
    let driver = |verb: &str, name: &str| rule(&[verb], "resourceclaims/driver", &[name]);
    for (user, rules) in [
        ("plain", json!([status()])),
        (
            "binder",
            json!([status(), rule(&["patch"], "resourceclaims/binding", &[])]),
        ),
        (
            "other",
            json!([status(), driver("arbitrary-node:patch", "o.e.com")]),
        ),
        ("any", json!([status(), driver("arbitrary-node:patch", DRIVER)])),
        (ROBOT, json!([status(), driver("associated-node:patch", DRIVER)])),
    ] {
        grant(&plane, user, rules).await;
    }
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c.e.com"}});
    let claim = json!({"metadata": {"name": "mine"}, "spec": {"devices": {"requests": [request]}}});
    let (code, made) = plane.call(Method::POST, CLAIMS, claim).await;
    assert_eq!(code, 201, "{made}");

    let invalid = "ResourceClaim.resource.k8s.io \"mine\" is invalid: ";
    let refusal = |who: &str, verb: &str| {
        format!(
            "{invalid}status.devices: Forbidden: changing status.devices requires resource=\"resourceclaims/driver\", \
             verb=\"[{verb}]\" permission: resourceclaims.resource.k8s.io \"{DRIVER}\" is forbidden: User \"{who}\" cannot {} \
             resource \"resourceclaims/driver\" in API group \"{GROUP}\" in the namespace \"default\"",
            verb.split(' ').next().unwrap_or_default()
        )
    };
    let unbound = format!(
        "{invalid}status.allocation: Forbidden: changing status.allocation or status.reservedFor requires \
         resource=\"resourceclaims/binding\", verb=\"patch\" permission: resourceclaims.resource.k8s.io is forbidden: \
         User \"any\" cannot patch resource \"resourceclaims/binding\" in API group \"{GROUP}\" at the cluster scope"
    );
    let user = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
    let arbitrary = "arbitrary-node:patch";
    for (who, status, why) in [
        (
            "any",
            json!({"allocation": allocation("n")}),
            Some(unbound.clone()),
        ),
        ("binder", json!({"allocation": allocation("n")}), None),
        ("plain", json!({"allocation": allocation("n")}), None),
        ("any", json!({"reservedFor": user}), Some(unbound)),
        ("binder", json!({"reservedFor": user}), None),
        (
            "binder",
            json!({"devices": devices(true)}),
            Some(refusal("binder", arbitrary)),
        ),
        (
            "other",
            json!({"devices": devices(true)}),
            Some(refusal("other", arbitrary)),
        ),
        (ROBOT, json!({"devices": devices(true)}), None),
        ("any", json!({"devices": devices(false)}), None),
        (
            "plain",
            json!({"devices": null}),
            Some(refusal("plain", arbitrary)),
        ),
        // What is said of devices goes with the allocation.
        ("binder", json!({"allocation": null, "reservedFor": null}), None),
        ("binder", json!({"allocation": allocation("other")}), None),
        (
            ROBOT,
            json!({"devices": devices(true)}),
            Some(refusal(ROBOT, arbitrary)),
        ),
        ("binder", json!({"allocation": null}), None),
        ("binder", json!({"allocation": allocation("n")}), None),
    ] {
        let (code, message) = patch(&plane, who, status.clone()).await;
        let wanted = if why.is_some() { 422 } else { 200 };
        assert_eq!(code, wanted, "{who} {status}: {message}");
        assert_eq!(message, why.unwrap_or_default(), "{who} {status}");
    }
}

/// What is written otherwise and means the same.
#[tokio::test]
async fn who_changes_nothing_of_a_claim_needs_no_right_to_its_parts() {
    let plane = Plane::start().await;
    let status = || rule(&["patch"], "resourceclaims/status", &[]);
    let binding = rule(&["patch"], "resourceclaims/binding", &[]);
    let driver = rule(&["arbitrary-node:patch"], "resourceclaims/driver", &[]);
    grant(&plane, "plain", json!([status()])).await;
    grant(&plane, "all", json!([status(), binding, driver])).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "c.e.com"}});
    let claim = json!({"metadata": {"name": "mine"}, "spec": {"devices": {"requests": [request]}}});
    let (code, made) = plane.call(Method::POST, CLAIMS, claim).await;
    assert_eq!(code, 201, "{made}");
    let result = |more: Value| {
        let mut result = json!({"request": "r", "driver": DRIVER, "pool": "p", "device": "x"});
        json_patch::merge(&mut result, &more);
        result
    };
    let share = "11111111-2222-3333-4444-555555555555";
    let told = |at: &str| {
        let condition = json!({"type": "Ready", "status": "True", "reason": "R", "message": "", "lastTransitionTime": at});
        json!([{"driver": DRIVER, "pool": "p", "device": "x", "shareID": share, "conditions": [condition]}])
    };
    let of = |amount: &str| result(json!({"shareID": share, "consumedCapacity": {"e.com/size": amount}}));
    let at = |at: &str, results: Value| json!({"allocationTimestamp": at, "devices": {"results": results}});
    for (who, status) in [
        (
            "plain",
            json!({"reservedFor": [], "devices": [], "allocation": null}),
        ),
        (
            "all",
            json!({"allocation": at("2026-01-01T00:00:00Z", json!([of("1Gi")])), "devices": told("2026-01-01T00:00:00Z")}),
        ),
        ("plain", json!({"reservedFor": []})),
        (
            "plain",
            json!({"allocation": at("2026-01-01T01:00:00+01:00", json!([of("1024Mi")]))}),
        ),
        ("plain", json!({"allocation": {"devices": {"config": []}}})),
        (
            "plain",
            json!({"allocation": {"devices": {"results": [
                result(json!({"shareID": share, "consumedCapacity": {"e.com/size": "1Gi"}, "tolerations": [],
                    "adminAccess": null, "bindingConditions": []}))]}}}),
        ),
        ("plain", json!({"devices": told("2026-01-01T01:00:00+01:00")})),
    ] {
        let (code, message) = patch(&plane, who, status.clone()).await;
        assert_eq!(code, 200, "{who} {status}: {message}");
    }
}

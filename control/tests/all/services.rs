//! Service addresses, through the API.
use super::plane::Plane;
use http::Method;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = json!([{"port": 80}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn concurrent_services_get_addresses_of_their_own() {
    const MANY: usize = 11;
    let plane = Plane::start().await;
    let creations = (0..MANY).map(|i| {
        let body = service(&format!("s{i}"), json!({"type": "NodePort"}));
        plane.call(Method::POST, SERVICES, body)
    });
    let mut ips = std::collections::BTreeSet::new();
    let mut ports = std::collections::BTreeSet::new();
    for (code, made) in futures::future::join_all(creations).await {
        assert_eq!(code, 201, "{made}");
        assert!(ips.insert(made["spec"]["clusterIP"].to_string()));
        assert!(ports.insert(made["spec"]["ports"][0]["nodePort"].to_string()));
    }
    let full = plane
        .call(
            Method::POST,
            SERVICES,
            service("one-more", json!({"type": "NodePort"})),
        )
        .await;
    assert!(full.0.is_server_error(), "{full:?}");
}

#[tokio::test]
async fn an_address_is_free_again_after_deletion_and_taken_after_a_restart() {
    let plane = Plane::start().await;
    let body = service("a", json!({"clusterIP": "10.97.0.9"}));
    assert_eq!(plane.call(Method::POST, SERVICES, body.clone()).await.0, 201);
    let plane = plane.restart().await;
    let other = service("b", json!({"clusterIP": "10.97.0.9"}));
    let (code, status) = plane.call(Method::POST, SERVICES, other.clone()).await;
    assert_eq!(code, 422);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("provided IP is already allocated"),
        "{status}"
    );
    assert_eq!(
        plane
            .call(Method::DELETE, &format!("{SERVICES}/a"), Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(plane.call(Method::POST, SERVICES, other).await.0, 201);
}

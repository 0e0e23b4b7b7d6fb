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

#[tokio::test]
async fn node_ports_are_shared_by_the_protocols_of_one_port_and_by_nothing_else() {
    let plane = Plane::start().await;
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let asking = |name: &str, protocol: &str, number: u16, node: u16| {
        let mut port = port(name, protocol, number);
        port["nodePort"] = node.into();
        port
    };
    let create = async |name: &str, ports: Value, more: Value| {
        let mut spec = json!({"type": "NodePort", "ports": ports});
        json_patch::merge(&mut spec, &more);
        let body = json!({"metadata": {"name": name}, "spec": spec});
        let (code, answer) = plane.call(Method::POST, SERVICES, body).await;
        (code.as_u16(), answer)
    };
    let of = |answer: &Value, index: usize| answer["spec"]["ports"][index]["nodePort"].clone();
    let (_, free) = create(
        "a",
        json!([port("t", "TCP", 53), port("u", "UDP", 53)]),
        json!({}),
    )
    .await;
    assert!(of(&free, 0).is_u64(), "{free}");
    assert_eq!(of(&free, 0), of(&free, 1));
    assert_eq!(
        plane
            .call(Method::DELETE, &format!("{SERVICES}/a"), Value::Null)
            .await
            .0,
        200
    );
    let (_, later) = create(
        "b",
        json!([port("t", "TCP", 53), asking("u", "UDP", 53, 30003)]),
        json!({}),
    )
    .await;
    assert_eq!(
        [of(&later, 0), of(&later, 1)],
        [json!(30003), json!(30003)],
        "{later}"
    );
    let two = json!([asking("s", "TCP", 80, 30004), asking("t", "TCP", 81, 30004)]);
    let (code, twice) = create("c", two, json!({})).await;
    assert_eq!(code, 422);
    assert_eq!(
        twice["message"],
        "Service \"c\" is invalid: spec.ports[1].nodePort: Invalid value: 30004: provided port is already allocated"
    );
    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30003});
    let (code, taken) = create("d", json!([port("t", "TCP", 80)]), local).await;
    assert_eq!(code, 500);
    let why = "failed to allocate requested HealthCheck NodePort 30003: provided port is already allocated";
    assert!(
        taken["message"].as_str().is_some_and(|told| told.ends_with(why)),
        "{taken}"
    );
}

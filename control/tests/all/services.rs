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

/// Creates a Service, and puts what the changes make of it in its place.
async fn changed(plane: &Plane, name: &str, spec: Value, changes: Value) -> (u16, Value) {
    let body = json!({"metadata": {"name": name}, "spec": spec});
    let (code, mut object) = plane.call(Method::POST, SERVICES, body).await;
    assert_eq!(code, 201, "{object}");
    json_patch::merge(&mut object["spec"], &changes);
    let path = format!("{SERVICES}/{name}");
    let (code, answer) = plane.call(Method::PUT, &path, object).await;
    (code.as_u16(), answer)
}

#[tokio::test]
async fn an_update_chooses_addresses_before_it_is_judged() {
    let plane = Plane::start().await;
    let port =
        |number: u16, node: i64| json!({"name": format!("p{number}"), "port": number, "nodePort": node});
    let plain =
        json!({"type": "ClusterIP", "clusterIP": "10.97.0.40", "ports": [{"name": "p80", "port": 80}]});
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
        "ports": [port(80, 30000)]});
    let outside = "provided port is not in the valid range. The range of valid ports is 30000-30010";
    let taken = "provided port is already allocated";
    for (spec, changes, code, why) in [
        (
            &plain,
            json!({"type": "NodePort", "ports": [port(80, 30004), port(81, 30004)]}),
            500,
            "duplicate nodePort: {TCP 30004}".to_owned(),
        ),
        (
            &plain,
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 40000}, {"port": 81}]}),
            422,
            format!("Service \"a\" is invalid: spec.ports[0].nodePort: Invalid value: 40000: {outside}"),
        ),
        (
            &plain,
            json!({"type": "NodePort", "ports": [port(80, 70000)]}),
            422,
            format!("Service \"a\" is invalid: spec.ports[0].nodePort: Invalid value: 70000: {outside}"),
        ),
        (
            &plain,
            json!({"ports": [port(80, 40000)]}),
            422,
            "Service \"a\" is invalid: spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"
                .to_owned(),
        ),
        (
            &plain,
            json!({"clusterIP": "10.99.0.1", "clusterIPs": null, "ipFamilies": null}),
            422,
            "Service \"a\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.99.0.1\"]: may not change once set"
                .to_owned(),
        ),
        (
            &balanced,
            json!({"ports": [port(80, 30001)]}),
            422,
            format!("Service \"a\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: {taken}"),
        ),
    ] {
        let (answered, said) = changed(&plane, "a", spec.clone(), changes.clone()).await;
        assert_eq!((answered, said["message"].as_str()), (code, Some(why.as_str())), "{changes}");
        // Nothing of what was refused is held.
        let (_, kept) = plane.get(&format!("{SERVICES}/a")).await;
        assert_eq!(kept["spec"]["type"], spec["type"]);
        let path = format!("{SERVICES}/a");
        assert_eq!(plane.call(Method::DELETE, &path, Value::Null).await.0, 200);
    }
    for name in ["b", "c"] {
        let node = if name == "b" { 30004 } else { 30001 };
        let body =
            json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [port(80, node)]}});
        let (code, answer) = plane.call(Method::POST, SERVICES, body).await;
        assert_eq!(code, 201, "{answer}");
    }
}

#[tokio::test]
async fn a_rehearsal_shows_addresses_that_nobody_has() {
    let plane = Plane::start().await;
    let rehearse = async |spec: Value| {
        let body = json!({"metadata": {"name": "r"}, "spec": spec});
        let (code, answer) = plane
            .call(Method::POST, &format!("{SERVICES}?dryRun=All"), body)
            .await;
        (code.as_u16(), answer)
    };
    let taken =
        json!({"type": "NodePort", "clusterIP": "10.97.0.9", "ports": [{"port": 80, "nodePort": 30003}]});
    let (code, _) = plane
        .call(
            Method::POST,
            SERVICES,
            json!({"metadata": {"name": "t"}, "spec": taken}),
        )
        .await;
    assert_eq!(code, 201);
    let balanced = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
    let (code, shown) = rehearse(balanced).await;
    assert_eq!(code, 201, "{shown}");
    let spec = &shown["spec"];
    assert_eq!(spec["clusterIPs"], json!(["10.97.0.0"]));
    let ports = [
        &spec["ports"][0]["nodePort"],
        &spec["ports"][1]["nodePort"],
        &spec["healthCheckNodePort"],
    ];
    assert_eq!(ports, [32769, 32770, 32771]);
    // Whether an address is free, and whether a port is in the range, is not asked; whether a port is free is.
    let (code, shown) = rehearse(json!({"clusterIP": "10.97.0.9", "ports": [{"port": 80}]})).await;
    assert_eq!((code, &shown["spec"]["clusterIP"]), (201, &json!("10.97.0.9")));
    let (code, shown) =
        rehearse(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 40000}]})).await;
    assert_eq!(
        (code, &shown["spec"]["ports"][0]["nodePort"]),
        (201, &json!(40000))
    );
    for (spec, why) in [
        (
            json!({"clusterIP": "10.99.0.9", "ports": [{"port": 80}]}),
            "spec.clusterIPs: Invalid value: [\"10.99.0.9\"]: failed to allocate IP 10.99.0.9: the provided IP \
             (10.99.0.9) is not in the valid range. The range of valid IPs is 10.97.0.0/24",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30003}]}),
            "spec.ports[0].nodePort: Invalid value: 30003: provided port is already allocated",
        ),
    ] {
        let (code, said) = rehearse(spec).await;
        assert_eq!(code, 422);
        assert_eq!(said["message"], format!("Service \"r\" is invalid: {why}"));
    }
    let path = format!("{SERVICES}/t?dryRun=All");
    let patch = async |name: Value| {
        let first = json!({"name": name, "port": 80, "nodePort": 30003});
        let patch = json!({"spec": {"ports": [first, {"name": "n", "port": 81}]}}).to_string();
        let sent = plane.send(Method::PATCH, &path, "application/merge-patch+json", patch);
        sent.await
    };
    let (_, said) = patch(Value::Null).await;
    let why = "Service \"t\" is invalid: spec.ports[0].name: Required value";
    assert_eq!(said["message"], why);
    let (code, shown) = patch(json!("m")).await;
    assert_eq!(code, 200, "{shown}");
    assert_eq!(shown["spec"]["ports"][1]["nodePort"], 32769);
    let (_, kept) = plane.get(&format!("{SERVICES}/t")).await;
    assert_eq!(kept["spec"]["ports"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_change_of_type_takes_and_gives_back_what_belongs_to_it() {
    let plane = Plane::start().await;
    let path = format!("{SERVICES}/a");
    let body = json!({"metadata": {"name": "a"}, "spec": {"type": "ExternalName", "externalName": "x.y",
        "internalTrafficPolicy": "Local", "ports": [{"port": 80}]}});
    let (_, made) = plane.call(Method::POST, SERVICES, body).await;
    assert!(made["spec"].get("internalTrafficPolicy").is_none(), "{made}");
    let become_ = async |spec: Value| {
        let patch = json!({"spec": spec}).to_string();
        let sent = plane.send(Method::PATCH, &path, "application/merge-patch+json", patch);
        let (code, answer) = sent.await;
        assert_eq!(code, 200, "{answer}");
        answer
    };
    let plain = become_(json!({"type": "ClusterIP", "externalName": null})).await;
    let ip = plain["spec"]["clusterIP"].clone();
    assert_eq!(plain["spec"]["clusterIPs"], json!([ip]));
    assert_eq!(plain["spec"]["ipFamilies"], json!(["IPv4"]));
    let exposed = become_(json!({"type": "NodePort"})).await;
    let node = exposed["spec"]["ports"][0]["nodePort"].clone();
    assert!(node.is_u64(), "{exposed}");
    let balanced = become_(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).await;
    assert_eq!(balanced["spec"]["ports"][0]["nodePort"], node);
    assert!(balanced["spec"]["healthCheckNodePort"].is_u64());
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}).to_string();
    let of_status = format!("{path}/status");
    let sent = plane.send(Method::PATCH, &of_status, "application/merge-patch+json", status);
    assert_eq!(sent.await.0, 200);
    let plain = become_(json!({"type": "ClusterIP"})).await;
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    assert_eq!(plain["spec"]["clusterIP"], ip);
    for key in [
        "healthCheckNodePort",
        "externalTrafficPolicy",
        "allocateLoadBalancerNodePorts",
    ] {
        assert!(plain["spec"].get(key).is_none(), "{key}: {plain}");
    }
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
    let external = become_(json!({"type": "ExternalName", "externalName": "x.y"})).await;
    for key in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "internalTrafficPolicy",
    ] {
        assert!(external["spec"].get(key).is_none(), "{key}: {external}");
    }
    let body = json!({"metadata": {"name": "b"}, "spec": {"type": "NodePort", "clusterIP": ip,
        "ports": [{"port": 80, "nodePort": node}]}});
    let (code, answer) = plane.call(Method::POST, SERVICES, body).await;
    assert_eq!(code, 201, "{answer}");
}

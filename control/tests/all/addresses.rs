//! Addresses of Services as objects: IPAddresses and ServiceCIDRs, through the API.
use super::cluster::{until, until_gone};
use super::plane::Plane;
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

fn service(name: &str, ip: &str) -> Value {
    let spec = json!({"clusterIP": ip, "ports": [{"port": 80}]});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn address(ip: &str, labels: Value, resource: &str) -> Value {
    let parent = json!({"group": if resource == "services" { "" } else { "x.y" }, "resource": resource, "name": "g",
        "namespace": "default"});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": ip, "labels": labels},
        "spec": {"parentRef": parent}})
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": [cidr]}})
}

/// Asks, and expects this code.
async fn ask(plane: &Plane, method: Method, path: &str, body: Value, code: u16) -> Value {
    let (found, answer) = plane.call(method.clone(), path, body).await;
    assert_eq!(found, code, "{method} {path}: {answer}");
    answer
}

async fn expect(plane: &Plane, path: &str, code: u16) -> Value {
    ask(plane, Method::GET, path, Value::Null, code).await
}

/// Waits until the condition of the range is this: status, reason and message.
async fn until_condition(plane: &Plane, name: &str, want: [&str; 3]) {
    let ranges: Api<ServiceCIDR> = Api::all(plane.client());
    until(&ranges, &format!("{name} is {want:?}"), |all| {
        let status = all.get(name)?.status.as_ref()?;
        let ready = status.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")?;
        ([&*ready.status, &*ready.reason, &*ready.message] == want).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_and_the_object_of_its_address_come_and_go_together() {
    let plane = Plane::start().await;
    let path = format!("{ADDRESSES}/10.97.0.20");
    let dry = format!("{SERVICES}?dryRun=All");
    ask(&plane, Method::POST, &dry, service("a", "10.97.0.20"), 201).await;
    expect(&plane, &path, 404).await;
    let made = ask(&plane, Method::POST, SERVICES, service("a", "10.97.0.20"), 201).await;
    let found = expect(&plane, &path, 200).await;
    let meta = &found["metadata"];
    assert_eq!(
        meta["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(
        found["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "a"})
    );
    assert!(meta["uid"].is_string() && meta["creationTimestamp"].is_string());
    let since = &made["metadata"]["resourceVersion"];
    assert_eq!(meta["resourceVersion"], *since);
    let one = format!("{SERVICES}/a");
    let merge = "application/merge-patch+json";
    let away = json!({"spec": {"type": "ExternalName", "externalName": "x.y", "clusterIP": null, "clusterIPs": null}});
    let (code, answer) = plane.send(Method::PATCH, &one, merge, away.to_string()).await;
    assert_eq!(code, 200, "{answer}");
    expect(&plane, &path, 404).await;
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null, "clusterIP": "10.97.0.21",
        "clusterIPs": ["10.97.0.21"]}});
    let (code, answer) = plane.send(Method::PATCH, &one, merge, back.to_string()).await;
    assert_eq!(code, 200, "{answer}");
    expect(&plane, &format!("{ADDRESSES}/10.97.0.21"), 200).await;
    ask(&plane, Method::DELETE, &one, Value::Null, 200).await;
    expect(&plane, &format!("{ADDRESSES}/10.97.0.21"), 404).await;
    let since = since.as_str().unwrap();
    let (_, seen) = plane
        .get(&format!(
            "{ADDRESSES}?watch=true&resourceVersion={since}&timeoutSeconds=1"
        ))
        .await;
    let seen = seen.as_str().unwrap().lines();
    let seen: Vec<Value> = seen.map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen = seen.iter().map(|event| {
        let name = event["object"]["metadata"]["name"].as_str().unwrap();
        (event["type"].as_str().unwrap(), name)
    });
    let want = [
        ("DELETED", "10.97.0.20"),
        ("ADDED", "10.97.0.21"),
        ("DELETED", "10.97.0.21"),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn the_object_of_an_address_stays_while_finalizers_hold_it_and_the_address_with_it() {
    let plane = Plane::start().await;
    let merge = "application/merge-patch+json";
    let away = json!({"spec": {"type": "ExternalName", "externalName": "x.y", "clusterIP": null, "clusterIPs": null}});
    for (ip, gives_up) in [("10.97.0.23", false), ("10.97.0.24", true)] {
        let path = format!("{ADDRESSES}/{ip}");
        let one = format!("{SERVICES}/a");
        ask(&plane, Method::POST, SERVICES, service("a", ip), 201).await;
        let held = json!({"metadata": {"finalizers": ["x.y/z"]}});
        let (code, answer) = plane.send(Method::PATCH, &path, merge, held.to_string()).await;
        assert_eq!(code, 200, "{answer}");
        if gives_up {
            let (code, answer) = plane.send(Method::PATCH, &one, merge, away.to_string()).await;
            assert_eq!(code, 200, "{answer}");
        }
        ask(&plane, Method::DELETE, &one, Value::Null, 200).await;
        let left = expect(&plane, &path, 200).await;
        let meta = &left["metadata"];
        assert!(meta["deletionTimestamp"].is_string(), "{left}");
        assert_eq!(meta["deletionGracePeriodSeconds"], 0);
        ask(&plane, Method::POST, SERVICES, service("b", ip), 422).await;
        let free = json!({"metadata": {"finalizers": null}});
        let (code, answer) = plane.send(Method::PATCH, &path, merge, free.to_string()).await;
        assert_eq!(code, 200, "{answer}");
        expect(&plane, &path, 404).await;
        ask(&plane, Method::POST, SERVICES, service("a", ip), 201).await;
        ask(&plane, Method::DELETE, &one, Value::Null, 200).await;
    }
}

#[tokio::test]
async fn the_clusters_range_is_there_and_another_is_used_until_it_is_given_up() {
    let ready = ["True", "", "Kubernetes Service CIDR is ready"];
    let plane = Plane::start().await;
    let own = expect(&plane, &format!("{RANGES}/kubernetes"), 200).await;
    assert_eq!(
        (&own["spec"]["cidrs"], &own["metadata"]["finalizers"]),
        (&json!(["10.97.0.0/24"]), &json!([FINALIZER]))
    );
    until_condition(&plane, "kubernetes", ready).await;
    let refused = ask(&plane, Method::POST, SERVICES, service("a", "10.99.0.1"), 422).await;
    assert_eq!(
        refused["message"],
        "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"10.99.0.1\"]: failed to allocate IP 10.99.0.1: the \
         provided network does not match the current range"
    );
    ask(&plane, Method::POST, RANGES, range("more", "10.99.0.0/28"), 201).await;
    ask(&plane, Method::POST, SERVICES, service("a", "10.99.0.1"), 201).await;
    until_condition(&plane, "more", ready).await;
    let one = format!("{RANGES}/more");
    assert_eq!(
        expect(&plane, &one, 200).await["metadata"]["finalizers"],
        json!([FINALIZER])
    );
    ask(&plane, Method::DELETE, &one, Value::Null, 200).await;
    let why = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
    until_condition(&plane, "more", ["False", "Terminating", why]).await;
    ask(&plane, Method::POST, SERVICES, service("b", "10.99.0.2"), 422).await;
    ask(&plane, Method::DELETE, &format!("{SERVICES}/a"), Value::Null, 200).await;
    let ranges: Api<ServiceCIDR> = Api::all(plane.client());
    until_gone(&ranges, "more").await;
}

#[tokio::test]
async fn an_address_that_was_reserved_by_hand_is_nobodys() {
    let plane = Plane::start().await;
    let reserved = address("10.97.0.30", json!({}), "gateways");
    ask(&plane, Method::POST, ADDRESSES, reserved, 201).await;
    let refused = ask(&plane, Method::POST, SERVICES, service("a", "10.97.0.30"), 422).await;
    assert_eq!(
        refused["message"],
        "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"10.97.0.30\"]: failed to allocate IP 10.97.0.30: \
         provided IP is already allocated"
    );
    ask(&plane, Method::POST, SERVICES, service("a", "10.97.0.31"), 201).await;
    let second = address("10.97.0.31", json!({}), "gateways");
    ask(&plane, Method::POST, ADDRESSES, second, 409).await;
    let free = format!("{ADDRESSES}/10.97.0.30");
    ask(&plane, Method::DELETE, &free, Value::Null, 200).await;
    ask(&plane, Method::POST, SERVICES, service("b", "10.97.0.30"), 201).await;
}

#[tokio::test]
async fn what_was_done_to_addresses_by_hand_is_put_right() {
    let ours = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by":
        "ipallocator.k8s.io"});
    let plane = Plane::start().await;
    let addresses: Api<IPAddress> = Api::all(plane.client());
    ask(&plane, Method::POST, SERVICES, service("a", "10.97.0.40"), 201).await;
    let path = format!("{ADDRESSES}/10.97.0.40");
    let first = expect(&plane, &path, 200).await["metadata"]["uid"].clone();
    ask(&plane, Method::DELETE, &path, Value::Null, 200).await;
    let again = until(&addresses, "it is made anew", |all| {
        let found = all.get("10.97.0.40")?;
        (found.uid().as_deref() != first.as_str()).then(|| found.clone())
    })
    .await;
    assert_eq!(
        (
            &*again.spec.parent_ref.name,
            serde_json::to_value(again.labels()).unwrap()
        ),
        ("a", ours.clone())
    );
    let events: Api<Event> = Api::all(plane.client());
    until(&events, "the Service is told", |all| {
        let mut all = all.values();
        let told = all.find(|event| event.reason.as_deref() == Some("ClusterIPNotAllocated"))?;
        let want = "Cluster IP [IPv4]: 10.97.0.40 is not allocated; repairing";
        (told.message.as_deref() == Some(want)).then_some(())
    })
    .await;
    // One of nobody, and one of somebody else.
    let theirs = address("10.97.0.42", json!({}), "gateways");
    ask(&plane, Method::POST, ADDRESSES, theirs, 201).await;
    let orphan = address("10.97.0.41", ours, "services");
    ask(&plane, Method::POST, ADDRESSES, orphan, 201).await;
    until_gone(&addresses, "10.97.0.41").await;
    expect(&plane, &format!("{ADDRESSES}/10.97.0.42"), 200).await;
    expect(&plane, &path, 200).await;
}

#[tokio::test]
async fn a_service_whose_address_was_given_away_is_told() {
    let plane = Plane::start().await;
    ask(&plane, Method::POST, SERVICES, service("a", "10.97.0.50"), 201).await;
    // Given back by hand, the address is free until it is put right: who is quick gets it, here as upstream.
    let mut got = StatusCode::OK;
    for _ in 0..100 {
        plane
            .call(Method::DELETE, &format!("{ADDRESSES}/10.97.0.50"), Value::Null)
            .await;
        let service = service("b", "10.97.0.50");
        (got, _) = plane.call(Method::POST, SERVICES, service).await;
        if got == 201 {
            break;
        }
    }
    assert_eq!(got, 201, "never was anybody quicker than the repair");
    let events: Api<Event> = Api::all(plane.client());
    until(&events, "the first is told", |all| {
        let want = "Cluster IP [IPv4]:10.97.0.50 was assigned to multiple services; please recreate service";
        let told = |event: &Event| {
            event.reason.as_deref() == Some("ClusterIPAlreadyAllocated")
                && event.involved_object.name.as_deref() == Some("a")
                && event.message.as_deref() == Some(want)
        };
        all.values().any(told).then_some(())
    })
    .await;
}

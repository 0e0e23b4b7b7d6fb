//! What a node does of its own accord: Pods of files, ports of the host, what it tells of its use, and ends it gives to Pods.

use std::path::Path;

use http::Request;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::changing::{container, until};
use crate::cluster::{Cluster, PATIENCE, free_port, http_get, is_root, text};
use crate::faults::Disk;
use crate::streams::{busybox_image, is_ready, with_busybox};

fn manifest(port: u16, text: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: amphipod.local/busybox:v1
    command: [sh, -c, 'mkdir /www; echo {text} > /www/index.html; exec httpd -f -p 8080 -h /www']
    ports: [{{containerPort: 8080, hostPort: {port}}}]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"
    )
}

async fn ready(pods: &Api<Pod>, name: &str) -> Pod {
    let ready = tokio::time::timeout(PATIENCE, await_condition(pods.clone(), name, is_ready)).await;
    match ready {
        Ok(found) => found.unwrap().unwrap(),
        Err(_) => panic!("{name} did not become ready; {:#?}", pods.get(name).await),
    }
}

fn container_id(pod: &Pod) -> String {
    let status = container(pod.status.as_ref().unwrap(), "server").unwrap();
    status.container_id.clone().unwrap()
}

/// Waits for another mirror than this one, ready.
async fn another(pods: &Api<Pod>, name: &str, old: &Pod) -> Pod {
    let uid = old.metadata.uid.clone();
    let replaced = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.uid != uid) && is_ready(pod);
    let found = tokio::time::timeout(PATIENCE, await_condition(pods.clone(), name, replaced)).await;
    found.expect("the mirror was not replaced").unwrap().unwrap()
}

async fn get(client: &Client, path: &str) -> String {
    let request = Request::get(path).body(Vec::new()).unwrap();
    client.request_text(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_file_runs_and_is_mirrored_and_its_port_is_the_hosts() {
    let Some(mut cluster) = with_busybox("static Pods") else {
        return;
    };
    let port = free_port();
    let file = cluster.data_dir().join("manifests/web.yaml");
    std::fs::write(&file, manifest(port, "first")).unwrap();
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let first = ready(&pods, "web-node-a").await;
    let annotations = first.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Node", "node-a"));
    let said = http_get(&format!("127.0.0.1:{port}"), "/").unwrap();
    assert!(said.ends_with("first\n"), "{said}");

    let taken = json!({"metadata": {"name": "taken"}, "spec": {"nodeName": "node-a", "containers": [
        {"name": "c", "image": "amphipod.local/busybox:v1", "ports": [{"containerPort": 1, "hostPort": port}]}]}});
    pods.create(&Default::default(), &serde_json::from_value(taken).unwrap())
        .await
        .unwrap();
    until(&pods, "taken", "it is refused", |s| {
        s.phase.as_deref() == Some("Failed") && s.reason.as_deref() == Some("NodePorts")
    })
    .await;

    let summary: Value =
        serde_json::from_str(&get(&client, "/api/v1/nodes/node-a/proxy/stats/summary").await).unwrap();
    let of_pods = summary["pods"].as_array().unwrap();
    let web = of_pods.iter().find(|pod| pod["podRef"]["name"] == "web-node-a");
    let web = web.unwrap_or_else(|| panic!("{summary:#}"));
    assert!(
        web["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0),
        "{web:#}"
    );
    assert!(web["network"]["rxBytes"].as_u64() > Some(0), "{web:#}");
    let metrics = get(&client, "/api/v1/nodes/node-a/proxy/metrics/cadvisor").await;
    let is_its = |line: &str| line.starts_with("container_memory_usage_bytes{container=\"server\"");
    assert!(metrics.lines().any(is_its), "{metrics}");
    // The Pod's and the machine's.
    for (id, pod) in [
        (format!("/amphipod-{}/pod", cluster.id()), "web-node-a"),
        ("/\"".to_owned(), ""),
    ] {
        let begins = format!("container_memory_working_set_bytes{{container=\"\",id=\"{id}");
        let is_its = |line: &str| line.starts_with(&begins) && line.contains(&format!("pod=\"{pod}\""));
        assert!(metrics.lines().any(is_its), "{metrics}");
    }
    let logs = get(&client, "/api/v1/nodes/node-a/proxy/logs/").await;
    assert!(logs.contains("<pre>"), "{logs}");
    let probes = get(&client, "/api/v1/nodes/node-a/proxy/metrics/probes").await;
    assert!(
        probes.contains("probe_type=\"Readiness\",result=\"successful\""),
        "{probes}"
    );

    pods.delete("web-node-a", &DeleteParams::default()).await.unwrap();
    let second = another(&pods, "web-node-a", &first).await;
    assert_eq!(
        container_id(&second),
        container_id(&first),
        "what runs is not touched"
    );
    cluster.stop(Signal::SIGTERM);
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let again = ready(&pods, "web-node-a").await;
    assert_eq!(
        container_id(&again),
        container_id(&first),
        "another agent takes it back"
    );

    std::fs::write(&file, manifest(port, "second")).unwrap();
    let third = another(&pods, "web-node-a", &again).await;
    assert_ne!(container_id(&third), container_id(&first));
    let said = http_get(&format!("127.0.0.1:{port}"), "/").unwrap();
    assert!(said.ends_with("second\n"), "{said}");
    std::fs::remove_file(&file).unwrap();
    let gone = await_condition(pods, "web-node-a", |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the mirror stays")
        .unwrap();
}

const HOLDER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: holder}
spec:
  containers:
  - name: server
    image: amphipod.local/busybox:v1
    command: [sleep, '600']
    resources: {requests: {memory: 1Ki}}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_short_of_memory_ends_pods_and_a_host_that_goes_down_too() {
    let Some(mut cluster) = with_busybox("eviction") else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let holder: Pod = serde_yaml::from_str(HOLDER).unwrap();
    pods.create(&Default::default(), &holder).await.unwrap();
    ready(&pods, "holder").await;
    cluster.stop(Signal::SIGTERM);
    cluster.flags = vec!["--eviction-hard".into(), "memory.available<99%".into()];
    cluster.start(&[]);
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    until(&pods, "holder", "it is evicted", |s| {
        s.reason.as_deref() == Some("Evicted")
    })
    .await;
    let status = pods.get("holder").await.unwrap().status.unwrap();
    let message = status.message.clone().unwrap();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: ")
            && message.contains("Container server was using ")
            && message.ends_with(", request is 1Ki, has larger consumption of memory. "),
        "{message}"
    );
    let conditions = status.conditions.unwrap();
    let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    assert_eq!(target.reason.as_deref(), Some("TerminationByKubelet"));
    let told = await_condition(Api::<Node>::all(client), "node-a", |node: Option<&Node>| {
        let status = node.and_then(|node| node.status.as_ref());
        let mut conditions = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions.any(|c| c.type_ == "MemoryPressure" && c.status == "True")
    });
    tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();

    cluster.stop(Signal::SIGTERM);
    cluster.flags = vec!["--shutdown-grace-period".into(), "5".into()];
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let mut late = holder.clone();
    late.metadata.name = Some("late".into());
    // The taint of the pressure that was is taken away a moment later.
    late.spec.as_mut().unwrap().tolerations =
        serde_json::from_value(json!([{"operator": "Exists"}])).unwrap();
    pods.create(&Default::default(), &late).await.unwrap();
    ready(&pods, "late").await;
    if Path::new("/run/systemd/system").exists() {
        eprintln!("skipped the host's end: systemd would have to stop it");
        return;
    }
    cluster.stop(Signal::SIGTERM);
    cluster.flags = Vec::new();
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let status = pods.get("late").await.unwrap().status.unwrap();
    assert_eq!(
        (
            status.phase.as_deref(),
            status.reason.as_deref(),
            status.message.as_deref()
        ),
        (
            Some("Failed"),
            Some("Terminated"),
            Some("Pod was terminated in response to imminent node shutdown.")
        )
    );
}

/// A Pod that is ready when it has written so many MiB.
fn writing(name: &str, file: &str, size: u64) -> Pod {
    let script = format!("dd if=/dev/zero of={file} bs=1M count={size} && touch /done; exec sleep 600");
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{
                "name": "server",
                "image": "amphipod.local/busybox:v1",
                "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/done"]}, "periodSeconds": 1},
            }],
        },
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_file_system_that_is_short_is_ended_and_not_who_holds_more_of_another() {
    const TEST: &str = "eviction where volumes are on a file system of their own";
    if !is_root(TEST) {
        return;
    }
    let mut cluster = Cluster::new();
    let Some(image) = busybox_image(TEST, cluster.dir()) else {
        return;
    };
    let root = cluster.dir().canonicalize().unwrap().join("kubelet");
    std::fs::create_dir(&root).unwrap();
    let disk = Disk::at(root.clone());
    cluster.flags = vec!["--root-dir".into(), root.display().to_string()];
    cluster
        .flags
        .extend(["--eviction-hard".into(), "nodefs.available<40%".into()]);
    cluster.start(&[]);
    cluster.push(&image, "busybox:v1");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let elsewhere = writing("elsewhere", "/large", 90);
    pods.create(&Default::default(), &elsewhere).await.unwrap();
    ready(&pods, "elsewhere").await;
    let there = writing("there", "/v/large", 45);
    pods.create(&Default::default(), &there).await.unwrap();
    until(&pods, "there", "it is evicted", |s| {
        s.reason.as_deref() == Some("Evicted")
    })
    .await;
    let message = pods.get("there").await.unwrap().status.unwrap().message.unwrap();
    let said = "The node was low on resource: ephemeral-storage. Threshold quantity: ";
    assert!(message.starts_with(said), "{message}");
    let status = pods.get("elsewhere").await.unwrap().status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    cluster.stop(Signal::SIGTERM);
    let down = cluster.down();
    assert!(down.status.success(), "{}", text(&down));
    drop(disk);
}

/// A Pod that asks for thousandths of a processor of the node.
fn asking(name: &str, milli: i64) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": "node-a",
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server",
                "image": "amphipod.local/busybox:v1",
                "command": ["sleep", "600"],
                "resources": {"requests": {"cpu": format!("{milli}m")}},
            }],
        },
    }))
    .unwrap()
}

fn critical(name: &str, milli: i64) -> Pod {
    let mut pod = asking(name, milli);
    pod.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".into());
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_pod_gets_the_room_of_a_lesser_one() {
    let Some(cluster) = with_busybox("room for critical Pods") else {
        return;
    };
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let system: Api<Pod> = Api::namespaced(client.clone(), "kube-system");
    let node = Api::<Node>::all(client.clone()).get("node-a").await.unwrap();
    let capacity: i64 = 1000
        * node.status.unwrap().allocatable.unwrap()["cpu"]
            .0
            .parse::<i64>()
            .unwrap();
    for pod in [asking("small", 100), asking("large", capacity - 200)] {
        pods.create(&Default::default(), &pod).await.unwrap();
        ready(&pods, pod.metadata.name.as_deref().unwrap()).await;
    }
    let pod = critical("critical", 500);
    system.create(&Default::default(), &pod).await.unwrap();
    ready(&system, "critical").await;
    until(&pods, "large", "it makes room", |s| {
        s.phase.as_deref() == Some("Failed")
    })
    .await;
    let status = pods.get("large").await.unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("Preempting"));
    assert_eq!(
        status.message.as_deref(),
        Some("Preempted in order to admit critical pod")
    );
    let conditions = status.conditions.unwrap();
    let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget").unwrap();
    let said = "Pod was preempted by Kubelet to accommodate a critical pod.";
    assert_eq!(target.message.as_deref(), Some(said));
    let small = pods.get("small").await.unwrap().status.unwrap();
    assert_eq!(small.phase.as_deref(), Some("Running"), "one is enough");
    let metrics = get(&client, "/api/v1/nodes/node-a/proxy/metrics").await;
    let count = "kubelet_preemptions{preemption_signal=\"cpu\"} 1";
    assert!(metrics.lines().any(|line| line == count), "{metrics}");

    // Nobody else is ended for one that cannot have enough.
    let pod = critical("giant", capacity + 1);
    system.create(&Default::default(), &pod).await.unwrap();
    until(&system, "giant", "it is refused", |s| {
        s.phase.as_deref() == Some("Failed")
    })
    .await;
    let status = system.get("giant").await.unwrap().status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
    let message = status.message.unwrap();
    let said = "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: \
        error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: ";
    assert!(message.starts_with(said), "{message}");
    let small = pods.get("small").await.unwrap().status.unwrap();
    assert_eq!(small.phase.as_deref(), Some("Running"));
}

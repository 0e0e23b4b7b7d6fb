//! What may change about a Pod that runs: containers added for debugging, resources; and how it is reached through the
//! API server.

use http::Request;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::api::{AttachParams, LogParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::cluster::PATIENCE;
use crate::streams::{is_ready, prepared};

const SIZED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: amphipod.local/busybox:v1
    command: [httpd, -f, -p, '8080', -h, /etc]
    ports: [{containerPort: 8080}]
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
  - name: restarts
    image: amphipod.local/busybox:v1
    command: [sleep, '600']
    resources: {limits: {memory: 16Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
";

pub async fn until(pods: &Api<Pod>, name: &str, what: &str, is: impl Fn(&PodStatus) -> bool + Send) {
    let holds = |pod: Option<&Pod>| pod.and_then(|p| p.status.as_ref()).is_some_and(&is);
    let waited = tokio::time::timeout(PATIENCE, await_condition(pods.clone(), name, holds)).await;
    if waited.is_err() {
        panic!("{what}: never so; {:#?}", pods.get(name).await);
    }
}

pub fn container<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let all = status.container_statuses.iter().flatten();
    all.chain(status.ephemeral_container_statuses.iter().flatten())
        .find(|c| c.name == name)
}

pub fn runs(status: &PodStatus, name: &str) -> bool {
    let state = container(status, name).and_then(|c| c.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn limit(status: &PodStatus, name: &str, resource: &str) -> Option<String> {
    let resources = container(status, name)?.resources.as_ref()?;
    Some(resources.limits.as_ref()?.get(resource)?.0.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_added_to_a_running_pod() {
    let Some(cluster) = prepared("debugging a running Pod").await else {
        return;
    };
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let debugger = json!({"name": "debugger", "image": "amphipod.local/busybox:v1", "targetContainerName": "server",
        "command": ["sh", "-c", "cat /proc/1/comm; exec sleep 600"]});
    let add = Patch::Strategic(json!({"spec": {"ephemeralContainers": [debugger]}}));
    pods.patch_ephemeral_containers("box", &PatchParams::default(), &add)
        .await
        .unwrap();
    until(&pods, "box", "the debugger runs", |s| runs(s, "debugger")).await;
    let params = LogParams {
        container: Some("debugger".into()),
        ..LogParams::default()
    };
    let mut said = String::new();
    while said.is_empty() {
        said = pods.logs("box", &params).await.unwrap();
    }
    assert_eq!(said, "httpd\n", "the first process it sees is the server's");
    let change =
        Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "other"}]}}));
    let refused = pods
        .patch_ephemeral_containers("box", &PatchParams::default(), &change)
        .await;
    assert!(refused.unwrap_err().to_string().contains("may not be changed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_is_resized_and_reached() {
    let Some(cluster) = prepared("resizing a running Pod").await else {
        return;
    };
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod: Pod = serde_yaml::from_str(SIZED).unwrap();
    pods.create(&Default::default(), &pod).await.unwrap();
    let ready = tokio::time::timeout(PATIENCE, await_condition(pods.clone(), "sized", is_ready));
    ready.await.expect("the Pod did not become ready").unwrap();

    let uid = pods.get("sized").await.unwrap().metadata.uid.unwrap();
    let around = PodCgroup::of(&cluster.id(), &uid);
    assert_eq!(around.memory(), 48 << 20, "both have a limit of memory");
    assert!(around.has_ten_shares());
    assert_eq!(around.quota(), None, "one has no limit of CPU");

    let path = "/api/v1/namespaces/default/pods/sized/proxy/hostname";
    assert_eq!(get(&client, path).await.trim(), "sized");

    resize(
        &pods,
        "sized",
        json!({"containers": [{"name": "server", "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}}}]}),
    )
    .await;
    until(&pods, "sized", "it has more", |s| {
        limit(s, "server", "memory").as_deref() == Some("64Mi")
            && limit(s, "server", "cpu").as_deref() == Some("200m")
    })
    .await;
    assert_eq!(memory_limit(&pods).await, 64 << 20);
    around.comes_to(80 << 20);

    let more = json!({"requests": {"memory": "20Mi"}, "limits": {"memory": "20Mi"}});
    resize(
        &pods,
        "sized",
        json!({"containers": [{"name": "restarts", "resources": more}]}),
    )
    .await;
    until(&pods, "sized", "the other is restarted", |s| {
        runs(s, "restarts") && container(s, "restarts").is_some_and(|c| c.restart_count == 1)
    })
    .await;
    around.comes_to(84 << 20);

    let most = json!({"requests": {"cpu": "1000"}, "limits": {"cpu": "1000"}});
    let most = json!({"spec": {"containers": [{"name": "server", "resources": most}]}});
    let refused = pods
        .patch_subresource(
            "resize",
            "sized",
            &PatchParams::default(),
            &Patch::Strategic(most),
        )
        .await
        .expect_err("what the node does not have is not given");
    let why = "Node didn't have enough allocatable resources: cpu, requested: 1000";
    assert!(refused.to_string().contains(why), "{refused}");
    let status = pods.get("sized").await.unwrap().status.unwrap();
    assert_eq!(limit(&status, "server", "cpu").as_deref(), Some("200m"));
    assert_eq!(container(&status, "server").map(|c| c.restart_count), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn wasm_containers_and_whole_pods_are_resized() {
    let Some(cluster) = prepared("resizing Wasm containers and whole Pods").await else {
        return;
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    cluster.push(&root.join("workloads/wasm/server.wasm"), "server-wasm:v1");
    let client = cluster.client().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for pod in [GUEST, WHOLE, WHOLE_GUEST] {
        let pod: Pod = serde_yaml::from_str(pod).unwrap();
        pods.create(&Default::default(), &pod).await.unwrap();
    }
    until(&pods, "guest", "it runs", |s| runs(s, "c")).await;
    until(&pods, "whole", "it runs", |s| runs(s, "c")).await;
    until(&pods, "whole-guest", "it runs", |s| runs(s, "c")).await;
    let guest = pods.get("guest").await.unwrap();
    let node = guest.spec.unwrap().node_name.unwrap();
    let limit_of = |pod| limit_of_guest(&client, &node, "memory_limit_bytes", pod);
    let quota_of = |pod| limit_of_guest(&client, &node, "cpu_quota", pod);
    assert_eq!(limit_of("guest").await, 64 << 20);
    assert_eq!(limit_of("whole-guest").await, 64 << 20, "its Pod's");

    let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "96Mi"}}}]});
    resize(&pods, "guest", spec).await;
    until(&pods, "guest", "it has more", |s| {
        limit(s, "c", "memory").as_deref() == Some("96Mi")
    })
    .await;
    assert_eq!(limit_of("guest").await, 96 << 20);
    let uid = pods.get("whole").await.unwrap().metadata.uid.unwrap();
    let around = PodCgroup::of(&cluster.id(), &uid);
    assert_eq!((around.memory(), around.quota()), (64 << 20, Some(20_000)));
    for name in ["whole", "whole-guest"] {
        let more = json!({"resources": {"limits": {"cpu": "300m", "memory": "80Mi"}}});
        resize(&pods, name, more).await;
        until(&pods, name, "the Pod says what it has", |s| {
            let limits = s.resources.as_ref().and_then(|r| r.limits.as_ref());
            limits.is_some_and(|limits| limits["cpu"].0 == "300m")
        })
        .await;
    }
    around.comes_to(80 << 20);
    assert_eq!(limit_of("whole-guest").await, 80 << 20);
    assert_eq!(quota_of("whole-guest").await, 30_000);
    assert_eq!(around.quota(), Some(30_000));
    for name in ["guest", "whole", "whole-guest"] {
        let status = pods.get(name).await.unwrap().status.unwrap();
        assert_eq!(
            container(&status, "c").map(|c| c.restart_count),
            Some(0),
            "{name}"
        );
    }
}

/// A module that has 20 MiB and computes for ever: `(module (memory (export "memory") 320) (func (export "_start") (loop br 0)))`.
const HOLDER: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x04\x01\0\xc0\x02\x07\x13\x02\x06memory\x02\0\x06_start\0\0\
    \x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_a_pod_have_its_memory_together() {
    let Some(cluster) = prepared("the memory of a Pod of guests").await else {
        return;
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let holder = cluster.dir().join("holder.wasm");
    std::fs::write(&holder, HOLDER).unwrap();
    cluster.push(&holder, "holder:v1");
    cluster.push(&root.join("workloads/wasm/hog.wasm"), "hog:v1");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    // Alone it has room within the Pod, which is its own limit too; beside the holder it has not.
    for (name, beside, code) in [("alone", false, 0), ("together", true, 137)] {
        let mut pod: Value = serde_yaml::from_str(TOGETHER).unwrap();
        pod["metadata"]["name"] = name.into();
        if !beside {
            pod["spec"]["initContainers"] = json!([]);
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        pods.create(&Default::default(), &pod).await.unwrap();
        let ended = |status: &PodStatus| {
            let state = container(status, "c")?.state.clone()?;
            state.terminated
        };
        until(&pods, name, "it has ended", |status| ended(status).is_some()).await;
        let ended = ended(&pods.get(name).await.unwrap().status.unwrap()).unwrap();
        assert_eq!(ended.exit_code, code, "{ended:?}");
        let words = ended.message.unwrap_or_default();
        assert_eq!(words.contains("would exceed the Pod's limit"), beside, "{words}");
    }
}

const TOGETHER: &str = "
apiVersion: v1
kind: Pod
metadata: {}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  resources: {limits: {memory: 48Mi}}
  initContainers:
  - name: holder
    restartPolicy: Always
    image: amphipod.local/holder:v1
    resources: {requests: {cpu: 10m}, limits: {cpu: 20m}}
  containers:
  - name: c
    image: amphipod.local/hog:v1
    env: [{name: HOG_MIB, value: '40'}]
";

const GUEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: guest}
spec:
  containers:
  - name: c
    image: amphipod.local/server-wasm:v1
    resources: {requests: {cpu: 10m, memory: 1Mi}, limits: {cpu: 100m, memory: 64Mi}}
";

const WHOLE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: whole}
spec:
  terminationGracePeriodSeconds: 1
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers:
  - name: c
    image: amphipod.local/busybox:v1
    command: [sleep, '600']
";

const WHOLE_GUEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: whole-guest}
spec:
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers:
  - name: c
    image: amphipod.local/server-wasm:v1
";

/// A limit that its node tells.
async fn limit_of_guest(client: &Client, node: &str, limit: &str, pod: &str) -> u64 {
    let all = get(client, &format!("/api/v1/nodes/{node}/proxy/metrics/cadvisor")).await;
    let mut lines = all.lines().filter(|line| {
        line.starts_with(&format!("container_spec_{limit}{{")) && line.contains(&format!("pod=\"{pod}\""))
    });
    let line = lines.next().unwrap_or_else(|| panic!("nothing of it in {all}"));
    let value = line.split_once("} ").unwrap().1.split(' ').next().unwrap();
    value.parse::<f64>().unwrap() as u64
}

/// The cgroup around a Pod's containers, of either version.
struct PodCgroup(String);

impl PodCgroup {
    /// Below the hierarchies' mounts; where systemd runs the host it is a slice of its.
    fn of(id: &str, uid: &str) -> Self {
        if !std::path::Path::new("/run/systemd/system").is_dir() {
            return Self(format!("amphipod-{id}/pod{uid}"));
        }
        let slice = format!("amphipod_{id}");
        Self(format!(
            "{slice}.slice/{slice}-pod{}.slice",
            uid.replace('-', "_")
        ))
    }

    fn read(&self, new: &str, controller: &str, old: &str) -> Result<String, String> {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let text =
            |path: std::path::PathBuf| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        text(root.join(&self.0).join(new))
            .or_else(|_| {
                text(root.join(controller).join(&self.0).join(old)).map(|text| format!("{controller} {text}"))
            })
            .map_err(|error| format!("{}: {error}", self.0))
    }

    fn memory(&self) -> u64 {
        let text = self
            .read("memory.max", "memory", "memory.limit_in_bytes")
            .unwrap();
        text.trim_start_matches("memory ").parse().unwrap()
    }

    /// Ten shares of cgroup v1, or the weight that is as much on v2.
    fn has_ten_shares(&self) -> bool {
        let text = self.read("cpu.weight", "cpu", "cpu.shares").unwrap();
        ["cpu 10", "4"].contains(&text.as_str())
    }

    fn quota(&self) -> Option<u64> {
        let text = self.read("cpu.max", "cpu", "cpu.cfs_quota_us").unwrap();
        text.trim_start_matches("cpu ")
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .ok()
    }

    fn comes_to(&self, memory: u64) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.memory() != memory {
            assert!(
                std::time::Instant::now() < deadline,
                "{} is not {memory}",
                self.memory()
            );
            std::thread::yield_now();
        }
    }
}

async fn resize(pods: &Api<Pod>, name: &str, spec: Value) {
    let patch = Patch::Strategic(json!({"spec": spec}));
    pods.patch_subresource("resize", name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn get(client: &Client, path: &str) -> String {
    let request = Request::get(path).body(Vec::new()).unwrap();
    client.request_text(request).await.unwrap()
}

/// What the container's own cgroup says, of either version.
async fn memory_limit(pods: &Api<Pod>) -> u64 {
    let find = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let params = AttachParams::default().container("server").stderr(false);
    let mut running = pods.exec("sized", ["sh", "-c", find], &params).await.unwrap();
    let mut said = String::new();
    running.stdout().unwrap().read_to_string(&mut said).await.unwrap();
    said.trim().parse().unwrap_or_else(|_| panic!("{said:?}"))
}

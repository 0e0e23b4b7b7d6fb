//! NetworkPolicies by `kubectl apply`, kept by Wasm Pods.

use crate::cluster::{Cluster, PATIENCE, http_get};
use crate::kubectl::{Kubectl, prepared};
use crate::workloads::eventually;

/// A server that asks others when it is told to.
fn pod(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: amphipod.local/server-wasm:v1
    ports: [{{name: http, containerPort: 8080}}]
    readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---"
    )
}

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

const DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";

/// All may ask for `web` by its name; it lets in one of them.
const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-web}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: http}]
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{port: 53, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: http}]
";

/// What nodes may read to keep Pods to policies.
const RIGHT: &str = "amphipod:network-policies";

struct Case<'a> {
    kubectl: Kubectl<'a>,
    cluster: &'a Cluster,
}

impl Case<'_> {
    fn apply(&self, name: &str, manifest: &str) {
        let path = self.cluster.dir().join(name);
        std::fs::write(&path, manifest).unwrap();
        self.kubectl.ok(&format!("apply -f {}", path.display()), &[]);
    }

    fn ready(&self) {
        let limit = PATIENCE.as_secs();
        let wait = format!("wait --for=condition=Ready pod --all --timeout={limit}s");
        self.kubectl.ok(&wait, &[]);
    }

    fn ip(&self, pod: &str) -> String {
        let ip = self
            .kubectl
            .ok(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"), &[]);
        ip.trim().to_owned()
    }

    /// Where a Pod is told to ask somebody.
    fn ask(&self, pod: &str, whom: &str) -> (String, String) {
        (
            format!("{}:8080", self.ip(pod)),
            format!("/fetch?url=http://{whom}/healthz"),
        )
    }

    /// What it answers in the end, when rules are on their way.
    fn comes_to(&self, pod: &str, whom: &str, words: &str) {
        let (address, path) = self.ask(pod, whom);
        eventually(&address, &path, words);
    }
}

const SERVED: &str = "\r\n\r\nok";
const NOT_LET_OUT: &str = "DestinationIpProhibited";
const NOT_LET_IN: &str = "HTTP/1.1 502";

#[test]
fn wasm_pods_keep_to_network_policies() {
    let Some((cluster, programs)) = prepared("network policies") else {
        return;
    };
    let case = Case {
        kubectl: Kubectl::new(programs.last().unwrap(), &cluster),
        cluster: &cluster,
    };
    without_the_right_none_are_kept_to(&case);
    case.apply(
        "pods.yaml",
        &[pod("web"), pod("friend"), pod("stranger"), SERVICE.to_owned()].concat(),
    );
    case.ready();
    let web = format!("{}:8080", case.ip("web"));
    case.comes_to("friend", "web", SERVED);
    case.comes_to("stranger", "web", SERVED);

    case.apply("deny.yaml", DENY);
    case.comes_to("friend", "web", NOT_LET_OUT);
    case.comes_to("stranger", &web, NOT_LET_OUT);
    assert!(
        http_get(&web, "/healthz").unwrap().contains(SERVED),
        "its node reaches it"
    );

    case.apply("allow.yaml", ALLOW);
    case.comes_to("friend", "web", SERVED);
    case.comes_to("friend", &web, SERVED);
    case.comes_to("stranger", &web, NOT_LET_IN);
    case.comes_to("friend", &format!("{}:8080", case.ip("stranger")), NOT_LET_OUT);
    case.ready();

    case.apply("late.yaml", &pod("late"));
    case.ready();
    let (address, path) = case.ask("late", &format!("{}:8080", case.ip("friend")));
    let first = http_get(&address, &path).unwrap();
    assert!(
        first.contains(NOT_LET_OUT),
        "a Pod has its rules from its start: {first}"
    );

    case.kubectl.ok("label pod stranger --overwrite app=friend", &[]);
    case.comes_to("stranger", &web, SERVED);
    case.kubectl.ok("delete networkpolicy --all", &[]);
    case.comes_to("late", &web, SERVED);
    case.comes_to("late", &format!("{}:8080", case.ip("friend")), SERVED);
}

/// A node that never could read policies runs guests all the same, and goes on with policies when it may.
fn without_the_right_none_are_kept_to(case: &Case<'_>) {
    let binding = case
        .kubectl
        .ok(&format!("get clusterrolebinding {RIGHT} -o yaml"), &[]);
    case.kubectl
        .ok(&format!("delete clusterrolebinding {RIGHT}"), &[]);
    case.apply("early.yaml", &pod("early"));
    case.ready();
    let path = case.cluster.dir().join("binding.yaml");
    let kept = binding
        .lines()
        .filter(|line| !line.contains("resourceVersion") && !line.contains("uid:"));
    std::fs::write(&path, kept.collect::<Vec<_>>().join("\n")).unwrap();
    case.kubectl.ok(&format!("apply -f {}", path.display()), &[]);
    case.ready();
    case.kubectl.ok("delete pod early", &[]);
}

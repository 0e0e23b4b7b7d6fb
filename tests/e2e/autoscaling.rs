//! `kubectl autoscale` on a real load: a workload grows by what its Pods use, and shrinks again when that may be more.

use std::path::Path;

use crate::cluster::{Cluster, is_root};
use crate::kubectl::{Kubectl, kubectls};

const WORKLOAD: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: burn, image: 'amphipod.local/burn:v1', resources: {requests: {cpu: 10m}, limits: {cpu: 100m}}}
";

#[test]
fn a_workload_grows_and_shrinks_with_what_it_uses() {
    let program = kubectls().into_iter().next();
    let (true, Some(program)) = (is_root("autoscaling"), program) else {
        return eprintln!("skipped autoscaling: it needs root and kubectl");
    };
    let mut cluster = Cluster::new();
    let burn = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/wasm/burn.wasm");
    let images = format!(
        "images:\n- {{name: 'amphipod.local/burn:v1', path: '{}'}}\n",
        burn.display()
    );
    std::fs::write(cluster.dir().join("images.yaml"), images).unwrap();
    let manifest = cluster.dir().join("burn.yaml");
    std::fs::write(&manifest, WORKLOAD).unwrap();
    cluster.start(&[&manifest]);
    let kubectl = Kubectl::new(&program, &cluster);
    kubectl.ok(
        "autoscale deployment burn --cpu-percent=50 --min=1 --max=2",
        &["autoscaled"],
    );
    kubectl.ok(
        "wait --for=jsonpath={.spec.replicas}=2 deployment/burn --timeout=120s",
        &[],
    );
    let above = "New size: 2; reason: cpu resource utilization (percentage of request) above target";
    kubectl.ok(
        "describe hpa burn",
        &[above, "ValidMetricFound", "SucceededRescale"],
    );
    kubectl.ok("get hpa burn", &["Deployment/burn", "%/50%"]);

    let more = "patch hpa burn --type=json -p \
        [{\"op\":\"replace\",\"path\":\"/spec/metrics/0/resource/target/averageUtilization\",\"value\":100000},\
        {\"op\":\"add\",\"path\":\"/spec/behavior\",\"value\":{\"scaleDown\":{\"stabilizationWindowSeconds\":0}}}]";
    kubectl.ok(more, &["patched"]);
    kubectl.ok(
        "wait --for=jsonpath={.spec.replicas}=1 deployment/burn --timeout=120s",
        &[],
    );
    kubectl.ok(
        "describe hpa burn",
        &["New size: 1; reason: All metrics below target"],
    );
}

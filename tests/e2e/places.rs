//! Where a node keeps what others look for (`--root-dir`, `--pod-logs-dir`), and by which identities one joins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::changing::{container, runs, until};
use crate::cluster::{Cluster, PATIENCE, is_root, run, text};
use crate::faults::{Halves, until as until_some};
use crate::streams::busybox_image;
use crate::users::script;

const TEST: &str = "directories of the node";

fn pod() -> Pod {
    let spec = json!({
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "image": "amphipod.local/busybox:v1", "command": ["sh", "-c", "echo said; exec sleep 100000"],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
    });
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_logs_are_where_others_look_for_them_and_stay_there() {
    if !is_root(TEST) {
        return;
    }
    let mut cluster = Cluster::new();
    let Some(image) = busybox_image(TEST, cluster.dir()) else {
        return;
    };
    let dir = cluster.dir().canonicalize().unwrap();
    let (root, logs) = (dir.join("kubelet"), dir.join("log/pods"));
    let places = |root: &Path| {
        let path = |path: &Path| path.display().to_string();
        vec![
            "--root-dir".into(),
            path(root),
            "--pod-logs-dir".into(),
            path(&logs),
        ]
    };
    cluster.flags = places(&root);
    cluster.start(&[]);
    cluster.push(&image, "busybox:v1");
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    let made = pods.create(&Default::default(), &pod()).await.unwrap();
    let uid = made.metadata.uid.unwrap();
    until(&pods, "p", "it runs", |status| runs(status, "c")).await;
    script(&pods, "p", "c", "echo kept > /v/f").await;
    assert_eq!(
        fs::read_to_string(root.join("pods").join(&uid).join("volumes/v/f")).unwrap(),
        "kept\n"
    );
    assert!(root.join("plugins_registry").is_dir() && !cluster.data_dir().join("node/pods").exists());

    let status = pods.get("p").await.unwrap().status.unwrap();
    let id = container(&status, "c").unwrap().container_id.clone().unwrap();
    let id = id.rsplit('/').next().unwrap();
    let link = dir.join("log/containers").join(format!("p_default_c-{id}.log"));
    let log = logs.join(format!("default_p_{uid}/c/0.log"));
    assert_eq!(fs::read_link(&link).unwrap(), log);
    assert!(fs::read_to_string(&link).unwrap().ends_with(" stdout F said\n"));

    // Elsewhere the Pod would have nothing of what it has; what was said before holds.
    cluster.stop(Signal::SIGTERM);
    cluster.flags = places(&dir.join("other"));
    let refused = run(&mut cluster.up_command(&[]));
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(
        text(&refused).contains("give --root-dir as it was"),
        "{}",
        text(&refused)
    );
    assert!(!dir.join("other").exists());
    cluster.flags.clear();
    cluster.start(&[]);
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await);
    assert_eq!(script(&pods, "p", "c", "cat /v/f").await, "kept\n");
    cluster.stop(Signal::SIGTERM);
    // Others may have theirs beside them.
    fs::create_dir(logs.join("n_theirs_1")).unwrap();
    let down = cluster.down();
    assert!(down.status.success(), "{}", text(&down));
    assert!(!root.join("pods").exists() && !log.exists() && fs::symlink_metadata(&link).is_err());
    assert!(logs.join("n_theirs_1").is_dir());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    // Now it may go elsewhere.
    cluster.flags = places(&dir.join("other"));
    cluster.start(&[]);
    assert!(dir.join("other/plugins_registry").is_dir());
}

/// A kubeconfig with this user in it.
fn kubeconfig(halves: &Halves, name: &str, user: &Value) {
    let admin: Value = serde_yaml::from_str(&halves.admin()).unwrap();
    let mut made = admin;
    made["users"][0]["user"] = user.clone();
    fs::write(halves.dir().join(name), made.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_by_a_token_and_a_refused_start_leaves_nothing() {
    let Some(mut halves) = Halves::control_only("a node with a token").await else {
        return;
    };
    let client = halves.client().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "kube-system");
    make(&accounts, json!({"metadata": {"name": "node"}})).await;
    let binding = json!({
        "metadata": {"name": "node"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "node", "namespace": "kube-system"}],
    });
    make(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
    let asked: TokenRequest = serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
    let token = accounts
        .create_token_request("node", &Default::default(), &asked)
        .await
        .unwrap();
    let file = halves.dir().join("token");
    fs::write(&file, token.status.unwrap().token.unwrap()).unwrap();

    kubeconfig(&halves, "node.kubeconfig", &json!({}));
    halves.start_node();
    until_some("the start is refused", async || {
        (!halves.node_runs()).then_some(())
    })
    .await;
    let said = halves.last_of_node();
    assert!(said.contains("neither client-certificate nor token"), "{said}");
    assert!(
        !halves.node_dir().join("cluster.json").exists(),
        "nothing is settled by it"
    );

    kubeconfig(&halves, "node.kubeconfig", &json!({"tokenFile": file}));
    let mut halves = halves.with_node().await;
    let pods: Api<Pod> = Api::default_namespaced(client);
    pods.create(&Default::default(), &pod()).await.unwrap();
    until(&pods, "p", "it runs", |status| runs(status, "c")).await;

    // A program may say it, too.
    halves.kill_node();
    let version = "client.authentication.k8s.io/v1";
    let script = r#"printf '{"kind": "ExecCredential", "apiVersion": "%s", "status": {"token": "%s"}}' "$1" "$(cat "$2")""#;
    let program = json!({"apiVersion": version, "command": "sh", "args": ["-c", script, "sh", version, file],
        "interactiveMode": "Never"});
    kubeconfig(&halves, "node.kubeconfig", &json!({"exec": program}));
    halves.start_node();
    pods.delete("p", &Default::default()).await.unwrap();
    let gone = kube::runtime::wait::await_condition(pods, "p", |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the Pod ends")
        .unwrap();
}

async fn make<K>(api: &Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let object = serde_json::from_value(object).unwrap();
    api.create(&Default::default(), &object).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_obtains_its_certificate() {
    let Some(mut halves) = Halves::control_only("a node that asks for its certificate").await else {
        return;
    };
    let client = halves.client().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
    });
    make(&Api::<Secret>::namespaced(client.clone(), "kube-system"), secret).await;
    // As kubeadm has it.
    for (name, role) in [
        ("ask", "system:node-bootstrapper"),
        (
            "approve",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ),
    ] {
        let binding = json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "name": "system:bootstrappers", "apiGroup": "rbac.authorization.k8s.io"}],
        });
        make(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
    }
    kubeconfig(
        &halves,
        "bootstrap.kubeconfig",
        &json!({"token": "abcdef.0123456789abcdef"}),
    );
    halves.bootstrap = Some(halves.dir().join("bootstrap.kubeconfig"));
    let mut halves = halves.with_node().await;
    let file = halves.dir().join("node.kubeconfig");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let made = fs::read(&file).unwrap();
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let asked = async || requests.list(&Default::default()).await.unwrap().items.len();
    assert_eq!(asked().await, 1);
    // Who has one does not ask again.
    halves.kill_node();
    halves.start_node();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&Default::default(), &pod()).await.unwrap();
    until(&pods, "p", "it runs", |status| runs(status, "c")).await;
    assert_eq!((asked().await, fs::read(&file).unwrap()), (1, made));
}

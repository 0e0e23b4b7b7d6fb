//! Where a node keeps what others look for (`--root-dir`, `--pod-logs-dir`), and by which identities one joins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::Patch;
use kube::{Api, Client};
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

/// Lets who has a bootstrap token do what this role says, as kubeadm has it.
async fn bootstrappers_may(client: &Client, role: &str) {
    let binding = json!({
        "metadata": {"generateName": "bootstrappers-"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "Group", "name": "system:bootstrappers", "apiGroup": "rbac.authorization.k8s.io"}],
    });
    make(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
}

/// A node that may ask for its certificate by a token.
async fn bootstrapped(test: &str) -> Option<Halves> {
    let mut halves = Halves::control_only(test).await?;
    let client = halves.client().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
    });
    make(&Api::<Secret>::namespaced(client.clone(), "kube-system"), secret).await;
    bootstrappers_may(&client, "system:node-bootstrapper").await;
    kubeconfig(
        &halves,
        "bootstrap.kubeconfig",
        &json!({"token": "abcdef.0123456789abcdef"}),
    );
    halves.bootstrap = Some(halves.dir().join("bootstrap.kubeconfig"));
    Some(halves)
}

const BY_ITSELF: &str = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";

/// The requests to a signer, oldest first.
async fn asked(client: &Client, signer: &str) -> Vec<CertificateSigningRequest> {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut all = requests.list(&Default::default()).await.unwrap().items;
    all.retain(|request| request.spec.signer_name == format!("kubernetes.io/{signer}"));
    all.sort_by_key(|request| request.metadata.creation_timestamp.clone());
    all
}

/// Waits until there are so many requests to a signer, and says the name of the last.
async fn last_asked(client: &Client, signer: &str, count: usize) -> String {
    until_some("it is asked for", async || {
        let mut all = asked(client, signer).await;
        let request = (all.len() == count).then(|| all.pop()).flatten()?;
        request.metadata.name
    })
    .await
}

async fn decide(client: &Client, name: &str, decision: &str) {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let condition = json!([{"type": decision, "status": "True", "reason": "Test", "message": "by the test"}]);
    let body = Patch::Merge(json!({"status": {"conditions": condition}}));
    let decided = requests.patch_approval(name, &Default::default(), &body).await;
    decided.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_obtains_its_certificate() {
    let Some(mut halves) = bootstrapped("a node that asks for its certificate").await else {
        return;
    };
    let client = halves.client().await;
    let signer = "kube-apiserver-client-kubelet";
    let (file, key) = (
        halves.dir().join("node.kubeconfig"),
        halves.dir().join("node.kubeconfig.key.tmp"),
    );
    let is_private = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777 == 0o600;
    halves.start_node();
    let name = last_asked(&client, signer, 1).await;
    assert!(name.starts_with("node-csr-") && is_private(&key), "{name}");
    // It is the same request that is waited for when it is started again, and is over once it is refused.
    halves.kill_node();
    halves.start_node();
    decide(&client, &name, "Denied").await;
    until_some("the start is refused", async || {
        (!halves.node_runs()).then_some(())
    })
    .await;
    let said = halves.last_of_node();
    assert!(said.contains(&format!("{name} is denied: by the test")), "{said}");
    assert!(!key.exists() && asked(&client, signer).await.len() == 1);

    bootstrappers_may(&client, BY_ITSELF).await;
    let mut halves = halves.with_node().await;
    assert!(is_private(&file) && !key.exists());
    let made = fs::read(&file).unwrap();
    assert_eq!(asked(&client, signer).await.len(), 2);
    // Who has one does not ask again.
    halves.kill_node();
    halves.start_node();
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&Default::default(), &pod()).await.unwrap();
    until(&pods, "p", "it runs", |status| runs(status, "c")).await;
    assert_eq!(
        (asked(&client, signer).await.len(), fs::read(&file).unwrap()),
        (2, made)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_with_a_certificate_of_the_cluster() {
    let Some(halves) = bootstrapped("a node that asks for what it serves with").await else {
        return;
    };
    let client = halves.client().await;
    bootstrappers_may(&client, BY_ITSELF).await;
    let mut halves = halves.with_node().await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    pods.create(&Default::default(), &pod()).await.unwrap();
    until(&pods, "p", "it runs", |status| runs(status, "c")).await;
    let logs = async || pods.logs("p", &Default::default()).await;
    assert!(logs().await.is_err(), "it signs its own");
    let said = halves.last_of_node();
    assert!(said.contains("--rotate-server-certificates"), "{said}");

    halves.flags = vec!["--rotate-server-certificates"];
    halves.kill_node();
    halves.start_node();
    let name = last_asked(&client, "kubelet-serving", 1).await;
    assert!(name.starts_with("csr-") && logs().await.is_err(), "{name}");
    halves.kill_node();
    halves.start_node();
    decide(&client, &name, "Approved").await;
    let said = until_some("the node is reached", async || logs().await.ok()).await;
    assert_eq!(said, "said\n");
    until_some("the key is with the certificate", async || {
        let is_there = |name: &str| halves.node_dir().join(name).exists();
        (is_there("kubelet-server.pem") && !is_there("kubelet-server.pem.key.tmp")).then_some(())
    })
    .await;
    // Who has one serves with it at once, and does not ask again.
    halves.kill_node();
    halves.start_node();
    let said = until_some("the node is reached", async || logs().await.ok()).await;
    assert_eq!(said, "said\n");
    assert_eq!(script(&pods, "p", "c", "echo hi").await, "hi\n");
    assert_eq!(asked(&client, "kubelet-serving").await.len(), 1);
    // Another address is in none that it has; meanwhile it serves with that.
    halves.flags.extend(["--node-ip", "127.0.0.1"]);
    halves.kill_node();
    halves.start_node();
    let other = last_asked(&client, "kubelet-serving", 2).await;
    assert_ne!(other, name);
    let said = until_some("the node is reached", async || logs().await.ok()).await;
    assert_eq!(said, "said\n");
}

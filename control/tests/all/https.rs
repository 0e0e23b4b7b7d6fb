//! Over the wire: certificates, protocols, and who is let in.
use super::plane::Plane;
use amphipod_control::auth::pki::CertRequest;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

pub async fn client(plane: &Plane, request: &CertRequest) -> Client {
    let server = format!("https://{}", plane.control.local_addr());
    let text = plane.control.pki().kubeconfig("test", &server, request).unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn code(error: kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_certificate_of_the_cluster_is_let_in() {
    let plane = Plane::start().await;
    let admin = client(&plane, &CertRequest::client("admin", "system:masters")).await;
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    assert!(namespaces.list(&Default::default()).await.unwrap().items.len() >= 4);
    assert_eq!(admin.apiserver_version().await.unwrap().minor, "36");
}

#[tokio::test]
async fn others_are_not() {
    let plane = Plane::start().await;
    let nobody = client(&plane, &CertRequest::client("bob", "people")).await;
    let namespaces: Api<Namespace> = Api::all(nobody);
    assert_eq!(code(namespaces.list(&Default::default()).await.unwrap_err()), 403);

    let mut config = Config::new(format!("https://{}", plane.control.local_addr()).parse().unwrap());
    config.accept_invalid_certs = true;
    let anonymous = Client::try_from(config).unwrap();
    let request = |path: &str| http::Request::get(path).body(Vec::new()).unwrap();
    assert_eq!(anonymous.request_text(request("/livez")).await.unwrap(), "ok");
    assert_eq!(
        code(
            anonymous
                .request_text(request("/api/v1/namespaces"))
                .await
                .unwrap_err()
        ),
        401
    );
}

/// A client with a certificate of another cluster's authority, and maybe a token.
pub async fn stranger(plane: &Plane, other: &Plane, token: Option<&str>) -> Client {
    let server = format!("https://{}", plane.control.local_addr());
    let request = CertRequest::client("admin", "system:masters");
    let text = other.control.pki().kubeconfig("test", &server, &request).unwrap();
    let mut kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    if let Some(cluster) = &mut kubeconfig.clusters[0].cluster {
        cluster.certificate_authority_data = None;
        cluster.insecure_skip_tls_verify = Some(true);
    }
    if let Some(user) = &mut kubeconfig.auth_infos[0].auth_info {
        user.token = token.map(|token| token.to_owned().into());
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_nobodys() {
    let (plane, other) = (Plane::start().await, Plane::start().await);
    let namespaces: Api<Namespace> = Api::all(stranger(&plane, &other, None).await);
    assert_eq!(code(namespaces.list(&Default::default()).await.unwrap_err()), 401);
}

#[tokio::test]
async fn a_node_writes_itself_and_no_other() {
    let plane = Plane::start().await;
    let node = client(&plane, &CertRequest::node("n1", vec![])).await;
    let nodes: Api<Node> = Api::all(node);
    let body = |name: &str| -> Node {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap()
    };
    nodes.create(&Default::default(), &body("n1")).await.unwrap();
    let foreign = plane.client();
    Api::<Node>::all(foreign)
        .create(&Default::default(), &body("n2"))
        .await
        .unwrap();
    let label = kube::api::Patch::Merge(serde_json::json!({"metadata": {"labels": {"a": "b"}}}));
    nodes.patch("n1", &Default::default(), &label).await.unwrap();
    assert_eq!(
        code(nodes.patch("n2", &Default::default(), &label).await.unwrap_err()),
        403
    );
}

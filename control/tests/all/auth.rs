//! Who may do what, over HTTPS and in-process: roles, tokens, impersonation, nodes, and what is kept of it.
use std::time::Duration;

use super::plane::Plane;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, Request, StatusCode};
use kube::{Client, Config};
use serde_json::{Value, json};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

async fn call(client: &Client, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(bytes.into())
        .unwrap();
    let response = client.send(request).await.unwrap();
    let code = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    (
        code,
        serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()),
    )
}

fn role(name: &str, verbs: &[&str], resource: &str) -> Value {
    let group = if resource.starts_with("role") {
        "rbac.authorization.k8s.io"
    } else {
        ""
    };
    json!({"metadata": {"name": name}, "rules": [{"verbs": verbs, "apiGroups": [group], "resources": [resource]}]})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user}]})
}

/// The watch cache follows a moment after a write is answered.
pub async fn until_allowed(client: &Client, path: &str) {
    let allowed = async {
        let mut every = tokio::time::interval(Duration::from_millis(10));
        while call(client, Method::GET, path, Value::Null).await.0 != StatusCode::OK {
            every.tick().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), allowed).await;
    assert!(waited.is_ok(), "{path} is still refused");
}

#[tokio::test]
async fn roles_open_what_they_say_and_nobody_grants_more_than_he_has() {
    let plane = Plane::start().await;
    let bob = plane.control.client_as("bob", &[]);
    let (code, status) = call(&bob, Method::GET, "/api/v1/namespaces/default/pods", Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    plane
        .call(Method::POST, ROLES, role("r", &["get", "list"], "pods"))
        .await;
    plane
        .call(Method::POST, ROLES, role("author", &["create"], "roles"))
        .await;
    plane
        .call(Method::POST, ROLES, role("binder", &["create"], "rolebindings"))
        .await;
    for name in ["r", "author", "binder"] {
        plane
            .call(Method::POST, BINDINGS, binding(name, "Role", name, "bob"))
            .await;
    }
    until_allowed(&bob, "/api/v1/namespaces/default/pods").await;
    assert_eq!(call(&bob, Method::GET, "/api/v1/pods", Value::Null).await.0, 403);
    assert_eq!(
        call(&bob, Method::POST, ROLES, role("less", &["get"], "pods"))
            .await
            .0,
        201
    );
    let (code, status) = call(&bob, Method::POST, ROLES, role("more", &["get"], "secrets")).await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("attempting to grant RBAC permissions not currently held")
    );
    assert_eq!(
        call(&bob, Method::POST, BINDINGS, binding("ok", "Role", "r", "eve"))
            .await
            .0,
        201
    );
    assert_eq!(
        call(
            &bob,
            Method::POST,
            BINDINGS,
            binding("no", "ClusterRole", "cluster-admin", "bob")
        )
        .await
        .0,
        403
    );
    assert_eq!(
        call(
            &bob,
            Method::POST,
            BINDINGS,
            binding("lost", "ClusterRole", "nosuch", "bob")
        )
        .await
        .0,
        404
    );
}

#[tokio::test]
async fn aggregated_roles_are_filled_and_defaults_come_back() {
    let plane = Plane::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let (code, _) = plane
        .call(
            Method::DELETE,
            &format!("{path}/system:node-proxier"),
            Value::Null,
        )
        .await;
    assert_eq!(code, 200);
    let plane = plane.restart().await;
    assert_eq!(plane.get(&format!("{path}/system:node-proxier")).await.0, 200);
    let client = plane.client();
    let roles: kube::Api<k8s_openapi::api::rbac::v1::ClusterRole> = kube::Api::all(client);
    super::cluster::until_one(&roles, "view", "rules", |role| {
        role.rules.as_ref().is_some_and(|r| !r.is_empty())
    })
    .await;
}

/// A client that shows a token and nothing else.
pub fn bearer(plane: &Plane, token: &str) -> Client {
    let mut config = Config::new(format!("https://{}", plane.control.local_addr()).parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).unwrap()
}

pub async fn token(plane: &Plane, spec: Value) -> (StatusCode, Value) {
    let path = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    plane.call(Method::POST, path, json!({ "spec": spec })).await
}

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

#[tokio::test]
async fn a_token_is_its_accounts_and_ends_with_its_pod() {
    let plane = Plane::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    plane
        .call(Method::POST, accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]}});
    let (code, pod) = plane.call(Method::POST, pods, pod).await;
    assert_eq!(code, 201, "{pod}");
    assert!(
        pod["spec"]["volumes"][0]["name"]
            .as_str()
            .unwrap()
            .starts_with("kube-api-access-")
    );
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]});
    let (code, answer) = token(&plane, json!({"boundObjectRef": bound})).await;
    assert_eq!(code, 201, "{answer}");
    let robot = bearer(&plane, answer["status"]["token"].as_str().unwrap());
    let (code, me) = call(&robot, Method::POST, WHO, json!({})).await;
    assert_eq!(code, 201, "{me}");
    assert_eq!(
        me["status"]["userInfo"]["username"],
        "system:serviceaccount:default:robot"
    );
    let (_, signed) = answer["status"]["token"]
        .as_str()
        .unwrap()
        .split_once('.')
        .unwrap();
    let (payload, _) = signed.split_once('.').unwrap();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    for forged in [format!("{header}.{payload}."), format!("{header}.{signed}")] {
        let refused = call(&bearer(&plane, &forged), Method::POST, WHO, json!({})).await;
        assert_eq!(refused.0, 401);
    }
    plane
        .call(
            Method::DELETE,
            &format!("{pods}/p"),
            json!({"gracePeriodSeconds": 0}),
        )
        .await;
    assert_eq!(plane.get(&format!("{pods}/p")).await.0, 404);
    assert_eq!(call(&robot, Method::POST, WHO, json!({})).await.0, 401);
    let (code, answer) = token(&plane, json!({"audiences": ["vault"]})).await;
    assert_eq!(code, 201, "{answer}");
    let foreign = answer["status"]["token"].as_str().unwrap();
    assert_eq!(
        call(&bearer(&plane, foreign), Method::POST, WHO, json!({}))
            .await
            .0,
        401
    );
    let review = json!({"spec": {"token": foreign, "audiences": ["vault"]}});
    let (_, answer) = plane
        .call(
            Method::POST,
            "/apis/authentication.k8s.io/v1/tokenreviews",
            review,
        )
        .await;
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    assert_eq!(answer["status"]["audiences"], json!(["vault"]));
    assert_eq!(
        call(&bearer(&plane, "garbage"), Method::POST, WHO, json!({}))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn one_space_stands_before_a_token() {
    let plane = Plane::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts";
    plane
        .call(Method::POST, path, json!({"metadata": {"name": "robot"}}))
        .await;
    let (_, made) = token(&plane, json!({})).await;
    let token = made["status"]["token"].as_str().expect("a token");
    let mut config = Config::new(format!("https://{}", plane.control.local_addr()).parse().unwrap());
    config.accept_invalid_certs = true;
    let nobody = Client::try_from(config).unwrap();
    let extra = "299 - \"the provided Authorization header contains extra space before the bearer token, and is ignored\"";
    for (header, code, warning) in [
        (format!("Bearer {token}"), 201, None),
        (format!("bearer {token} and more"), 201, None),
        (format!("Bearer  {token}"), 401, Some(extra)),
        (format!("Bearer\t{token}"), 401, None),
        ("Bearer".to_owned(), 401, None),
        (format!("Token {token}"), 401, None),
    ] {
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        let request = Request::post(WHO)
            .header("authorization", &header)
            .header("content-type", "application/json");
        let answer = nobody
            .send(request.body(body.into_bytes().into()).unwrap())
            .await
            .unwrap();
        let told = answer.headers().get("warning").map(|told| told.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), told), (code, warning), "{header}");
    }
}

#[tokio::test]
async fn keys_and_issuer_are_published_and_the_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let plane = Plane::start().await;
    let (_, keys) = plane.get("/openid/v1/jwks").await;
    assert_eq!(keys["keys"][0]["crv"], "P-256");
    let (_, about) = plane.get("/.well-known/openid-configuration").await;
    assert_eq!(about["issuer"], "https://kubernetes.default.svc.cluster.local");
    assert_eq!(
        about["jwks_uri"], "https://kubernetes.default.svc.cluster.local/openid/v1/jwks",
        "Pods cannot reach the loopback address the server listens at"
    );
    for file in ["sa.key", "encryption.keys"] {
        let meta = std::fs::metadata(plane.dir.path().join("control/pki").join(file)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn secrets_are_not_to_be_found_on_disk() {
    let plane = Plane::start().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "correct-horse-battery"}});
    let (code, _) = plane
        .call(Method::POST, "/api/v1/namespaces/default/secrets", secret)
        .await;
    assert_eq!(code, 201);
    let encoded = b"Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";
    for file in ["store.redb", "store.journal"] {
        let bytes = std::fs::read(plane.dir.path().join("control").join(file)).unwrap();
        assert!(
            !bytes.windows(encoded.len()).any(|window| window == encoded),
            "{file}"
        );
    }
    let plane = plane.restart().await;
    let (_, found) = plane.get("/api/v1/namespaces/default/secrets/s").await;
    assert_eq!(found["data"]["password"], "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
}

#[tokio::test]
async fn a_node_is_kept_to_its_own() {
    let plane = Plane::start().await;
    let node = |name: &str| {
        plane
            .control
            .client_as(&format!("system:node:{name}"), &["system:nodes"])
    };
    let (a, b) = (node("a"), node("b"));
    for (client, name) in [(&a, "a"), (&b, "b")] {
        let body = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        assert_eq!(call(client, Method::POST, "/api/v1/nodes", body).await.0, 201);
    }
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    plane
        .call(Method::POST, accounts, json!({"metadata": {"name": "robot"}}))
        .await;
    let secrets = "/api/v1/namespaces/default/secrets";
    plane
        .call(Method::POST, secrets, json!({"metadata": {"name": "of-b"}}))
        .await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "b", "serviceAccountName": "robot",
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "of-b"}}]}]}});
    assert_eq!(
        plane
            .call(Method::POST, "/api/v1/namespaces/default/pods", pod)
            .await
            .0,
        201
    );
    until_allowed(&b, &format!("{secrets}/of-b")).await;
    for followed in [
        "/apis/networking.k8s.io/v1/networkpolicies",
        "/api/v1/namespaces",
        "/api/v1/pods",
    ] {
        until_allowed(&b, followed).await;
    }
    assert_eq!(call(&b, Method::GET, secrets, Value::Null).await.0, 403);
    let (code, status) = call(&a, Method::GET, &format!("{secrets}/of-b"), Value::Null).await;
    assert_eq!(code, 403);
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .ends_with(": no relationship found between node 'a' and this object")
    );
    let delete = json!({"gracePeriodSeconds": 0});
    assert_eq!(
        call(&a, Method::DELETE, "/api/v1/namespaces/default/pods/p", delete)
            .await
            .0,
        403
    );
    let own = json!({"metadata": {"name": "a", "labels": {"node-restriction.kubernetes.io/x": "y"}}});
    assert_eq!(call(&a, Method::PUT, "/api/v1/nodes/a", own).await.0, 403);
    let other = json!({"metadata": {"name": "b"}});
    assert_eq!(call(&a, Method::PUT, "/api/v1/nodes/b", other).await.0, 403);
}

#[tokio::test]
async fn every_request_leaves_a_line() {
    let plane = Plane::start().await;
    let bob = plane.control.client_as("bob", &[]);
    assert_eq!(
        call(
            &bob,
            Method::GET,
            "/api/v1/namespaces/default/secrets/x",
            Value::Null
        )
        .await
        .0,
        403
    );
    let line = plane.audited(|line| line["user"]["username"] == "bob").await;
    assert_eq!(
        (&line["verb"], &line["level"]),
        (&json!("get"), &json!("Metadata"))
    );
    assert_eq!(line["responseStatus"]["code"], 403);
    assert_eq!(line["objectRef"]["resource"], "secrets");
}

#[tokio::test]
async fn an_approved_request_becomes_a_certificate() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    let plane = Plane::start().await;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "carol");
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let request = json!({"metadata": {"name": "carol"}, "spec": {"request": STANDARD.encode(pem), "usages": ["client auth"],
        "signerName": "kubernetes.io/kube-apiserver-client", "username": "forged"}});
    let (code, made) = plane.call(Method::POST, path, request).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["username"], "system:admin");
    let mut approved = made.clone();
    approved["status"] =
        json!({"conditions": [{"type": "Approved", "status": "True", "reason": "R", "message": "m"}]});
    let (code, answer) = plane
        .call(Method::PUT, &format!("{path}/carol/approval"), approved)
        .await;
    assert_eq!(code, 200, "{answer}");
    let requests: kube::Api<CertificateSigningRequest> = kube::Api::all(plane.client());
    let issued = super::cluster::until_one(&requests, "carol", "a certificate", |request| {
        request
            .status
            .as_ref()
            .is_some_and(|status| status.certificate.is_some())
    })
    .await;
    let pem = String::from_utf8(issued.status.unwrap().certificate.unwrap().0).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"), "{pem}");
}

#[tokio::test]
async fn whoever_may_not_is_not_told_what_there_is() {
    let plane = Plane::start().await;
    let bob = plane.control.client_as("bob", &[]);
    for (method, path, may) in [
        (Method::GET, "/apis/foo.example.com/v1/foos/a", 404),
        (Method::GET, "/api/v1/namespaces/default/foos", 404),
        (Method::OPTIONS, "/api/v1/namespaces/default/pods", 405),
        (Method::HEAD, "/api/v1/namespaces/default/pods", 405),
        (Method::PUT, "/api/v1/namespaces/default/pods", 405),
        (
            Method::GET,
            "/apis/authorization.k8s.io/v1/subjectaccessreviews/a",
            404,
        ),
    ] {
        let (code, answer) = call(&bob, method.clone(), path, Value::Null).await;
        assert_eq!(code, 403, "{method} {path}: {answer}");
        let admin = plane.call(method.clone(), path, Value::Null).await;
        assert_eq!(admin.0, may, "{method} {path}: {}", admin.1);
    }
    let (_, answer) = call(&bob, Method::GET, "/apis/foo.example.com/v1/foos/a", Value::Null).await;
    assert_eq!(
        answer["message"],
        "foos.foo.example.com \"a\" is forbidden: User \"bob\" cannot get resource \"foos\" in API group \"foo.example.com\" at the cluster scope"
    );
}

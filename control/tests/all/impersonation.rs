//! Acting as others: the right to whatever, and the rights to some requests as some (KEP-5284).
use super::plane::Plane;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const ACCOUNT: &str = "system:serviceaccount:default:robot";

/// Asks who it is while it acts as `headers` say: the groups, or what the refusal says.
async fn acts_as(client: &Client, headers: &[(&str, &str)]) -> Value {
    let mut request = Request::post(WHO).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client
        .send(request.body(b"{}".to_vec().into()).unwrap())
        .await
        .unwrap();
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    if code == 201 {
        return body["status"]["userInfo"]["groups"].clone();
    }
    assert_eq!(code, 403, "{body}");
    body["message"].clone()
}

/// Gives `user` these rights, of all groups, and waits until they hold: until he may list what the role has him list.
async fn grant(plane: &Plane, user: &str, rules: Value) {
    let mut rules = rules;
    let probe = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]});
    rules.as_array_mut().unwrap().push(probe);
    let role = json!({"metadata": {"name": user}, "rules": rules});
    let (code, answer) = plane.call(Method::POST, ROLES, role).await;
    assert_eq!(code, 201, "{answer}");
    let binding = json!({"metadata": {"name": user}, "subjects": [{"kind": "User", "name": user}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user}});
    let (code, answer) = plane.call(Method::POST, BINDINGS, binding).await;
    assert_eq!(code, 201, "{answer}");
    let client = plane.control.client_as(user, &[]);
    super::auth::until_allowed(&client, "/api/v1/configmaps").await;
}

fn rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({"apiGroups": ["authentication.k8s.io"], "resources": resources, "verbs": verbs})
}

#[tokio::test]
async fn who_may_do_something_as_some_may_do_no_more() {
    let plane = Plane::start().await;
    let on = |word: &str| {
        rule(
            &[&format!("impersonate-on:{word}:create")],
            &["selfsubjectreviews"],
        )
    };
    let user_info = json!([
        on("user-info"),
        rule(&["impersonate:user-info"], &["users", "groups"])
    ]);
    grant(&plane, "people", user_info).await;
    let accounts = json!([
        on("serviceaccount"),
        rule(&["impersonate:serviceaccount"], &["serviceaccounts"])
    ]);
    grant(&plane, "accounts", accounts).await;
    let nodes = json!([
        on("arbitrary-node"),
        rule(&["impersonate:arbitrary-node"], &["nodes"])
    ]);
    grant(&plane, "nodes", nodes).await;
    let elsewhere = json!([
        rule(&["impersonate-on:user-info:list"], &["selfsubjectreviews"]),
        rule(&["impersonate:user-info"], &["users"])
    ]);
    grant(&plane, "elsewhere", elsewhere).await;
    grant(&plane, "nobody", json!([])).await;
    let (user, group) = ("impersonate-user", "impersonate-group");
    let node = "system:node:n";
    let cannot = |verb: &str, resource: &str, group: &str, place: &str| {
        format!("cannot {verb} resource \"{resource}\" in API group \"{group}\" {place}")
    };
    let all = "at the cluster scope";
    let authentication = "authentication.k8s.io";
    let on = |word: &str| {
        cannot(
            &format!("impersonate-on:{word}:create"),
            "selfsubjectreviews",
            authentication,
            all,
        )
    };
    for (who, headers, want) in [
        ("people", vec![(user, "bob")], Ok(vec!["system:authenticated"])),
        (
            "people",
            vec![(user, "bob"), (group, "g")],
            Ok(vec!["g", "system:authenticated"]),
        ),
        (
            "people",
            vec![(user, "bob"), (group, "system:masters")],
            Err("impersonating the system:masters group is not allowed".to_owned()),
        ),
        ("people", vec![(user, ACCOUNT)], Err(on("serviceaccount"))),
        ("people", vec![(user, node)], Err(on("arbitrary-node"))),
        (
            "people",
            vec![(user, "bob"), ("impersonate-uid", "1")],
            Err(cannot("impersonate:user-info", "uids", authentication, all)),
        ),
        (
            "accounts",
            vec![(user, ACCOUNT)],
            Ok(vec![
                "system:serviceaccounts",
                "system:serviceaccounts:default",
                "system:authenticated",
            ]),
        ),
        (
            "accounts",
            vec![(user, ACCOUNT), (group, "g")],
            Err(cannot(
                "impersonate",
                "serviceaccounts",
                "",
                "in the namespace \"default\"",
            )),
        ),
        (
            "nodes",
            vec![(user, node)],
            Ok(vec!["system:nodes", "system:authenticated"]),
        ),
        ("nodes", vec![(user, "bob")], Err(on("user-info"))),
        ("elsewhere", vec![(user, "bob")], Err(on("user-info"))),
        ("nobody", vec![(user, "bob")], Err(on("user-info"))),
    ] {
        let said = acts_as(&plane.control.client_as(who, &[]), &headers).await;
        match want {
            Ok(groups) => assert_eq!(said, json!(groups), "{who}: {headers:?}"),
            Err(why) => assert!(
                said.as_str().is_some_and(|s| s.contains(&why)),
                "{who}: {headers:?}: {said}"
            ),
        }
    }
}

#[tokio::test]
async fn who_may_be_others_may_do_whatever_they_may() {
    let plane = Plane::start().await;
    let core =
        |resources: &[&str]| json!({"apiGroups": [""], "resources": resources, "verbs": ["impersonate"]});
    grant(
        &plane,
        "any",
        json!([core(&["users", "groups", "serviceaccounts"])]),
    )
    .await;
    let any = plane.control.client_as("any", &[]);
    let user = "impersonate-user";
    for (headers, groups) in [
        (vec![(user, "bob")], vec!["system:authenticated"]),
        (vec![(user, "system:node:n")], vec!["system:authenticated"]),
        (
            vec![(user, ACCOUNT), ("impersonate-group", "g")],
            vec!["g", "system:authenticated"],
        ),
    ] {
        assert_eq!(acts_as(&any, &headers).await, json!(groups), "{headers:?}");
    }
}

/// A service account as the node that its Pod is on, and as no other.
#[tokio::test]
async fn an_account_acts_as_the_node_of_its_pod() {
    let plane = Plane::start().await;
    for (path, object) in [
        ("/api/v1/nodes", json!({"metadata": {"name": "n"}})),
        (
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"metadata": {"name": "robot"}}),
        ),
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "serviceAccountName": "robot",
                "containers": [{"name": "c", "image": "i"}]}}),
        ),
    ] {
        let (code, answer) = plane.call(Method::POST, path, object).await;
        assert_eq!(code, 201, "{answer}");
    }
    grant(
        &plane,
        ACCOUNT,
        json!([
            rule(
                &["impersonate-on:associated-node:create"],
                &["selfsubjectreviews"]
            ),
            rule(&["impersonate:associated-node"], &["nodes"]),
        ]),
    )
    .await;
    let (code, pod) = plane.get("/api/v1/namespaces/default/pods/p").await;
    assert_eq!(code, 200, "{pod}");
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]});
    let (code, answer) = super::auth::token(&plane, json!({ "boundObjectRef": bound })).await;
    assert_eq!(code, 201, "{answer}");
    let robot = super::auth::bearer(&plane, answer["status"]["token"].as_str().unwrap());
    let user = "impersonate-user";
    let own = acts_as(&robot, &[(user, "system:node:n")]).await;
    assert_eq!(own, json!(["system:nodes", "system:authenticated"]));
    let other = acts_as(&robot, &[(user, "system:node:m")]).await;
    assert!(
        other
            .as_str()
            .unwrap()
            .contains("impersonate-on:arbitrary-node:create"),
        "{other}"
    );
}

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

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const NODE: &str = "system:node:n";
const KNOWN: &str = "system:authenticated";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Asks who it is while it acts as `headers` say: the groups, or what the refusal says; and the audit event of that.
async fn acts_as(plane: &Plane, client: &Client, headers: Headers<'_>) -> (Value, Value) {
    let mut request = Request::post(WHO).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client
        .send(request.body(b"{}".to_vec().into()).unwrap())
        .await
        .unwrap();
    let (code, id) = (response.status(), response.headers()["audit-id"].clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let event = plane
        .audited(|line| line["auditID"] == id.to_str().unwrap())
        .await;
    if code == 201 {
        return (body["status"]["userInfo"]["groups"].clone(), event);
    }
    assert_eq!(code, 403, "{body}");
    (body["message"].clone(), event)
}

/// Gives `user` these rights, of all groups, and waits until they hold: until he may list what the role has him list.
pub async fn grant(plane: &Plane, user: &str, rules: Value) {
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

/// The right to ask who one is as somebody of a kind, by these words, and to be such.
fn rules(on: &str, be: &str, whom: &[&str]) -> Value {
    let rule = |verb: String, resources: &[&str]| json!({"apiGroups": ["authentication.k8s.io"], "resources": resources, "verbs": [verb]});
    json!([
        rule(format!("impersonate-on:{on}"), &["selfsubjectreviews"]),
        rule(format!("impersonate:{be}"), whom)
    ])
}

/// Who has which rights, as [`rules`] takes them.
const GRANTED: [(&str, &str, &str, &[&str]); 4] = [
    (
        "people",
        "user-info:create",
        "user-info",
        &["users", "groups", "userextras/acme.com/team"],
    ),
    (
        "accounts",
        "serviceaccount:create",
        "serviceaccount",
        &["serviceaccounts"],
    ),
    ("nodes", "arbitrary-node:create", "arbitrary-node", &["nodes"]),
    ("elsewhere", "user-info:list", "user-info", &["users"]),
];

/// Who may act how: the groups he has then, and the verb of the right by which he does.
const ALLOWED: [(&str, Headers<'_>, &[&str], &str); 5] = [
    ("people", &[(USER, "bob")], &[KNOWN], "impersonate:user-info"),
    (
        "people",
        &[(USER, "bob"), (GROUP, "g")],
        &["g", KNOWN],
        "impersonate:user-info",
    ),
    (
        "people",
        &[(USER, "bob"), ("impersonate-extra-acme.com%2fteam", "t")],
        &[KNOWN],
        "impersonate:user-info",
    ),
    (
        "accounts",
        &[(USER, ACCOUNT)],
        &["system:serviceaccounts", "system:serviceaccounts:default", KNOWN],
        "impersonate:serviceaccount",
    ),
    (
        "nodes",
        &[(USER, NODE)],
        &["system:nodes", KNOWN],
        "impersonate:arbitrary-node",
    ),
];

/// Who may not, and the end of what he is told.
const REFUSED: [(&str, Headers<'_>, &str); 10] = [
    (
        "people",
        &[(USER, "bob"), (GROUP, "system:masters")],
        "impersonating the system:masters group is not allowed",
    ),
    ("people", &[(USER, ACCOUNT)], NO_ACCOUNT),
    ("people", &[(USER, NODE)], NO_NODE),
    (
        "people",
        &[(USER, "bob"), ("impersonate-uid", "1")],
        "cannot impersonate:user-info resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope",
    ),
    (
        "people",
        &[(USER, "bob"), ("impersonate-extra-team", "t")],
        "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"team\": must be a \
            domain-prefixed path (such as \"acme.io/foo\")",
    ),
    (
        "people",
        &[(USER, "bob"), ("impersonate-extra-acme.com%2fa%20b", "t")],
        "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: \"a b\": Invalid path (regex \
            used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')",
    ),
    (
        "accounts",
        &[(USER, ACCOUNT), (GROUP, "g")],
        "cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"default\"",
    ),
    ("nodes", &[(USER, "bob")], NOBODY),
    ("elsewhere", &[(USER, "bob")], NOBODY),
    ("nobody", &[(USER, "bob")], NOBODY),
];
const NO_ACCOUNT: &str = "cannot impersonate-on:serviceaccount:create resource \"selfsubjectreviews\" in API group \
    \"authentication.k8s.io\" at the cluster scope";
const NO_NODE: &str = "cannot impersonate-on:arbitrary-node:create resource \"selfsubjectreviews\" in API group \
    \"authentication.k8s.io\" at the cluster scope";
const NOBODY: &str = "cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \
    \"authentication.k8s.io\" at the cluster scope";

#[tokio::test]
async fn who_may_do_something_as_some_may_do_no_more() {
    let plane = Plane::start().await;
    for (who, on, be, whom) in GRANTED {
        grant(&plane, who, rules(on, be, whom)).await;
    }
    grant(&plane, "nobody", json!([])).await;
    for (who, headers, groups, right) in ALLOWED {
        let (said, event) = acts_as(&plane, &plane.control.client_as(who, &[]), headers).await;
        assert_eq!(said, json!(groups), "{who}: {headers:?}");
        let told = &event["authenticationMetadata"];
        assert_eq!(told, &json!({"impersonationConstraint": right}), "{event}");
        assert_eq!(event["impersonatedUser"]["username"], headers[0].1, "{event}");
    }
    for (who, headers, why) in REFUSED {
        let (said, event) = acts_as(&plane, &plane.control.client_as(who, &[]), headers).await;
        let said = said.as_str().unwrap_or_default();
        assert!(said.ends_with(why), "{who}: {headers:?}: {said}");
        assert_eq!(event["user"]["username"], who, "{event}");
        let nobody = event
            .get("impersonatedUser")
            .or(event.get("authenticationMetadata"));
        assert_eq!(nobody, None, "{event}");
    }
}

#[tokio::test]
async fn who_may_be_others_may_do_whatever_they_may() {
    let plane = Plane::start().await;
    let whom = ["users", "groups", "serviceaccounts"];
    let rule = json!({"apiGroups": [""], "resources": whom, "verbs": ["impersonate"]});
    grant(&plane, "any", json!([rule])).await;
    let any = plane.control.client_as("any", &[]);
    let cases: [(Headers<'_>, &[&str]); 3] = [
        (&[(USER, "bob")], &[KNOWN]),
        (&[(USER, NODE)], &[KNOWN]),
        (&[(USER, ACCOUNT), (GROUP, "g")], &["g", KNOWN]),
    ];
    for (headers, groups) in cases {
        let (said, event) = acts_as(&plane, &any, headers).await;
        assert_eq!(said, json!(groups), "{headers:?}");
        assert_eq!(event["impersonatedUser"]["username"], headers[0].1, "{event}");
        assert_eq!(event.get("authenticationMetadata"), None, "{event}");
    }
}

#[tokio::test]
async fn a_refusal_is_that_of_the_right_by_which_it_worked_last() {
    let plane = Plane::start().await;
    let rule = json!({"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"], "verbs": ["impersonate"]});
    grant(&plane, "old", json!([rule])).await;
    let old = plane.control.client_as("old", &[]);
    let refused = |said: Value, why: &str| {
        let said = said.as_str().unwrap_or_default().to_owned();
        assert!(said.ends_with(why), "{said}");
    };
    refused(acts_as(&plane, &old, &[(USER, "al")]).await.0, NOBODY);
    let (said, _) = acts_as(&plane, &old, &[(USER, "bob")]).await;
    assert_eq!(said, json!([KNOWN]));
    let last = "cannot impersonate resource \"users\" in API group \"\" at the cluster scope";
    refused(acts_as(&plane, &old, &[(USER, "al")]).await.0, last);
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
    let own = rules("associated-node:create", "associated-node", &["nodes"]);
    grant(&plane, ACCOUNT, own).await;
    let (code, pod) = plane.get("/api/v1/namespaces/default/pods/p").await;
    assert_eq!(code, 200, "{pod}");
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]});
    let (code, answer) = super::auth::token(&plane, json!({ "boundObjectRef": bound })).await;
    assert_eq!(code, 201, "{answer}");
    let robot = super::auth::bearer(&plane, answer["status"]["token"].as_str().unwrap());
    let (own, event) = acts_as(&plane, &robot, &[(USER, NODE)]).await;
    assert_eq!(own, json!(["system:nodes", KNOWN]));
    let right = &event["authenticationMetadata"]["impersonationConstraint"];
    assert_eq!(right, "impersonate:associated-node", "{event}");
    let (other, _) = acts_as(&plane, &robot, &[(USER, "system:node:m")]).await;
    assert!(other.as_str().unwrap().ends_with(NO_NODE), "{other}");
}

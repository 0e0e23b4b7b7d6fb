//! Metrics and health checks.
use super::admission::{held, until};
use super::https::client;
use super::plane::{Plane, config_map};
use super::webhooks::{self, MAPS, hooked, register};
use amphipod_control::auth::pki::CertRequest;
use http::{Method, Request};
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What is told under a name with these labels, `name=value`, in whatever order; nothing where it is not told.
pub async fn figure(plane: &Plane, name: &str, labels: &[&str]) -> Option<f64> {
    let (_, text) = plane.get("/metrics").await;
    let text = text.as_str().unwrap_or_default().replace('"', "");
    let mut samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = samples.find(|(series, _)| {
        let (found, all) = series
            .trim_end_matches('}')
            .split_once('{')
            .unwrap_or((series, ""));
        found == name && labels.iter().all(|label| all.split(',').any(|l| l == *label))
    })?;
    value.parse().ok()
}

/// As above, of what there is by now or soon.
pub async fn soon(plane: &Plane, name: &str, labels: &[&str], wanted: impl Fn(f64) -> bool) {
    let told = async {
        while !figure(plane, name, labels).await.is_some_and(&wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    told.unwrap_or_else(|_| panic!("{name} {labels:?} became as wanted"));
}

#[tokio::test]
async fn requests_are_counted_by_class() {
    let plane = Plane::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = || json!({"metadata": {"name": "s"}});
    plane.call(Method::POST, secrets, secret()).await;
    plane.call(Method::POST, secrets, secret()).await;
    let (_, text) = plane.get("/metrics").await;
    let text = text.as_str().unwrap_or_default();
    let labels = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"resource\",\
                  subresource=\"\",verb=\"POST\",version=\"v1\"";
    for code in [201, 409] {
        let line = format!("\napiserver_request_total{{{labels},code=\"{code}\",system_client=\"\"}} 1\n");
        assert!(text.contains(&line), "{line} in {text}");
    }
    for name in [
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} ",
        "apiserver_request_sli_duration_seconds_bucket{",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} ",
        "apiserver_storage_objects{resource=\"deployments.apps\"} ",
        "kubernetes_build_info{build_date=\"1970-01-01T00:00:00Z\",compiler=\"rustc\",",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
    }
}

#[tokio::test]
async fn checks_can_be_asked_for_one_by_one() {
    let plane = Plane::start().await;
    for (path, code, answer) in [
        ("/livez", 200, "ok"),
        ("/readyz/store", 200, "ok"),
        ("/readyz/etcd", 200, "ok"),
        ("/readyz/nope", 404, "404 page not found\n"),
        (
            "/livez?verbose&exclude=nope",
            200,
            "[+]ping ok\n[+]store ok\nwarn: some health checks cannot be excluded: no matches for \"nope\"\nlivez check \
             passed\n",
        ),
        (
            "/readyz?verbose",
            200,
            "[+]ping ok\n[+]store ok\n[+]watch-cache ok\nreadyz check passed\n",
        ),
        (
            "/livez?verbose&exclude=store",
            200,
            "[+]ping ok\n[+]store excluded: ok\nlivez check passed\n",
        ),
    ] {
        let (found, text) = plane.get(path).await;
        assert_eq!((found.as_u16(), text), (code, Value::from(answer)), "{path}");
    }
}

const STEP: &str = "apiserver_admission_step_admission_duration_seconds_count";
const CONTROLLER: &str = "apiserver_admission_controller_admission_duration_seconds_count";

#[tokio::test]
async fn admission_tells_how_often_its_parts_were_run_and_said_no() {
    let plane = Plane::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(&plane, account, |a| a["metadata"]["uid"].is_string()).await;
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(plane.call(Method::POST, pods, held("p")).await.0, 201);
    for (name, step, rejected, there) in [
        ("ServiceAccount", "admit", "false", true),
        ("Priority", "admit", "false", true),
        ("PodSecurity", "validate", "false", true),
        ("ResourceQuota", "validate", "false", true),
        ("Priority", "admit", "true", false),
        ("TaintNodesByCondition", "admit", "false", false),
    ] {
        let labels = [
            &*format!("name={name}"),
            "operation=CREATE",
            &*format!("rejected={rejected}"),
            &*format!("type={step}"),
        ];
        let told = figure(&plane, CONTROLLER, &labels).await;
        assert_eq!(told.is_some(), there, "{labels:?}: {told:?}");
    }
    let refused = ["operation=CREATE", "rejected=true", "type=admit"];
    assert_eq!(figure(&plane, STEP, &refused).await, None);
    let mut lost = held("q");
    lost["spec"]["priorityClassName"] = "nowhere".into();
    assert_eq!(plane.call(Method::POST, pods, lost).await.0, 403);
    // A refusal is looked at again where the cache may have been behind.
    assert!(
        figure(&plane, STEP, &refused)
            .await
            .is_some_and(|count| count >= 1.0)
    );
    let priority = ["name=Priority", "operation=CREATE", "rejected=true", "type=admit"];
    assert!(
        figure(&plane, CONTROLLER, &priority)
            .await
            .is_some_and(|count| count >= 1.0)
    );
    let deletes = ["operation=DELETE", "rejected=false", "type=validate"];
    let before = figure(&plane, STEP, &deletes).await.unwrap_or_default();
    assert_eq!(
        plane
            .call(Method::DELETE, &format!("{pods}/p"), Value::Null)
            .await
            .0,
        200
    );
    assert!(figure(&plane, STEP, &deletes).await.unwrap_or_default() > before);
}

#[tokio::test]
async fn webhooks_are_timed_and_their_refusals_counted() {
    let plane = Plane::start().await;
    let judges = webhooks::serve(&plane, |request| {
        let good = request["object"]["metadata"]["name"] == "good";
        Some(json!({"allowed": good, "status": {"code": 418}}))
    })
    .await;
    let kind = "ValidatingWebhookConfiguration";
    register(&plane, kind, "judges", &judges, json!({})).await;
    let open = json!({"failurePolicy": "Ignore"});
    register(&plane, kind, "away", "https://127.0.0.1:1/", open).await;
    let closed = json!({"failurePolicy": "Fail", "objectSelector": {"matchLabels": {"hooked": "never"}}});
    register(&plane, kind, "gone", "https://127.0.0.1:1/", closed).await;
    assert_eq!(plane.call(Method::POST, MAPS, hooked("good")).await.0, 201);
    assert_eq!(plane.call(Method::POST, MAPS, hooked("bad")).await.0, 418);
    let mut never = config_map("never", "1");
    never["metadata"]["labels"] = json!({"hooked": "never"});
    assert_eq!(plane.call(Method::POST, MAPS, never).await.0, 500);
    let of = |part: &str| format!("apiserver_admission_webhook_{part}");
    let (judges, away, gone) = (
        "name=judges.example.com",
        "name=away.example.com",
        "name=gone.example.com",
    );
    let create = ["operation=CREATE", "type=validating"];
    for (name, who, more, want) in [
        (
            of("admission_duration_seconds_count"),
            judges,
            vec!["rejected=false"],
            1.0,
        ),
        (
            of("admission_duration_seconds_count"),
            judges,
            vec!["rejected=true"],
            1.0,
        ),
        (
            of("admission_duration_seconds_count"),
            away,
            vec!["rejected=false"],
            2.0,
        ),
        (
            of("request_total"),
            judges,
            vec!["code=200", "rejected=false"],
            1.0,
        ),
        (
            of("request_total"),
            judges,
            vec!["code=418", "rejected=true"],
            1.0,
        ),
        (of("request_total"), away, vec!["code=503", "rejected=false"], 2.0),
        (
            of("rejection_count"),
            judges,
            vec!["error_type=no_error", "rejection_code=418"],
            1.0,
        ),
        (
            of("rejection_count"),
            gone,
            vec!["error_type=calling_webhook_error", "rejection_code=503"],
            1.0,
        ),
    ] {
        let labels = [&[who], &more[..], &create[..]].concat();
        assert_eq!(
            figure(&plane, &name, &labels).await,
            Some(want),
            "{name} {labels:?}"
        );
    }
    let open = figure(&plane, &of("fail_open_count"), &[away, "type=validating"]).await;
    assert_eq!(open, Some(2.0));
    assert_eq!(figure(&plane, &of("rejection_count"), &[away]).await, None);
}

#[tokio::test]
async fn who_asks_for_what_is_deprecated_is_told_of() {
    let plane = Plane::start().await;
    let name = "apiserver_requested_deprecated_apis";
    let labels = [
        "group=",
        "removed_release=",
        "resource=componentstatuses",
        "version=v1",
    ];
    assert_eq!(figure(&plane, name, &labels[1..]).await, None);
    assert_eq!(plane.get("/api/v1/componentstatuses").await.0, 200);
    assert_eq!(figure(&plane, name, &labels[1..]).await, Some(1.0));
    assert_eq!(figure(&plane, name, &["resource=configmaps"]).await, None);
}

#[tokio::test]
async fn answers_are_as_large_as_what_was_sent() {
    let plane = Plane::start().await;
    let maps = "/api/v1/namespaces/kube-system/limitranges";
    for (name, path, verb, scope) in [
        ("one", format!("{maps}/none"), "GET", "resource"),
        ("all", maps.to_owned(), "LIST", "namespace"),
    ] {
        let labels = [
            "resource=limitranges",
            &*format!("verb={verb}"),
            &*format!("scope={scope}"),
        ];
        let sum = "apiserver_response_sizes_sum";
        let before = figure(&plane, sum, &labels).await.unwrap_or_default();
        let request = Request::get(&path).body(Vec::new().into()).expect("a request");
        let response = plane.client().send(request).await.expect("an answer");
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .expect("a body");
        let size = body.to_bytes().len() as f64;
        assert!(size > 0.0, "{name}");
        soon(&plane, sum, &labels, |now| now >= before + size).await;
    }
}

#[tokio::test]
async fn the_store_tells_what_it_holds_and_takes() {
    let plane = Plane::start().await;
    let objects = |name: &'static str| (name, ["resource=limitranges"]);
    for name in ["apiserver_resource_objects", "apiserver_storage_objects"] {
        let (name, labels) = objects(name);
        assert_eq!(figure(&plane, name, &labels).await, Some(0.0));
    }
    let body = json!({"metadata": {"name": "l"}, "spec": {"limits": []}});
    let path = "/api/v1/namespaces/default/limitranges";
    assert_eq!(plane.call(Method::POST, path, body).await.0, 201);
    for name in [
        "apiserver_resource_objects",
        "apiserver_storage_objects",
        "apiserver_storage_events_received_total",
    ] {
        let (name, labels) = objects(name);
        soon(&plane, name, &labels, |count| count == 1.0).await;
    }
    let size = figure(
        &plane,
        "apiserver_storage_size_bytes",
        &["storage_cluster_id=etcd-0"],
    )
    .await;
    assert!(size.is_some_and(|size| size >= 4096.0), "{size:?}");
}

#[tokio::test]
async fn a_watch_that_begins_with_a_list_is_timed_until_its_end() {
    let plane = Plane::start().await;
    let labels = ["resource=limitranges", "scope=namespace", "version=v1"];
    let name = "apiserver_watch_list_duration_seconds_count";
    let watch =
        |more: &str| format!("/api/v1/namespaces/kube-public/limitranges?watch=true&timeoutSeconds=1{more}");
    plane.get(&watch("")).await;
    assert_eq!(figure(&plane, name, &labels).await, None);
    let list = "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    plane.get(&watch(list)).await;
    assert_eq!(figure(&plane, name, &labels).await, Some(1.0));
}

#[tokio::test]
async fn who_comes_in_and_what_is_allowed_is_counted() {
    let plane = Plane::start().await;
    let errors = "apiserver_tls_handshake_errors_total";
    let before = figure(&plane, errors, &[]).await.expect("told");
    let mut stranger = tokio::net::TcpStream::connect(plane.control.local_addr())
        .await
        .expect("a connection");
    stranger
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("written");
    // Until it is turned away.
    let _ = stranger.read_to_end(&mut Vec::new()).await;
    soon(&plane, errors, &[], |now| now > before).await;

    let left = "apiserver_client_certificate_expiration_seconds_count";
    assert_eq!(figure(&plane, left, &[]).await, None);
    let (tried, decided) = ("authentication_attempts", "authorization_attempts_total");
    assert_eq!(figure(&plane, decided, &["result=no-opinion"]).await, None);
    let bob = client(&plane, &CertRequest::client("bob@example.com", "people")).await;
    let namespaces: kube::Api<Namespace> = kube::Api::all(bob);
    assert!(namespaces.list(&Default::default()).await.is_err());
    assert_eq!(figure(&plane, decided, &["result=no-opinion"]).await, Some(1.0));
    assert_eq!(figure(&plane, left, &[]).await, Some(1.0));
    assert_eq!(
        figure(&plane, "authenticated_user_requests", &["username=email_id"]).await,
        Some(1.0)
    );
    assert!(
        figure(&plane, tried, &["result=success"])
            .await
            .is_some_and(|count| count > 1.0)
    );
}

#[tokio::test]
async fn a_request_that_a_webhook_holds_up_is_not_slow_by_itself_and_ended_in_time() {
    let plane = Plane::start().await;
    let hangs = webhooks::serve(&plane, |_| None).await;
    let kind = "ValidatingWebhookConfiguration";
    let open = json!({"failurePolicy": "Ignore", "timeoutSeconds": 1});
    register(&plane, kind, "hangs", &hangs, open).await;
    let sum = |name: &str| format!("apiserver_request_{name}_seconds_sum");
    let (all, own) = (sum("duration"), sum("sli_duration"));
    let labels = ["resource=configmaps", "scope=resource", "verb=POST"];
    assert_eq!(plane.call(Method::POST, MAPS, hooked("a")).await.0, 201);
    let told = |name: String| {
        let plane = &plane;
        async move { figure(plane, &name, &labels).await.unwrap_or_default() }
    };
    assert!(told(all).await - told(own).await >= 1.0);

    let ended = "apiserver_request_terminations_total";
    assert_eq!(figure(&plane, ended, &labels).await, None);
    let (code, _) = plane
        .call(Method::POST, &format!("{MAPS}?timeout=500ms"), hooked("b"))
        .await;
    assert_eq!(code, 504);
    let labels = [&labels[..], &["code=504"]].concat();
    assert_eq!(figure(&plane, ended, &labels).await, Some(1.0));
}

#[tokio::test]
async fn servers_of_others_that_are_away_are_told_of() {
    let plane = Plane::start().await;
    let missing = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.ext.example.com"},
        "spec": {"group": "ext.example.com", "version": "v1", "groupPriorityMinimum": 2000, "versionPriority": 10,
            "service": {"namespace": "default", "name": "nowhere"}}});
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    assert_eq!(plane.call(Method::POST, services, missing).await.0, 201);
    let name = "aggregator_unavailable_apiservice";
    soon(&plane, name, &["name=v1.ext.example.com"], |away| away == 1.0).await;
    soon(&plane, name, &["name=v1.apps"], |away| away == 0.0).await;
}

#[tokio::test]
async fn checks_of_health_are_counted() {
    let plane = Plane::start().await;
    for path in [
        "/livez",
        "/readyz?verbose",
        "/readyz?exclude=store",
        "/livez/ping",
    ] {
        assert_eq!(plane.get(path).await.0, 200, "{path}");
    }
    let (code, text) = plane.get("/metrics/slis").await;
    let text = text.as_str().unwrap_or_default();
    for line in [
        "kubernetes_healthcheck{name=\"store\",type=\"livez\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 2",
        "kubernetes_healthchecks_total{name=\"store\",status=\"success\",type=\"readyz\"} 1",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{code} {line} in {text}");
    }
    assert!(text.contains("\nprocess_start_time_seconds "), "{text}");
    let (code, text) = plane.call(Method::DELETE, "/metrics/slis", Value::Null).await;
    assert_eq!((code.as_u16(), text), (200, json!("metrics reset\n")));
    let (_, text) = plane.get("/metrics/slis").await;
    assert!(
        !text.as_str().unwrap_or_default().contains("healthcheck"),
        "{text}"
    );
}

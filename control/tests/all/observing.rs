//! Metrics and health checks.
use super::plane::Plane;
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn requests_are_counted_by_class() {
    let plane = Plane::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = || json!({"metadata": {"name": "s"}});
    plane.call(Method::POST, secrets, secret()).await;
    plane.call(Method::POST, secrets, secret()).await;
    let (_, text) = plane.get("/metrics").await;
    let text = text.as_str().unwrap_or_default();
    let labels = "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"secrets\",scope=\"namespace\",\
                  subresource=\"\",verb=\"POST\",version=\"v1\"";
    for code in [201, 409] {
        let line = format!("\napiserver_request_total{{{labels},code=\"{code}\"}} 1\n");
        assert!(text.contains(&line), "{line} in {text}");
    }
    for name in [
        "apiserver_request_duration_seconds_bucket{",
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} ",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} ",
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

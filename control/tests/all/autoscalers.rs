//! HorizontalPodAutoscalers: what needs no metrics, and what is said where there are none.
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::Api;
use serde_json::{Value, json};

use crate::cluster::{Cluster, create, merge, until_one};

fn deployment(replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}}}})
}

fn autoscaler(name: &str, details: Value) -> Value {
    let mut autoscaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
        "spec": {"minReplicas": 2, "maxReplicas": 4,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}}});
    json_patch::merge(&mut autoscaler, &json!({"spec": details}));
    autoscaler
}

/// Status, reason and message of a condition.
fn condition(autoscaler: &HorizontalPodAutoscaler, type_: &str) -> Option<[String; 3]> {
    let conditions = autoscaler.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == type_)?.clone();
    Some([condition.status, condition.reason?, condition.message?])
}

async fn until_said(api: &Api<HorizontalPodAutoscaler>, name: &str, type_: &str, said: [&str; 3]) {
    let holds = |autoscaler: &HorizontalPodAutoscaler| {
        condition(autoscaler, type_).is_some_and(|found| found == said)
    };
    until_one(api, name, &format!("{type_} {said:?}"), holds).await;
}

async fn until_replicas(deployments: &Api<Deployment>, count: i32) {
    let ready = move |deployment: &Deployment| {
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        let status = deployment.status.as_ref();
        wanted == Some(count) && status.and_then(|status| status.ready_replicas) == Some(count)
    };
    until_one(deployments, "web", &format!("{count} replicas"), ready).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_outside_of_the_limits_need_no_metrics() {
    let cluster = Cluster::with_node().await;
    let (deployments, autoscalers): (Api<Deployment>, Api<_>) = (cluster.api(), cluster.api());
    create(&autoscalers, autoscaler("web", json!({}))).await;
    let missing =
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found";
    until_said(
        &autoscalers,
        "web",
        "AbleToScale",
        ["False", "FailedGetScale", missing],
    )
    .await;
    cluster.says("web", "deployments.apps \"web\" not found").await;

    create(&deployments, deployment(1)).await;
    merge::<HorizontalPodAutoscaler>(&autoscalers, "web", json!({"spec": {"minReplicas": 3}})).await;
    until_replicas(&deployments, 3).await;
    let reason = "New size: 3; reason: Current number of replicas below Spec.MinReplicas";
    cluster.says("web", reason).await;
    let done = "the HPA controller was able to update the target scale to 3";
    until_said(
        &autoscalers,
        "web",
        "AbleToScale",
        ["True", "SucceededRescale", done],
    )
    .await;

    merge::<HorizontalPodAutoscaler>(
        &autoscalers,
        "web",
        json!({"spec": {"minReplicas": 1, "maxReplicas": 2}}),
    )
    .await;
    until_replicas(&deployments, 2).await;
    let reason = "New size: 2; reason: Current number of replicas above Spec.MaxReplicas";
    cluster.says("web", reason).await;
    let scaled = |autoscaler: &HorizontalPodAutoscaler| {
        let status = autoscaler.status.as_ref();
        status.is_some_and(|s| {
            s.current_replicas == Some(3) && s.desired_replicas == 2 && s.last_scale_time.is_some()
        })
    };
    until_one(&autoscalers, "web", "what was done", scaled).await;

    merge::<Deployment>(&deployments, "web", json!({"spec": {"replicas": 0}})).await;
    merge::<HorizontalPodAutoscaler>(&autoscalers, "web", json!({"spec": {"maxReplicas": 5}})).await;
    let off = "scaling is disabled since the replica count of the target is zero";
    until_said(
        &autoscalers,
        "web",
        "ScalingActive",
        ["False", "ScalingDisabled", off],
    )
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_computed_is_said_as_upstream_says_it() {
    let cluster = Cluster::with_node().await;
    let (deployments, autoscalers): (Api<Deployment>, Api<_>) = (cluster.api(), cluster.api());
    create(&deployments, deployment(2)).await;
    until_replicas(&deployments, 2).await;
    create(&autoscalers, autoscaler("web", json!({}))).await;
    let none = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    let told =
        format!("the HPA was unable to compute the replica count: failed to get cpu utilization: {none}");
    until_said(
        &autoscalers,
        "web",
        "ScalingActive",
        ["False", "FailedGetResourceMetric", &told],
    )
    .await;
    let whole =
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value";
    let whole = format!("{whole}: failed to get cpu utilization: {none}");
    cluster.says("web", &whole).await;

    let (metric, share) = (
        json!({"name": "m"}),
        json!({"type": "AverageValue", "averageValue": "1"}),
    );
    let object = json!({"kind": "Service", "name": "s", "apiVersion": "v1"});
    let custom = "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    let external =
        "unable to fetch metrics from external metrics API: the server could not find the requested resource";
    for (metrics, reason, why) in [
        (
            json!([{"type": "Pods", "pods": {"metric": metric, "target": share}}]),
            "FailedGetPodsMetric",
            format!("unable to get metric m: {custom}"),
        ),
        (
            json!([{"type": "Object", "object": {"metric": metric, "target": share, "describedObject": object}}]),
            "FailedGetObjectMetric",
            format!("unable to get metric m: Service on default s/{custom}"),
        ),
        (
            json!([{"type": "External", "external": {"metric": metric, "target": share}}]),
            "FailedGetExternalMetric",
            format!(
                "unable to get external metric default/m/nil: {external} (get m.external.metrics.k8s.io)"
            ),
        ),
    ] {
        merge::<HorizontalPodAutoscaler>(&autoscalers, "web", json!({"spec": {"metrics": metrics}})).await;
        let told = format!("the HPA was unable to compute the replica count: {why}");
        until_said(&autoscalers, "web", "ScalingActive", ["False", reason, &told]).await;
    }

    create(&autoscalers, autoscaler("rival", json!({}))).await;
    let many = "pods by selector app=web are controlled by multiple HPAs: [{rival default} {web default}]";
    until_said(
        &autoscalers,
        "rival",
        "ScalingActive",
        ["False", "AmbiguousSelector", many],
    )
    .await;

    let nothing = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Nothing", "name": "x"}});
    create(&autoscalers, autoscaler("lost", nothing)).await;
    let unknown = "the HPA controller was unable to get the target's current scale: no matches for kind \"Nothing\" in group \"apps\"";
    until_said(
        &autoscalers,
        "lost",
        "AbleToScale",
        ["False", "FailedGetScale", unknown],
    )
    .await;
    cluster.stop().await;
}

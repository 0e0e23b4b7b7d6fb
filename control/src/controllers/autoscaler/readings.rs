//! What the metrics APIs say: `metrics.k8s.io`, which every cluster here has, and `custom.metrics.k8s.io` and
//! `external.metrics.k8s.io`, which others bring. Errors are in upstream's words.
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier, MetricSpec};
use kube::Client;
use serde_json::Value;

use super::ask::{Failure, get, query};
use super::pods::{Sample, Samples, milli};
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;
use crate::kinds::{labels, time};
use crate::toolkit::catalog::Catalog;
use crate::toolkit::patch;
use crate::uri::escape;

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// The versions of custom metrics that are understood here.
const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
/// Over how long custom metrics are measured that do not say it.
const CUSTOM_WINDOW: i64 = 60;

/// What was read for one metric, in thousandths.
#[derive(Debug)]
pub enum Reading {
    /// Of each Pod.
    Pods(Samples),
    /// One or more values that belong to all Pods together.
    Values(Vec<i64>),
}

/// Whom to ask, and about which Pods.
pub struct Meter<'a> {
    pub client: &'a Client,
    pub catalog: &'a Catalog,
    pub namespace: &'a str,
    pub selector: &'a str,
}

impl Meter<'_> {
    /// What there is to know for this metric; nothing for one without a source, which the API refuses.
    pub async fn read(&self, metric: &MetricSpec) -> Result<Reading, String> {
        if let Some(resource) = &metric.resource {
            self.resource(&resource.name, None).await.map(Reading::Pods)
        } else if let Some(resource) = &metric.container_resource {
            let container = Some(resource.container.as_str());
            self.resource(&resource.name, container).await.map(Reading::Pods)
        } else if let Some(pods) = &metric.pods {
            self.of_pods(&pods.metric).await.map(Reading::Pods)
        } else if let Some(object) = &metric.object {
            let value = self.of_object(&object.metric, &object.described_object).await?;
            Ok(Reading::Values(vec![value]))
        } else if let Some(external) = &metric.external {
            self.external(&external.metric).await.map(Reading::Values)
        } else {
            Ok(Reading::Values(Vec::new()))
        }
    }

    async fn resource(&self, resource: &str, container: Option<&str>) -> Result<Samples, String> {
        let selector = query(&[("labelSelector", self.selector)]);
        let path = format!(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods{selector}",
            self.namespace
        );
        let list = get(self.client, &path).await.map_err(|failure| {
            let why = generic(failure, "pods.metrics.k8s.io");
            format!("unable to fetch metrics from resource metrics API: {why}")
        })?;
        match list.list("items") {
            [] => Err("no metrics returned from resource metrics API".into()),
            items => Ok(samples_of(items, resource, container)),
        }
    }

    async fn of_pods(&self, metric: &MetricIdentifier) -> Result<Samples, String> {
        let metric_selector = selector_text(metric);
        let query = query(&[
            ("labelSelector", self.selector),
            ("metricLabelSelector", &metric_selector),
        ]);
        let name = escape(&metric.name);
        let path = format!("namespaces/{}/pods/*/{name}{query}", self.namespace);
        let list = self.custom(&path, "pods").await?;
        let items = list.list("items");
        if items.is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        let sample = |item: &Value| {
            let sample = Sample {
                value: amount(item.at("value"))?,
                at: time::parse(item.text("timestamp")),
                window: SignedDuration::from_secs(item.int("windowSeconds").unwrap_or(CUSTOM_WINDOW)),
            };
            Some((item.text("describedObject.name").to_owned(), sample))
        };
        Ok(items.iter().filter_map(sample).collect())
    }

    async fn of_object(
        &self,
        metric: &MetricIdentifier,
        object: &CrossVersionObjectReference,
    ) -> Result<i64, String> {
        let metric_selector = selector_text(metric);
        let query = query(&[("metricLabelSelector", &metric_selector)]);
        let (namespace, name) = (self.namespace, escape(&metric.name));
        let version = object.api_version.as_deref().unwrap_or_default();
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let list = if object.kind == "Namespace" && group.is_empty() {
            let path = format!("namespaces/{namespace}/metrics/{name}{query}");
            self.custom(&path, "metrics").await?
        } else {
            let served = self.catalog.find(version, &object.kind).await;
            let served = served.map_err(|error| error.message()).map_err(fetched)?;
            let resource = served.map(|served| served.qualified_name()).ok_or_else(|| {
                let kind = match group {
                    "" => object.kind.clone(),
                    group => format!("{}.{group}", object.kind),
                };
                let why = format!("no matches for kind {:?} in group {group:?}", object.kind);
                fetched(format!("unable to map kind {kind} to resource: {why}"))
            })?;
            let path = format!("namespaces/{namespace}/{resource}/{}/{name}{query}", object.name);
            self.custom(&path, &resource).await?
        };
        match list.list("items") {
            [one] => amount(one.at("value")).ok_or_else(|| fetched("the value is not a quantity".into())),
            items => {
                let asked = "results when we asked for exactly one";
                let count = items.len();
                Err(fetched(format!(
                    "the custom metrics API server returned {count} {asked}"
                )))
            }
        }
    }

    /// Asks for a path of the custom metrics API, in the version its server prefers.
    async fn custom(&self, path: &str, resource: &str) -> Result<Value, String> {
        let group = get(self.client, &format!("/apis/{CUSTOM}")).await;
        let group = group.map_err(|failure| match failure.code {
            404 => fetched(format!("no custom metrics API ({CUSTOM}) registered")),
            _ => fetched(failure.message),
        })?;
        let known = |version: &&str| CUSTOM_VERSIONS.contains(version);
        let preferred = Some(group.text("preferredVersion.version")).filter(known);
        let mut others = group.list("versions").iter().map(|v| v.text("version"));
        let version = preferred.or_else(|| others.find(known));
        let version = version.ok_or_else(|| fetched("no known available metric versions found".into()))?;
        let answer = get(self.client, &format!("/apis/{CUSTOM}/{version}/{path}")).await;
        answer.map_err(|failure| fetched(generic(failure, &format!("{resource}.{CUSTOM}"))))
    }

    async fn external(&self, metric: &MetricIdentifier) -> Result<Vec<i64>, String> {
        let metric_selector = selector_text(metric);
        let query = query(&[("labelSelector", &metric_selector)]);
        let (namespace, name) = (self.namespace, escape(&metric.name));
        let path = format!("/apis/{EXTERNAL}/v1beta1/namespaces/{namespace}/{name}{query}");
        let list = get(self.client, &path).await.map_err(|failure| {
            let why = generic(failure, &format!("{}.{EXTERNAL}", metric.name));
            format!("unable to fetch metrics from external metrics API: {why}")
        })?;
        match list.list("items") {
            [] => Err("no metrics returned from external metrics API".into()),
            items => Ok(items.iter().filter_map(|item| amount(item.at("value"))).collect()),
        }
    }
}

fn fetched(why: String) -> String {
    format!("unable to fetch metrics from custom metrics API: {why}")
}

/// Where a server says nothing of its own, what client-go says for it.
fn generic(failure: Failure, resource: &str) -> String {
    match failure.code {
        404 if !failure.message.contains(" not found") || failure.message.starts_with("404 ") => {
            format!("the server could not find the requested resource (get {resource})")
        }
        503 => format!("the server is currently unable to handle the request (get {resource})"),
        _ => failure.message,
    }
}

fn selector_text(metric: &MetricIdentifier) -> String {
    let selector = metric.selector.as_ref();
    selector.map_or_else(String::new, |s| labels::selector_string(&patch::to_value(s)))
}

/// What each Pod uses of the resource, as a whole or in one container. Who does not say it was not measured.
fn samples_of(items: &[Value], resource: &str, container: Option<&str>) -> Samples {
    let sample = |item: &Value| {
        let all = item.list("containers").iter();
        let meant = all.filter(|c| container.is_none_or(|name| name == c.text("name")));
        let used: Option<Vec<i64>> = meant
            .map(|c| amount(c.at("usage").get(resource).unwrap_or(&Value::Null)))
            .collect();
        let used = used.filter(|used| !used.is_empty())?;
        let sample = Sample {
            value: used.into_iter().fold(0, i64::saturating_add),
            at: time::parse(item.text("timestamp")),
            window: go_values::duration::parse(item.text("window")).unwrap_or_default(),
        };
        Some((item.text("metadata.name").to_owned(), sample))
    };
    items.iter().filter_map(sample).collect()
}

fn amount(text: &Value) -> Option<i64> {
    let amount = Quantity::parse(text.as_str()?).ok()?;
    Some(milli(&amount))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_and_containers_are_summed_up() {
        let items = [
            json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s", "containers": [
                {"name": "a", "usage": {"cpu": "100m", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "1500001n"}}]}),
            json!({"metadata": {"name": "q"}, "containers": []}),
        ];
        let cpu = samples_of(&items, "cpu", None);
        assert_eq!(cpu.keys().collect::<Vec<_>>(), ["p"]);
        assert_eq!(cpu["p"].value, 102, "each container's amount is rounded up");
        assert_eq!(cpu["p"].window, SignedDuration::from_millis(15_500));
        assert_eq!(samples_of(&items, "cpu", Some("a"))["p"].value, 100);
        assert_eq!(samples_of(&items, "memory", Some("a"))["p"].value, 1_024_000);
        assert!(
            samples_of(&items, "memory", None).is_empty(),
            "one container does not say"
        );
        assert!(samples_of(&items, "cpu", Some("c")).is_empty());
    }
}

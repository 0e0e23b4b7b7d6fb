//! Whether another server can be reached: its Service, its endpoints, and a request for its discovery.
use std::time::Duration;

use axum::body::Body;
use futures::future::select_ok;
use http::{Request, header};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use std::sync::Arc;

use super::super::context::{Context, Watches};
use super::Verdict;
use crate::admission::{self, ResourceName};
use crate::auth::Identity;
use crate::auth::identity::MASTERS;
use crate::callout::{self, Place, Trust, requestheader};
use crate::kinds::view::View;
use crate::toolkit::ObjectKey;
use crate::toolkit::patch::to_value;

/// How long another server may take to say what it serves (upstream's).
const WITHIN: Duration = Duration::from_secs(5);
/// Requests at once, of which one must succeed: behind the Service there may be several servers.
const ATTEMPTS: usize = 5;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

pub(super) async fn check(context: &Context, service: &Value) -> Verdict {
    let spec = service.at("spec");
    let reference = spec.at("service");
    let (namespace, name) = (reference.text("namespace"), reference.text("name"));
    let key = ObjectKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let Some(found) = context.watches.services.get(&key) else {
        let why = format!("service/{name} in {namespace:?} is not present");
        return Verdict::away("ServiceNotFound", why);
    };
    let slices = of_service(&context.watches, namespace, name);
    if let Some(verdict) = endpoints(reference, &found, &slices) {
        return verdict;
    }
    let asked = (0..ATTEMPTS).map(|_| Box::pin(ask(context, spec)));
    match select_ok(asked).await {
        Ok(_) => Verdict::there("Passed", "all checks passed"),
        Err(why) => Verdict::away("FailedDiscoveryCheck", why),
    }
}

fn of_service(watches: &Watches, namespace: &str, name: &str) -> Vec<std::sync::Arc<EndpointSlice>> {
    let all = watches.slices.in_namespace(namespace).into_iter();
    all.filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels
            .and_then(|l| l.get(SERVICE_LABEL))
            .is_some_and(|of| of == name)
    })
    .collect()
}

/// What is wrong with the endpoints of a Service with an address of its own. Pure.
fn endpoints(
    reference: &Value,
    service: &Service,
    slices: &[std::sync::Arc<EndpointSlice>],
) -> Option<Verdict> {
    let spec = service.spec.as_ref()?;
    if !matches!(spec.type_.as_deref(), None | Some("ClusterIP")) {
        return None;
    }
    let (namespace, name) = (reference.text("namespace"), reference.text("name"));
    let wanted = reference.int("port").unwrap_or(443);
    let mut ports = spec.ports.iter().flatten();
    let Some(port) = ports.find(|p| i64::from(p.port) == wanted) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {wanted}");
        return Some(Verdict::away("ServicePortError", why));
    };
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::away("EndpointsNotFound", why));
    }
    let port = port.name.as_deref().unwrap_or_default();
    let active = |slice: &EndpointSlice| {
        let ready = slice.endpoints.iter().flatten().any(|e| {
            let conditions = e.conditions.as_ref();
            conditions.and_then(|c| c.ready) != Some(false)
        });
        let mut ports = slice.ports.iter().flatten();
        ready && ports.any(|p| p.name.as_deref().unwrap_or_default() == port && p.port.is_some())
    };
    if !slices.iter().any(|slice| active(slice)) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}"
        );
        return Some(Verdict::away("MissingEndpoints", why));
    }
    None
}

async fn ask(context: &Context, spec: &Value) -> Result<(), String> {
    let place = Place::by_service(&Watched(&context.watches), spec.at("service"))?;
    let path = format!("/apis/{}/{}", spec.text("group"), spec.text("version"));
    let url = format!("https://{}{path}", place.address);
    let mut request = Request::get(&path)
        .header(header::HOST, &place.authority)
        .body(Body::empty())
        .map_err(|e| e.to_string())?;
    let aggregator = Identity::new("system:kube-aggregator", [MASTERS.to_owned()]);
    requestheader::introduce(request.headers_mut(), &aggregator);
    let trust = match spec.flag("insecureSkipTLSVerify") {
        true => Trust::Anyone,
        false => Trust::Bundle(spec.at("caBundle").as_str()),
    };
    let own = context.options.front_proxy.as_ref().map(|proxy| &proxy.client);
    let sent = callout::send(&place, trust, own, request);
    let failed = |why: String| format!("failing or missing response from {url}: {why}");
    match tokio::time::timeout(WITHIN, sent).await {
        Err(_) => Err(failed(format!("Get {url:?}: context deadline exceeded"))),
        Ok(Err(why)) => Err(failed(format!("Get {url:?}: {why}"))),
        Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
        Ok(Ok(answer)) => {
            let code = answer.status().as_u16();
            Err(failed(format!("bad status from {url}: {code}")))
        }
    }
}

/// The controllers' caches, as what looks for endpoints reads them.
struct Watched<'a>(&'a Watches);

impl admission::Objects for Watched<'_> {
    fn get(
        &self,
        (_, _, plural): ResourceName<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Arc<Value>> {
        let key = ObjectKey {
            namespace: namespace.unwrap_or_default().to_owned(),
            name: name.to_owned(),
        };
        let found = || self.0.services.get(&key);
        let found = (plural == "services").then(found)?;
        found.map(|service| Arc::new(to_value(service.as_ref())))
    }

    fn list(&self, (_, _, plural): ResourceName<'_>, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let slices = match plural {
            "endpointslices" => self.0.slices.in_namespace(namespace.unwrap_or_default()),
            _ => Vec::new(),
        };
        let shown = slices.iter().map(|slice| to_value(slice.as_ref()));
        shown.map(Arc::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn reason(port: i64, slices: &[Value]) -> Option<&'static str> {
        let service = json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": 443}]}});
        let service: Service = serde_json::from_value(service).expect("a Service");
        let slices: Vec<Arc<EndpointSlice>> = slices
            .iter()
            .map(|s| Arc::new(serde_json::from_value(s.clone()).expect("a slice")))
            .collect();
        let reference = json!({"name": "s", "namespace": "n", "port": port});
        endpoints(&reference, &service, &slices).map(|v| v.reason)
    }

    #[test]
    fn reasons_are_upstreams() {
        let slice = |ready: bool| {
            json!({"addressType": "IPv4", "ports": [{"name": "https", "port": 8443}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
        };
        assert_eq!(reason(80, &[slice(true)]), Some("ServicePortError"));
        assert_eq!(reason(443, &[]), Some("EndpointsNotFound"));
        assert_eq!(reason(443, &[slice(false)]), Some("MissingEndpoints"));
        assert_eq!(reason(443, &[slice(true)]), None);
    }
}

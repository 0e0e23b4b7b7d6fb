//! From changes of Services, Pods, and of what is written here to the Services that must look again.
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::{Controller, backends, legacy, slices};
use crate::toolkit::{Change, ObjectKey, Pod, pods, selectors};

pub fn register(controller: &Arc<Controller>) {
    let this = controller.clone();
    controller
        .watches
        .services
        .on_change(move |change| this.queue.add(ObjectKey::of(change.object().as_ref())));
    let this = controller.clone();
    controller
        .watches
        .pods
        .on_change(move |change| this.pod_changed(change));
    let this = controller.clone();
    controller
        .watches
        .slices
        .on_change(move |change| this.queue.extend(service_of(change.object())));
    let this = controller.clone();
    controller
        .watches
        .endpoints
        .on_change(move |change| this.endpoints_changed(change));
}

impl Controller {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        if change.old().is_some_and(|old| matters(old) == matters(pod)) {
            return;
        }
        let mut keys = BTreeSet::new();
        for service in self
            .watches
            .services
            .in_namespace(&pod.namespace().unwrap_or_default())
        {
            let Some(selector) = backends::selector(&service) else {
                continue;
            };
            let selected = |pod: &Pod| selectors::contains_all(&pod.metadata, selector);
            if selected(pod) || change.old().is_some_and(|old| selected(old)) {
                keys.insert(ObjectKey::of(service.as_ref()));
            }
        }
        self.queue.extend(keys);
    }

    fn endpoints_changed(&self, change: &Change<Endpoints>) {
        let endpoints = change.object();
        if matches!(change, Change::Deleted(_)) || legacy::is_ours(endpoints) {
            self.queue.add(ObjectKey::of(endpoints.as_ref()));
        }
    }
}

/// What of a Pod shows in endpoints.
fn matters(pod: &Pod) -> impl PartialEq + '_ {
    let status = pod.status.as_ref();
    (
        status.map(|status| (&status.pod_ip, &status.pod_ips)),
        (pods::is_ready(pod), pods::is_dying(pod), pods::is_terminal(pod)),
        (pods::node_name(pod), pod.labels()),
    )
}

/// The Service a slice of ours belongs to.
fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.labels();
    let ours = labels
        .get(slices::MANAGED_BY)
        .is_some_and(|manager| manager == slices::MANAGER);
    let name = labels.get(slices::SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(
        slice.namespace().unwrap_or_default(),
        name.clone(),
    ))
}

/// Files slices of ours under their Service.
pub fn service_index(slice: &EndpointSlice) -> Option<String> {
    service_of(slice).map(|key| key.to_string())
}

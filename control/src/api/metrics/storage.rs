//! What is stored: objects, what became of them, and what all takes on the disk.
use super::super::Api;
use crate::measures::Exposition;

/// Upstream's name for what it has one of; another program than etcd is behind it here.
const STORE: &str = "etcd-0";

pub(super) async fn write(api: &Api, out: &mut Exposition) {
    let all = api.cache.counts();
    let name = "apiserver_resource_objects";
    out.begin(name, "gauge", "Stored objects by resource.");
    for of in &all {
        out.sample(name, &labels(&of.kind), of.objects);
    }
    let name = "apiserver_storage_objects";
    let help = "As apiserver_resource_objects, which upstream has it replaced by.";
    out.begin(name, "gauge", help);
    for of in &all {
        out.sample(name, &[("resource", of.kind.group_resource())], of.objects);
    }
    let name = "apiserver_storage_events_received_total";
    out.begin(name, "counter", "Changes that the store told of, by resource.");
    for of in all.iter().filter(|of| of.changes > 0) {
        out.sample(name, &labels(&of.kind), of.changes);
    }
    let name = "apiserver_storage_size_bytes";
    out.begin(name, "gauge", "Bytes of the disk that the store's files take.");
    // While the disk cannot be asked nothing is told of it.
    if let Ok(size) = api.store.size().await {
        out.sample(name, &[("storage_cluster_id", STORE.to_owned())], size);
    }
}

fn labels(kind: &crate::kinds::Kind) -> [(&'static str, String); 2] {
    [("group", kind.group.clone()), ("resource", kind.plural.clone())]
}

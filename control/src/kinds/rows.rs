//! Which resources are served, with which subresources, under which storage prefix, by which rules.
//!
//! Adding a kind is adding a row here (its schema and columns are in the embedded table already) and, where it has
//! defaults or validation of its own, a `Rules` row.
use super::rules::Rules;

/// One served resource.
#[derive(Debug)]
pub(super) struct Served {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub subresources: &'static [&'static str],
    pub storage_prefix: &'static str,
    pub rules: &'static Rules,
}

const fn core(
    plural: &'static str,
    subresources: &'static [&'static str],
    storage_prefix: &'static str,
    rules: &'static Rules,
) -> Served {
    Served {
        group: "",
        version: "v1",
        plural,
        subresources,
        storage_prefix,
        rules,
    }
}

const fn grouped(
    group: &'static str,
    plural: &'static str,
    subresources: &'static [&'static str],
    storage_prefix: &'static str,
    rules: &'static Rules,
) -> Served {
    Served {
        group,
        version: "v1",
        plural,
        subresources,
        storage_prefix,
        rules,
    }
}

pub(super) static SERVED: &[Served] = &[
    core("configmaps", &[], "/registry/configmaps", &Rules::PLAIN),
    core("endpoints", &[], "/registry/services/endpoints", &Rules::PLAIN),
    core("events", &[], "/registry/events", &Rules::PLAIN),
    core(
        "namespaces",
        &["finalize", "status"],
        "/registry/namespaces",
        &Rules::PLAIN,
    ),
    core("nodes", &["status"], "/registry/minions", &Rules::PLAIN),
    core(
        "pods",
        &["binding", "log", "status"],
        "/registry/pods",
        &Rules::PLAIN,
    ),
    core("secrets", &[], "/registry/secrets", &Rules::PLAIN),
    core("serviceaccounts", &[], "/registry/serviceaccounts", &Rules::PLAIN),
    core("services", &["status"], "/registry/services/specs", &Rules::PLAIN),
    grouped(
        "apps",
        "deployments",
        &["scale", "status"],
        "/registry/deployments",
        &Rules::PLAIN,
    ),
    grouped(
        "apps",
        "replicasets",
        &["scale", "status"],
        "/registry/replicasets",
        &Rules::PLAIN,
    ),
    grouped("events.k8s.io", "events", &[], "/registry/events", &Rules::PLAIN),
    grouped(
        "coordination.k8s.io",
        "leases",
        &[],
        "/registry/leases",
        &Rules::PLAIN,
    ),
    grouped(
        "discovery.k8s.io",
        "endpointslices",
        &[],
        "/registry/endpointslices",
        &Rules::PLAIN,
    ),
];

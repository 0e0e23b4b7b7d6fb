//! Which resources are served, with which subresources, under which storage prefix, by which rules.
//!
//! Adding a kind is adding a row here (its schema and columns are in the embedded table already) and, where it has
//! defaults or validation of its own, a `Rules` row.
mod access;
mod core_v1;
mod infrastructure;
mod workloads;

use super::rules::Rules;
use super::{api_service, custom, policy};
use access::{
    CERTIFICATE_REQUEST, CLUSTER_ROLE, CLUSTER_ROLE_BINDING, FLOW_SCHEMA, MUTATING_WEBHOOKS, PRIORITY_LEVEL,
    ROLE, ROLE_BINDING, VALIDATING_WEBHOOKS,
};
use core_v1::{
    CLAIM, COMPONENT_STATUS, CONFIG_MAP, ENDPOINTS, EVENT, EVENT_V1, LIMIT_RANGE, NAMESPACE, NODE, POD,
    POD_TEMPLATE, QUOTA, REPLICATION_CONTROLLER, SECRET, SERVICE, SERVICE_ACCOUNT, VOLUME,
};
use infrastructure::{
    ATTRIBUTES_CLASS, CSI_CAPACITY, CSI_DRIVER, CSI_NODE, DEVICE_CLASS, ENDPOINT_SLICE, INGRESS,
    INGRESS_CLASS, IP_ADDRESS, LEASE, NETWORK_POLICY, NODE_METRICS, POD_METRICS, PRIORITY_CLASS,
    RESOURCE_CLAIM, RESOURCE_CLAIM_TEMPLATE, RESOURCE_SLICE, RUNTIME_CLASS, SERVICE_CIDR, STORAGE_CLASS,
    VOLUME_ATTACHMENT,
};
use workloads::{
    AUTOSCALER, AUTOSCALER_V1, BUDGET, CONTROLLER_REVISION, CRON_JOB, DAEMON_SET, DEPLOYMENT, JOB,
    REPLICA_SET, STATEFUL_SET,
};

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

const fn versioned(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    subresources: &'static [&'static str],
    storage_prefix: &'static str,
    rules: &'static Rules,
) -> Served {
    Served {
        group,
        version,
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
    versioned(group, "v1", plural, subresources, storage_prefix, rules)
}

const fn core(
    plural: &'static str,
    subresources: &'static [&'static str],
    storage_prefix: &'static str,
    rules: &'static Rules,
) -> Served {
    grouped("", plural, subresources, storage_prefix, rules)
}

const fn rbac(plural: &'static str, storage_prefix: &'static str, rules: &'static Rules) -> Served {
    grouped("rbac.authorization.k8s.io", plural, &[], storage_prefix, rules)
}

/// A kind that is a question or an order: created to be answered or obeyed, and never stored.
const fn asked(group: &'static str, plural: &'static str) -> Served {
    grouped(group, plural, &[], plural, &Rules::PLAIN)
}

/// What is made when it is asked for, and never stored.
const fn measured(plural: &'static str, prefix: &'static str, rules: &'static Rules) -> Served {
    versioned(RESOURCE_METRICS, "v1beta1", plural, &[], prefix, rules)
}

/// The group of the resource metrics API.
pub(crate) const RESOURCE_METRICS: &str = "metrics.k8s.io";

pub(super) static SERVED: &[Served] = &[
    asked("", "bindings"),
    core("configmaps", &[], "/registry/configmaps", &CONFIG_MAP),
    core(
        "componentstatuses",
        &[],
        "/registry/componentstatuses",
        &COMPONENT_STATUS,
    ),
    core("endpoints", &[], "/registry/services/endpoints", &ENDPOINTS),
    core("events", &[], "/registry/events", &EVENT),
    core(
        "namespaces",
        &["finalize", "status"],
        "/registry/namespaces",
        &NAMESPACE,
    ),
    core("nodes", &["proxy", "status"], "/registry/minions", &NODE),
    core(
        "pods",
        &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ],
        "/registry/pods",
        &POD,
    ),
    core("secrets", &[], "/registry/secrets", &SECRET),
    core(
        "serviceaccounts",
        &["token"],
        "/registry/serviceaccounts",
        &SERVICE_ACCOUNT,
    ),
    core(
        "services",
        &["proxy", "status"],
        "/registry/services/specs",
        &SERVICE,
    ),
    grouped(
        "apps",
        "deployments",
        &["scale", "status"],
        "/registry/deployments",
        &DEPLOYMENT,
    ),
    grouped(
        "apps",
        "replicasets",
        &["scale", "status"],
        "/registry/replicasets",
        &REPLICA_SET,
    ),
    grouped(
        api_service::GROUP,
        "apiservices",
        &["status"],
        "/registry/apiregistration.k8s.io/apiservices",
        &api_service::RULES,
    ),
    grouped(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        &["status"],
        "/registry/apiextensions.k8s.io/customresourcedefinitions",
        &custom::definition::RULES,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        &[],
        "/registry/mutatingadmissionpolicies",
        &policy::MUTATING_POLICY,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        &[],
        "/registry/mutatingadmissionpolicybindings",
        &policy::MUTATING_BINDING,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        &["status"],
        "/registry/validatingadmissionpolicies",
        &policy::POLICY,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        &[],
        "/registry/validatingadmissionpolicybindings",
        &policy::BINDING,
    ),
    core("limitranges", &[], "/registry/limitranges", &LIMIT_RANGE),
    core(
        "persistentvolumeclaims",
        &["status"],
        "/registry/persistentvolumeclaims",
        &CLAIM,
    ),
    core(
        "persistentvolumes",
        &["status"],
        "/registry/persistentvolumes",
        &VOLUME,
    ),
    core("podtemplates", &[], "/registry/podtemplates", &POD_TEMPLATE),
    core(
        "replicationcontrollers",
        &["scale", "status"],
        "/registry/controllers",
        &REPLICATION_CONTROLLER,
    ),
    core("resourcequotas", &["status"], "/registry/resourcequotas", &QUOTA),
    grouped(
        "apps",
        "controllerrevisions",
        &[],
        "/registry/controllerrevisions",
        &CONTROLLER_REVISION,
    ),
    grouped(
        "apps",
        "daemonsets",
        &["status"],
        "/registry/daemonsets",
        &DAEMON_SET,
    ),
    grouped(
        "apps",
        "statefulsets",
        &["scale", "status"],
        "/registry/statefulsets",
        &STATEFUL_SET,
    ),
    grouped("batch", "cronjobs", &["status"], "/registry/cronjobs", &CRON_JOB),
    grouped("batch", "jobs", &["status"], "/registry/jobs", &JOB),
    versioned(
        "autoscaling",
        "v2",
        "horizontalpodautoscalers",
        &["status"],
        "/registry/horizontalpodautoscalers",
        &AUTOSCALER,
    ),
    grouped(
        "autoscaling",
        "horizontalpodautoscalers",
        &["status"],
        "/registry/horizontalpodautoscalers",
        &AUTOSCALER_V1,
    ),
    grouped(
        "policy",
        "poddisruptionbudgets",
        &["status"],
        "/registry/poddisruptionbudgets",
        &BUDGET,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        &[],
        "/registry/mutatingwebhookconfigurations",
        &MUTATING_WEBHOOKS,
    ),
    grouped(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        &[],
        "/registry/validatingwebhookconfigurations",
        &VALIDATING_WEBHOOKS,
    ),
    grouped(
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        &["status"],
        "/registry/flowschemas",
        &FLOW_SCHEMA,
    ),
    grouped(
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        &["status"],
        "/registry/prioritylevelconfigurations",
        &PRIORITY_LEVEL,
    ),
    grouped(
        "networking.k8s.io",
        "ingressclasses",
        &[],
        "/registry/ingressclasses",
        &INGRESS_CLASS,
    ),
    grouped(
        "networking.k8s.io",
        "ingresses",
        &["status"],
        "/registry/ingress",
        &INGRESS,
    ),
    grouped(
        "networking.k8s.io",
        "ipaddresses",
        &[],
        "/registry/ipaddresses",
        &IP_ADDRESS,
    ),
    grouped(
        "networking.k8s.io",
        "networkpolicies",
        &[],
        "/registry/networkpolicies",
        &NETWORK_POLICY,
    ),
    grouped(
        "networking.k8s.io",
        "servicecidrs",
        &["status"],
        "/registry/servicecidrs",
        &SERVICE_CIDR,
    ),
    grouped(
        "node.k8s.io",
        "runtimeclasses",
        &[],
        "/registry/runtimeclasses",
        &RUNTIME_CLASS,
    ),
    grouped(
        "resource.k8s.io",
        "deviceclasses",
        &[],
        "/registry/deviceclasses",
        &DEVICE_CLASS,
    ),
    grouped(
        "resource.k8s.io",
        "resourceclaims",
        &["status"],
        "/registry/resourceclaims",
        &RESOURCE_CLAIM,
    ),
    grouped(
        "resource.k8s.io",
        "resourceclaimtemplates",
        &[],
        "/registry/resourceclaimtemplates",
        &RESOURCE_CLAIM_TEMPLATE,
    ),
    grouped(
        "resource.k8s.io",
        "resourceslices",
        &[],
        "/registry/resourceslices",
        &RESOURCE_SLICE,
    ),
    grouped(
        "scheduling.k8s.io",
        "priorityclasses",
        &[],
        "/registry/priorityclasses",
        &PRIORITY_CLASS,
    ),
    grouped(
        "storage.k8s.io",
        "csidrivers",
        &[],
        "/registry/csidrivers",
        &CSI_DRIVER,
    ),
    grouped("storage.k8s.io", "csinodes", &[], "/registry/csinodes", &CSI_NODE),
    grouped(
        "storage.k8s.io",
        "csistoragecapacities",
        &[],
        "/registry/csistoragecapacities",
        &CSI_CAPACITY,
    ),
    grouped(
        "storage.k8s.io",
        "storageclasses",
        &[],
        "/registry/storageclasses",
        &STORAGE_CLASS,
    ),
    grouped(
        "storage.k8s.io",
        "volumeattachments",
        &["status"],
        "/registry/volumeattachments",
        &VOLUME_ATTACHMENT,
    ),
    grouped(
        "storage.k8s.io",
        "volumeattributesclasses",
        &[],
        "/registry/volumeattributesclasses",
        &ATTRIBUTES_CLASS,
    ),
    grouped("events.k8s.io", "events", &[], "/registry/events", &EVENT_V1),
    rbac("clusterroles", "/registry/clusterroles", &CLUSTER_ROLE),
    rbac(
        "clusterrolebindings",
        "/registry/clusterrolebindings",
        &CLUSTER_ROLE_BINDING,
    ),
    rbac("roles", "/registry/roles", &ROLE),
    rbac("rolebindings", "/registry/rolebindings", &ROLE_BINDING),
    grouped(
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["approval", "status"],
        "/registry/certificatesigningrequests",
        &CERTIFICATE_REQUEST,
    ),
    measured("nodes", "metrics.k8s.io/nodes", &NODE_METRICS),
    measured("pods", "metrics.k8s.io/pods", &POD_METRICS),
    asked("authentication.k8s.io", "selfsubjectreviews"),
    asked("authentication.k8s.io", "tokenreviews"),
    asked("authorization.k8s.io", "localsubjectaccessreviews"),
    asked("authorization.k8s.io", "selfsubjectaccessreviews"),
    asked("authorization.k8s.io", "selfsubjectrulesreviews"),
    asked("authorization.k8s.io", "subjectaccessreviews"),
    grouped("coordination.k8s.io", "leases", &[], "/registry/leases", &LEASE),
    grouped(
        "discovery.k8s.io",
        "endpointslices",
        &[],
        "/registry/endpointslices",
        &ENDPOINT_SLICE,
    ),
];

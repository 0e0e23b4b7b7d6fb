//! Which resources are served, with which subresources, under which storage prefix, by which rules.
//!
//! Adding a kind is adding a row here (its schema and columns are in the embedded table already) and, where it has
//! defaults or validation of its own, a `Rules` row.
use super::names::NameRule;
use super::rules::Rules;
use super::{
    api_service, autoscaling, custom, defaults, event, policy, prepare, selectable, table, validate,
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
    Served {
        group,
        version: "v1",
        plural,
        subresources,
        storage_prefix,
        rules,
    }
}

const fn rbac(plural: &'static str, storage_prefix: &'static str, rules: &'static Rules) -> Served {
    grouped("rbac.authorization.k8s.io", plural, &[], storage_prefix, rules)
}

/// A kind that is a question: created to be answered, and never stored.
const fn asked(group: &'static str, plural: &'static str) -> Served {
    grouped(group, plural, &[], plural, &Rules::PLAIN)
}

pub(super) static SERVED: &[Served] = &[
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

static CONFIG_MAP: Rules = Rules {
    row: Some(table::objects::config_map),
    validate_create: validate::config::config_map,
    validate_update: validate::config::config_map_update,
    ..Rules::PLAIN
};

static COMPONENT_STATUS: Rules = Rules {
    row: Some(table::objects::component_status),
    ..Rules::PLAIN
};

static ENDPOINTS: Rules = Rules {
    default: defaults::network::endpoints,
    row: Some(table::network::endpoints),
    validate_create: validate::network::endpoints,
    validate_update: validate::network::endpoints_update,
    ..Rules::PLAIN
};

static EVENT: Rules = Rules {
    row: Some(table::objects::event),
    selectable: event::selectable,
    validate_create: validate::event::core,
    validate_update: validate::event::core_update,
    ..Rules::PLAIN
};

static EVENT_V1: Rules = Rules {
    row: Some(event_row),
    selectable: event::selectable_new,
    to_storage: event::to_core,
    from_storage: event::from_core,
    stored_as_served: false,
    validate_create: validate::event::new,
    validate_update: validate::event::new_update,
    ..Rules::PLAIN
};

static NAMESPACE: Rules = Rules {
    name_rule: NameRule::Label,
    default: defaults::objects::namespace,
    prepare_create: prepare::objects::namespace_create,
    prepare_update: prepare::objects::namespace_update,
    row: Some(table::objects::namespace),
    selectable: selectable::namespace,
    validate_create: validate::config::namespace,
    validate_update: validate::config::namespace_update,
    ..Rules::PLAIN
};

static NODE: Rules = Rules {
    default: defaults::objects::node,
    prepare_update: prepare::split_status,
    row: Some(table::objects::node),
    selectable: selectable::node,
    validate_create: validate::node::create,
    validate_update: validate::node::update,
    ..Rules::PLAIN
};

static POD: Rules = Rules {
    generation: true,
    default: defaults::pod::pod,
    prepare_create: prepare::pod::create,
    prepare_update: prepare::pod::update,
    row: Some(table::pod::row),
    selectable: selectable::pod,
    validate_create: validate::pod::create,
    validate_update: validate::pod_update::update,
    ..Rules::PLAIN
};

static SECRET: Rules = Rules {
    default: defaults::objects::secret,
    row: Some(table::objects::secret),
    selectable: selectable::secret,
    validate_create: validate::config::secret,
    validate_update: validate::config::secret_update,
    ..Rules::PLAIN
};

static SERVICE_ACCOUNT: Rules = Rules {
    row: Some(table::objects::service_account),
    ..Rules::PLAIN
};

static SERVICE: Rules = Rules {
    // KEP-5311.
    name_rule: NameRule::Label,
    default: defaults::network::service,
    prepare_create: prepare::service::create,
    prepare_update: prepare::service::update,
    row: Some(table::network::service),
    selectable: selectable::service,
    validate_create: validate::service::validate,
    validate_update: validate::service::update,
    ..Rules::PLAIN
};

static DEPLOYMENT: Rules = Rules {
    generation: true,
    default: defaults::apps::deployment,
    prepare_create: prepare::without_status,
    prepare_update: prepare::objects::deployment_update,
    desired_changed: prepare::objects::deployment_changed,
    row: Some(table::workloads::deployment),
    validate_create: validate::apps::deployment,
    validate_update: validate::apps::deployment_update,
    ..Rules::PLAIN
};

static REPLICA_SET: Rules = Rules {
    generation: true,
    default: defaults::apps::replica_set,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::replica_set),
    selectable: selectable::replica_set,
    validate_create: validate::apps::replica_set,
    validate_update: validate::apps::replica_set_update,
    ..Rules::PLAIN
};

static CERTIFICATE_REQUEST: Rules = Rules {
    prepare_create: prepare::without_status,
    prepare_update: prepare::certificates::update,
    row: Some(table::certificates::request),
    selectable: selectable::certificate_request,
    validate_create: validate::certificates::create,
    validate_update: validate::certificates::update,
    ..Rules::PLAIN
};

static CLUSTER_ROLE: Rules = Rules {
    name_rule: NameRule::PathSegment,
    validate_create: validate::rbac::cluster_role,
    validate_update: validate::rbac::cluster_role_update,
    ..Rules::PLAIN
};

static CLUSTER_ROLE_BINDING: Rules = Rules {
    name_rule: NameRule::PathSegment,
    default: defaults::rbac::binding,
    row: Some(table::rbac::binding),
    validate_create: validate::rbac::cluster_role_binding,
    validate_update: validate::rbac::cluster_role_binding_update,
    ..Rules::PLAIN
};

static ROLE: Rules = Rules {
    name_rule: NameRule::PathSegment,
    validate_create: validate::rbac::role,
    validate_update: validate::rbac::role_update,
    ..Rules::PLAIN
};

static ROLE_BINDING: Rules = Rules {
    name_rule: NameRule::PathSegment,
    default: defaults::rbac::binding,
    row: Some(table::rbac::binding),
    validate_create: validate::rbac::role_binding,
    validate_update: validate::rbac::role_binding_update,
    ..Rules::PLAIN
};

static LIMIT_RANGE: Rules = Rules {
    default: defaults::storage::limit_range,
    validate_create: validate::quota::limit_range,
    validate_update: validate::quota::limit_range_update,
    ..Rules::PLAIN
};

static QUOTA: Rules = Rules {
    default: defaults::storage::quota,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::storage::quota),
    validate_create: validate::quota::quota,
    validate_update: validate::quota::quota_update,
    ..Rules::PLAIN
};

static VOLUME: Rules = Rules {
    default: defaults::storage::volume,
    prepare_create: prepare::storage::volume_create,
    prepare_update: prepare::storage::volume_update,
    row: Some(table::storage::volume),
    validate_create: validate::storage::volume,
    validate_update: validate::storage::volume_update,
    ..Rules::PLAIN
};

static CLAIM: Rules = Rules {
    default: defaults::storage::claim,
    prepare_create: prepare::storage::claim_create,
    prepare_update: prepare::storage::claim_update,
    row: Some(table::storage::claim),
    validate_create: validate::storage::claim,
    validate_update: validate::storage::claim_update,
    ..Rules::PLAIN
};

static POD_TEMPLATE: Rules = Rules {
    generation: true,
    default: defaults::apps::pod_template,
    desired_changed: prepare::workloads::pod_template_changed,
    row: Some(table::workloads::pod_template),
    validate_create: validate::sets::pod_template,
    validate_update: validate::sets::pod_template_update,
    ..Rules::PLAIN
};

static REPLICATION_CONTROLLER: Rules = Rules {
    generation: true,
    default: defaults::apps::replication_controller,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::replication_controller),
    selectable: selectable::replica_set,
    validate_create: validate::sets::replication_controller,
    validate_update: validate::sets::replication_controller_update,
    ..Rules::PLAIN
};

static CONTROLLER_REVISION: Rules = Rules {
    row: Some(table::workloads::controller_revision),
    validate_create: validate::sets::controller_revision,
    validate_update: validate::sets::controller_revision_update,
    ..Rules::PLAIN
};

static DAEMON_SET: Rules = Rules {
    generation: true,
    default: defaults::apps::daemon_set,
    prepare_create: prepare::workloads::daemon_set_create,
    prepare_update: prepare::workloads::daemon_set_update,
    row: Some(table::workloads::daemon_set),
    validate_create: validate::sets::daemon_set,
    validate_update: validate::sets::daemon_set_update,
    ..Rules::PLAIN
};

static STATEFUL_SET: Rules = Rules {
    name_rule: NameRule::Label,
    generation: true,
    default: defaults::apps::stateful_set,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::stateful_set),
    validate_create: validate::sets::stateful_set,
    validate_update: validate::sets::stateful_set_update,
    ..Rules::PLAIN
};

static JOB: Rules = Rules {
    generation: true,
    default: defaults::batch::job,
    prepare_create: prepare::workloads::job_create,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::job),
    selectable: selectable::job,
    validate_create: validate::job::create,
    validate_update: validate::job::update,
    ..Rules::PLAIN
};

static CRON_JOB: Rules = Rules {
    generation: true,
    default: defaults::batch::cron_job,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::cron_job),
    validate_create: validate::cron_job::create,
    validate_update: validate::cron_job::update,
    ..Rules::PLAIN
};

static AUTOSCALER: Rules = Rules {
    default: defaults::scaling::v2,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::scaling::row),
    validate_create: validate::scaling::autoscaler,
    validate_update: validate::scaling::autoscaler_update,
    ..Rules::PLAIN
};

static AUTOSCALER_V1: Rules = Rules {
    default: defaults::scaling::v1,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(autoscaling::row),
    to_storage: autoscaling::to_v2,
    from_storage: autoscaling::to_v1,
    stored_as_served: false,
    validate_create: autoscaling::validate,
    validate_update: autoscaling::validate_update,
    ..Rules::PLAIN
};

static BUDGET: Rules = Rules {
    generation: true,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::budget),
    validate_create: validate::policy::budget,
    validate_update: validate::policy::budget_update,
    ..Rules::PLAIN
};

static MUTATING_WEBHOOKS: Rules = Rules {
    generation: true,
    default: defaults::webhooks::mutating,
    desired_changed: prepare::workloads::webhooks_changed,
    row: Some(table::cluster::webhooks),
    validate_create: validate::webhooks::mutating,
    validate_update: validate::webhooks::mutating_update,
    ..Rules::PLAIN
};

static VALIDATING_WEBHOOKS: Rules = Rules {
    generation: true,
    default: defaults::webhooks::validating,
    desired_changed: prepare::workloads::webhooks_changed,
    row: Some(table::cluster::webhooks),
    validate_create: validate::webhooks::validating,
    validate_update: validate::webhooks::validating_update,
    ..Rules::PLAIN
};

static FLOW_SCHEMA: Rules = Rules {
    generation: true,
    default: defaults::cluster::flow_schema,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::flow_schema),
    validate_create: validate::cluster::flow_schema,
    validate_update: validate::cluster::flow_schema_update,
    ..Rules::PLAIN
};

static PRIORITY_LEVEL: Rules = Rules {
    generation: true,
    default: defaults::cluster::priority_level,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::priority_level),
    validate_create: validate::cluster::priority_level,
    validate_update: validate::cluster::priority_level_update,
    ..Rules::PLAIN
};

static INGRESS_CLASS: Rules = Rules {
    generation: true,
    default: defaults::cluster::ingress_class,
    row: Some(table::cluster::ingress_class),
    validate_create: validate::ingress::class,
    validate_update: validate::ingress::class_update,
    ..Rules::PLAIN
};

static INGRESS: Rules = Rules {
    generation: true,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::ingress),
    validate_create: validate::ingress::ingress,
    validate_update: validate::ingress::ingress_update,
    ..Rules::PLAIN
};

static IP_ADDRESS: Rules = Rules {
    name_rule: NameRule::PathSegment,
    row: Some(table::cluster::ip_address),
    selectable: selectable::ip_address,
    validate_create: validate::ingress::address,
    validate_update: validate::ingress::address_update,
    ..Rules::PLAIN
};

static NETWORK_POLICY: Rules = Rules {
    generation: true,
    default: defaults::cluster::network_policy,
    row: Some(table::cluster::network_policy),
    validate_create: validate::network_policy::policy,
    validate_update: validate::network_policy::policy_update,
    ..Rules::PLAIN
};

static SERVICE_CIDR: Rules = Rules {
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::service_cidr),
    validate_create: validate::ingress::service_cidr,
    validate_update: validate::ingress::service_cidr_update,
    ..Rules::PLAIN
};

static RUNTIME_CLASS: Rules = Rules {
    default: defaults::cluster::runtime_class,
    row: Some(table::cluster::runtime_class),
    validate_create: validate::cluster::runtime_class,
    validate_update: validate::cluster::runtime_class_update,
    ..Rules::PLAIN
};

static DEVICE_CLASS: Rules = Rules {
    generation: true,
    ..Rules::PLAIN
};

static RESOURCE_CLAIM: Rules = Rules {
    default: defaults::cluster::resource_claim,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::resource_claim),
    validate_update: validate::devices::claim_update,
    validate_create: validate::devices::claim,
    ..Rules::PLAIN
};

static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: defaults::cluster::resource_claim_template,
    validate_create: validate::devices::template,
    validate_update: validate::devices::template_update,
    ..Rules::PLAIN
};

static RESOURCE_SLICE: Rules = Rules {
    generation: true,
    row: Some(table::cluster::resource_slice),
    selectable: selectable::resource_slice,
    validate_create: validate::devices::slice,
    validate_update: validate::devices::slice_update,
    ..Rules::PLAIN
};

static PRIORITY_CLASS: Rules = Rules {
    generation: true,
    default: defaults::cluster::priority_class,
    desired_changed: prepare::workloads::never_changed,
    row: Some(table::cluster::priority_class),
    validate_create: validate::cluster::priority_class,
    validate_update: validate::cluster::priority_class_update,
    ..Rules::PLAIN
};

static CSI_DRIVER: Rules = Rules {
    default: defaults::storage::csi_driver,
    row: Some(table::storage::csi_driver),
    validate_create: validate::storage_api::driver,
    validate_update: validate::storage_api::driver_update,
    ..Rules::PLAIN
};

static CSI_NODE: Rules = Rules {
    row: Some(table::storage::csi_node),
    validate_create: validate::storage_api::node,
    validate_update: validate::storage_api::node_update,
    ..Rules::PLAIN
};

static CSI_CAPACITY: Rules = Rules {
    validate_create: validate::storage_api::capacity,
    validate_update: validate::storage_api::capacity_update,
    ..Rules::PLAIN
};

static STORAGE_CLASS: Rules = Rules {
    default: defaults::storage::class,
    row: Some(table::storage::storage_class),
    validate_create: validate::storage_api::class,
    validate_update: validate::storage_api::class_update,
    ..Rules::PLAIN
};

static VOLUME_ATTACHMENT: Rules = Rules {
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::storage::attachment),
    validate_create: validate::storage_api::attachment,
    validate_update: validate::storage_api::attachment_update,
    ..Rules::PLAIN
};

static ATTRIBUTES_CLASS: Rules = Rules {
    row: Some(table::storage::attributes_class),
    validate_create: validate::storage_api::attributes_class,
    validate_update: validate::storage_api::attributes_class_update,
    ..Rules::PLAIN
};

static LEASE: Rules = Rules {
    row: Some(table::objects::lease),
    validate_create: validate::config::lease,
    validate_update: validate::config::lease_update,
    ..Rules::PLAIN
};

static ENDPOINT_SLICE: Rules = Rules {
    generation: true,
    default: defaults::network::endpoint_slice,
    desired_changed: prepare::objects::endpoint_slice_changed,
    row: Some(table::network::endpoint_slice),
    validate_create: validate::network::slice,
    validate_update: validate::network::slice_update,
    ..Rules::PLAIN
};

/// An `events.k8s.io` Event prints as the core Event it is stored as.
fn event_row(event: &serde_json::Value, now: jiff::Timestamp) -> Vec<serde_json::Value> {
    table::objects::event(&event::as_core(event), now)
}

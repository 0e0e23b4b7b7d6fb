//! Which resources are served, with which subresources, under which storage prefix, by which rules.
//!
//! Adding a kind is adding a row here (its schema and columns are in the embedded table already) and, where it has
//! defaults or validation of its own, a `Rules` row.
use super::names::NameRule;
use super::rules::Rules;
use super::{custom, defaults, event, prepare, selectable, table, validate};

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

const fn rbac(plural: &'static str, storage_prefix: &'static str, rules: &'static Rules) -> Served {
    grouped("rbac.authorization.k8s.io", plural, &[], storage_prefix, rules)
}

/// A kind that is a question: created to be answered, and never stored.
const fn asked(group: &'static str, plural: &'static str) -> Served {
    grouped(group, plural, &[], plural, &Rules::PLAIN)
}

pub(super) static SERVED: &[Served] = &[
    core("configmaps", &[], "/registry/configmaps", &CONFIG_MAP),
    core("endpoints", &[], "/registry/services/endpoints", &ENDPOINTS),
    core("events", &[], "/registry/events", &EVENT),
    core(
        "namespaces",
        &["finalize", "status"],
        "/registry/namespaces",
        &NAMESPACE,
    ),
    core("nodes", &["status"], "/registry/minions", &NODE),
    core(
        "pods",
        &["attach", "binding", "eviction", "exec", "log", "portforward", "status"],
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
    core("services", &["status"], "/registry/services/specs", &SERVICE),
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
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        &["status"],
        "/registry/apiextensions.k8s.io/customresourcedefinitions",
        &custom::definition::RULES,
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
    name_rule: NameRule::Label1035,
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

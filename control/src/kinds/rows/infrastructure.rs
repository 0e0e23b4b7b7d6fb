//! Rules of what Pods stand on: networking, discovery, storage, resources, nodes, scheduling, leases, and what
//! they use.
use crate::kinds::names::NameRule;
use crate::kinds::rules::Rules;
use crate::kinds::{defaults, prepare, selectable, table, validate};

pub(super) static INGRESS_CLASS: Rules = Rules {
    generation: true,
    default: defaults::cluster::ingress_class,
    row: Some(table::cluster::ingress_class),
    validate_create: validate::ingress::class,
    validate_update: validate::ingress::class_update,
    ..Rules::PLAIN
};

pub(super) static INGRESS: Rules = Rules {
    generation: true,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::ingress),
    validate_create: validate::ingress::ingress,
    validate_update: validate::ingress::ingress_update,
    ..Rules::PLAIN
};

pub(super) static IP_ADDRESS: Rules = Rules {
    name_rule: NameRule::PathSegment,
    row: Some(table::cluster::ip_address),
    selectable: selectable::ip_address,
    validate_create: validate::ingress::address,
    validate_update: validate::ingress::address_update,
    ..Rules::PLAIN
};

pub(super) static NETWORK_POLICY: Rules = Rules {
    generation: true,
    default: defaults::cluster::network_policy,
    row: Some(table::cluster::network_policy),
    validate_create: validate::network_policy::policy,
    validate_update: validate::network_policy::policy_update,
    ..Rules::PLAIN
};

pub(super) static SERVICE_CIDR: Rules = Rules {
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::service_cidr),
    validate_create: validate::ingress::service_cidr,
    validate_update: validate::ingress::service_cidr_update,
    ..Rules::PLAIN
};

pub(super) static RUNTIME_CLASS: Rules = Rules {
    default: defaults::cluster::runtime_class,
    row: Some(table::cluster::runtime_class),
    validate_create: validate::cluster::runtime_class,
    validate_update: validate::cluster::runtime_class_update,
    ..Rules::PLAIN
};

pub(super) static DEVICE_CLASS: Rules = Rules {
    generation: true,
    validate_create: validate::devices::class,
    validate_update: validate::devices::class_update,
    ..Rules::PLAIN
};

pub(super) static RESOURCE_CLAIM: Rules = Rules {
    default: defaults::cluster::resource_claim,
    prepare_create: prepare::without_status,
    prepare_update: prepare::workloads::resource_claim_update,
    row: Some(table::cluster::resource_claim),
    validate_update: validate::devices::claim_update,
    validate_create: validate::devices::claim,
    ..Rules::PLAIN
};

pub(super) static RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: defaults::cluster::resource_claim_template,
    validate_create: validate::devices::template,
    validate_update: validate::devices::template_update,
    ..Rules::PLAIN
};

pub(super) static RESOURCE_SLICE: Rules = Rules {
    generation: true,
    default: defaults::cluster::resource_slice,
    row: Some(table::cluster::resource_slice),
    selectable: selectable::resource_slice,
    validate_create: validate::devices::slice,
    validate_update: validate::devices::slice_update,
    ..Rules::PLAIN
};

pub(super) static PRIORITY_CLASS: Rules = Rules {
    generation: true,
    default: defaults::cluster::priority_class,
    desired_changed: prepare::workloads::never_changed,
    row: Some(table::cluster::priority_class),
    validate_create: validate::cluster::priority_class,
    validate_update: validate::cluster::priority_class_update,
    ..Rules::PLAIN
};

pub(super) static CSI_DRIVER: Rules = Rules {
    default: defaults::storage::csi_driver,
    prepare_create: prepare::storage::driver_create,
    prepare_update: prepare::storage::driver_update,
    row: Some(table::storage::csi_driver),
    validate_create: validate::storage_api::driver,
    validate_update: validate::storage_api::driver_update,
    ..Rules::PLAIN
};

pub(super) static CSI_NODE: Rules = Rules {
    row: Some(table::storage::csi_node),
    validate_create: validate::storage_api::node,
    validate_update: validate::storage_api::node_update,
    ..Rules::PLAIN
};

pub(super) static CSI_CAPACITY: Rules = Rules {
    validate_create: validate::storage_api::capacity,
    validate_update: validate::storage_api::capacity_update,
    ..Rules::PLAIN
};

pub(super) static STORAGE_CLASS: Rules = Rules {
    default: defaults::storage::class,
    row: Some(table::storage::storage_class),
    validate_create: validate::storage_api::class,
    validate_update: validate::storage_api::class_update,
    ..Rules::PLAIN
};

pub(super) static VOLUME_ATTACHMENT: Rules = Rules {
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::storage::attachment),
    validate_create: validate::storage_api::attachment,
    validate_update: validate::storage_api::attachment_update,
    ..Rules::PLAIN
};

pub(super) static ATTRIBUTES_CLASS: Rules = Rules {
    row: Some(table::storage::attributes_class),
    validate_create: validate::storage_api::attributes_class,
    validate_update: validate::storage_api::attributes_class_update,
    ..Rules::PLAIN
};

pub(super) static LEASE: Rules = Rules {
    prepare_create: prepare::workloads::lease_create,
    prepare_update: prepare::workloads::lease_update,
    row: Some(table::objects::lease),
    validate_create: validate::config::lease,
    validate_update: validate::config::lease_update,
    ..Rules::PLAIN
};

pub(super) static ENDPOINT_SLICE: Rules = Rules {
    generation: true,
    default: defaults::network::endpoint_slice,
    prepare_create: prepare::workloads::endpoint_slice_create,
    prepare_update: prepare::workloads::endpoint_slice_update,
    desired_changed: prepare::workloads::never_changed,
    row: Some(table::network::endpoint_slice),
    validate_create: validate::network::slice,
    validate_update: validate::network::slice_update,
    ..Rules::PLAIN
};

pub(super) static NODE_METRICS: Rules = Rules {
    row: Some(table::metrics::node),
    ..Rules::PLAIN
};

pub(super) static POD_METRICS: Rules = Rules {
    row: Some(table::metrics::pod),
    ..Rules::PLAIN
};

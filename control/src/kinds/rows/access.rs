//! Rules of who may do what: rbac, certificates, admissionregistration, flowcontrol.
use crate::kinds::names::NameRule;
use crate::kinds::rules::Rules;
use crate::kinds::{defaults, prepare, selectable, table, validate};

pub(super) static CERTIFICATE_REQUEST: Rules = Rules {
    name_rule: NameRule::PathSegment,
    prepare_create: prepare::without_status,
    prepare_update: prepare::certificates::update,
    row: Some(table::certificates::request),
    selectable: selectable::certificate_request,
    validate_create: validate::certificates::create,
    validate_update: validate::certificates::update,
    ..Rules::PLAIN
};

pub(super) static CLUSTER_ROLE: Rules = Rules {
    name_rule: NameRule::PathSegment,
    validate_create: validate::rbac::cluster_role,
    validate_update: validate::rbac::cluster_role_update,
    ..Rules::PLAIN
};

pub(super) static CLUSTER_ROLE_BINDING: Rules = Rules {
    name_rule: NameRule::PathSegment,
    default: defaults::rbac::binding,
    row: Some(table::rbac::binding),
    validate_create: validate::rbac::cluster_role_binding,
    validate_update: validate::rbac::cluster_role_binding_update,
    ..Rules::PLAIN
};

pub(super) static ROLE: Rules = Rules {
    name_rule: NameRule::PathSegment,
    validate_create: validate::rbac::role,
    validate_update: validate::rbac::role_update,
    ..Rules::PLAIN
};

pub(super) static ROLE_BINDING: Rules = Rules {
    name_rule: NameRule::PathSegment,
    default: defaults::rbac::binding,
    row: Some(table::rbac::binding),
    validate_create: validate::rbac::role_binding,
    validate_update: validate::rbac::role_binding_update,
    ..Rules::PLAIN
};

pub(super) static MUTATING_WEBHOOKS: Rules = Rules {
    generation: true,
    default: defaults::webhooks::mutating,
    desired_changed: prepare::workloads::webhooks_changed,
    row: Some(table::cluster::webhooks),
    validate_create: validate::webhooks::mutating,
    validate_update: validate::webhooks::mutating_update,
    ..Rules::PLAIN
};

pub(super) static VALIDATING_WEBHOOKS: Rules = Rules {
    generation: true,
    default: defaults::webhooks::validating,
    desired_changed: prepare::workloads::webhooks_changed,
    row: Some(table::cluster::webhooks),
    validate_create: validate::webhooks::validating,
    validate_update: validate::webhooks::validating_update,
    ..Rules::PLAIN
};

pub(super) static FLOW_SCHEMA: Rules = Rules {
    generation: true,
    default: defaults::cluster::flow_schema,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::flow_schema),
    validate_create: validate::cluster::flow_schema,
    validate_update: validate::cluster::flow_schema_update,
    ..Rules::PLAIN
};

pub(super) static PRIORITY_LEVEL: Rules = Rules {
    generation: true,
    default: defaults::cluster::priority_level,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::cluster::priority_level),
    validate_create: validate::cluster::priority_level,
    validate_update: validate::cluster::priority_level_update,
    ..Rules::PLAIN
};

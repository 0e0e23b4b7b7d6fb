//! Rules of the core group, and of Events in both of theirs.
use crate::kinds::names::NameRule;
use crate::kinds::rules::Rules;
use crate::kinds::{defaults, event, prepare, selectable, table, validate};

pub(super) static CONFIG_MAP: Rules = Rules {
    row: Some(table::objects::config_map),
    validate_create: validate::config::config_map,
    validate_update: validate::config::config_map_update,
    ..Rules::PLAIN
};

pub(super) static COMPONENT_STATUS: Rules = Rules {
    row: Some(table::objects::component_status),
    ..Rules::PLAIN
};

pub(super) static ENDPOINTS: Rules = Rules {
    default: defaults::network::endpoints,
    row: Some(table::network::endpoints),
    validate_create: validate::network::endpoints,
    validate_update: validate::network::endpoints_update,
    ..Rules::PLAIN
};

pub(super) static EVENT: Rules = Rules {
    name_rule: NameRule::PathSegment,
    row: Some(table::objects::event),
    selectable: event::selectable,
    validate_create: validate::event::core,
    validate_update: validate::event::core_update,
    ..Rules::PLAIN
};

pub(super) static EVENT_V1: Rules = Rules {
    row: Some(event_row),
    selectable: event::selectable_new,
    to_storage: event::to_core,
    from_storage: event::from_core,
    stored_as_served: false,
    validate_create: validate::event::new,
    validate_update: validate::event::new_update,
    ..Rules::PLAIN
};

pub(super) static NAMESPACE: Rules = Rules {
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

pub(super) static NODE: Rules = Rules {
    default: defaults::objects::node,
    prepare_update: prepare::split_status,
    row: Some(table::objects::node),
    selectable: selectable::node,
    validate_create: validate::node::create,
    validate_update: validate::node::update,
    ..Rules::PLAIN
};

pub(super) static POD: Rules = Rules {
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

pub(super) static SECRET: Rules = Rules {
    default: defaults::objects::secret,
    row: Some(table::objects::secret),
    selectable: selectable::secret,
    validate_create: validate::config::secret,
    validate_update: validate::config::secret_update,
    ..Rules::PLAIN
};

pub(super) static SERVICE_ACCOUNT: Rules = Rules {
    row: Some(table::objects::service_account),
    ..Rules::PLAIN
};

pub(super) static SERVICE: Rules = Rules {
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

pub(super) static LIMIT_RANGE: Rules = Rules {
    default: defaults::storage::limit_range,
    validate_create: validate::quota::limit_range,
    validate_update: validate::quota::limit_range_update,
    ..Rules::PLAIN
};

pub(super) static QUOTA: Rules = Rules {
    default: defaults::storage::quota,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::storage::quota),
    validate_create: validate::quota::quota,
    validate_update: validate::quota::quota_update,
    ..Rules::PLAIN
};

pub(super) static VOLUME: Rules = Rules {
    default: defaults::storage::volume,
    prepare_create: prepare::storage::volume_create,
    prepare_update: prepare::storage::volume_update,
    row: Some(table::storage::volume),
    validate_create: validate::storage::volume,
    validate_update: validate::storage::volume_update,
    ..Rules::PLAIN
};

pub(super) static CLAIM: Rules = Rules {
    default: defaults::storage::claim,
    prepare_create: prepare::storage::claim_create,
    prepare_update: prepare::storage::claim_update,
    row: Some(table::storage::claim),
    validate_create: validate::storage::claim,
    validate_update: validate::storage::claim_update,
    ..Rules::PLAIN
};

pub(super) static POD_TEMPLATE: Rules = Rules {
    generation: true,
    default: defaults::apps::pod_template,
    desired_changed: prepare::workloads::pod_template_changed,
    row: Some(table::workloads::pod_template),
    validate_create: validate::sets::pod_template,
    validate_update: validate::sets::pod_template_update,
    ..Rules::PLAIN
};

pub(super) static REPLICATION_CONTROLLER: Rules = Rules {
    generation: true,
    default: defaults::apps::replication_controller,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::replication_controller),
    selectable: selectable::replication_controller,
    validate_create: validate::sets::replication_controller,
    validate_update: validate::sets::replication_controller_update,
    ..Rules::PLAIN
};

/// An `events.k8s.io` Event prints as the core Event it is stored as.
fn event_row(event: &serde_json::Value, now: jiff::Timestamp) -> Vec<serde_json::Value> {
    table::objects::event(&event::as_core(event), now)
}

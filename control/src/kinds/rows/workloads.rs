//! Rules of what runs Pods: apps, batch, autoscaling, policy.
use crate::kinds::names::NameRule;
use crate::kinds::rules::Rules;
use crate::kinds::{autoscaling, defaults, prepare, selectable, table, validate};

pub(super) static DEPLOYMENT: Rules = Rules {
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

pub(super) static REPLICA_SET: Rules = Rules {
    generation: true,
    default: defaults::apps::replica_set,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::replica_set),
    validate_create: validate::apps::replica_set,
    validate_update: validate::apps::replica_set_update,
    ..Rules::PLAIN
};

pub(super) static CONTROLLER_REVISION: Rules = Rules {
    row: Some(table::workloads::controller_revision),
    validate_create: validate::sets::controller_revision,
    validate_update: validate::sets::controller_revision_update,
    ..Rules::PLAIN
};

pub(super) static DAEMON_SET: Rules = Rules {
    generation: true,
    default: defaults::apps::daemon_set,
    prepare_create: prepare::workloads::daemon_set_create,
    prepare_update: prepare::workloads::daemon_set_update,
    row: Some(table::workloads::daemon_set),
    validate_create: validate::sets::daemon_set,
    validate_update: validate::sets::daemon_set_update,
    ..Rules::PLAIN
};

pub(super) static STATEFUL_SET: Rules = Rules {
    name_rule: NameRule::Label,
    generation: true,
    default: defaults::apps::stateful_set,
    prepare_create: prepare::workloads::stateful_set_create,
    prepare_update: prepare::workloads::stateful_set_update,
    row: Some(table::workloads::stateful_set),
    validate_create: validate::sets::stateful_set,
    validate_update: validate::sets::stateful_set_update,
    ..Rules::PLAIN
};

pub(super) static JOB: Rules = Rules {
    generation: true,
    default: defaults::batch::job,
    prepare_create: prepare::workloads::job_create,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::job),
    selectable: selectable::job,
    validate_create: validate::job::create,
    validate_update: validate::job_update::update,
    ..Rules::PLAIN
};

pub(super) static CRON_JOB: Rules = Rules {
    generation: true,
    default: defaults::batch::cron_job,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::cron_job),
    validate_create: validate::cron_job::create,
    validate_update: validate::cron_job::update,
    ..Rules::PLAIN
};

pub(super) static AUTOSCALER: Rules = Rules {
    default: defaults::scaling::v2,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::scaling::row),
    validate_create: validate::scaling::autoscaler,
    validate_update: validate::scaling::autoscaler_update,
    ..Rules::PLAIN
};

pub(super) static AUTOSCALER_V1: Rules = Rules {
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

// Upstream checks no names but as parts of paths, of budgets and of requests for certificates.
pub(super) static BUDGET: Rules = Rules {
    name_rule: NameRule::PathSegment,
    generation: true,
    prepare_create: prepare::without_status,
    prepare_update: prepare::split_status,
    row: Some(table::workloads::budget),
    validate_create: validate::policy::budget,
    validate_update: validate::policy::budget_update,
    ..Rules::PLAIN
};

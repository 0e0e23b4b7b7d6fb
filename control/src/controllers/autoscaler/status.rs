//! The status of an autoscaler: its conditions. Pure.
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether its target can be read and changed.
pub const ABLE_TO_SCALE: &str = "AbleToScale";
/// Whether a number can be found for it.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// Whether it would be another without limits.
pub const SCALING_LIMITED: &str = "ScalingLimited";

/// Sets a condition; its time of transition stays while its status does.
pub fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    type_: &str,
    state: bool,
    reason: &str,
    message: impl Into<String>,
) {
    let state = if state { "True" } else { "False" };
    let all = status.conditions.get_or_insert_default();
    let at = all.iter().position(|c| c.type_ == type_);
    let since = at
        .map(|at| &all[at])
        .filter(|c| c.status == state)
        .and_then(|c| c.last_transition_time.clone());
    let condition = HorizontalPodAutoscalerCondition {
        last_transition_time: Some(since.unwrap_or_else(|| Time(Timestamp::now()))),
        message: Some(message.into()),
        reason: Some(reason.into()),
        status: state.into(),
        type_: type_.into(),
    };
    match at {
        Some(at) => all[at] = condition,
        None => all.push(condition),
    }
}

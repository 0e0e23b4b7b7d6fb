//! What is told of evictions that may not be.
use super::ApiError;
use http::StatusCode;
use serde_json::json;

impl ApiError {
    /// An eviction that a disruption budget does not allow now; `cause` says why.
    pub fn over_budget(cause: String, retry_after: u32) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": cause}]});
        if retry_after > 0 {
            details["retryAfterSeconds"] = retry_after.into();
        }
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).with(details)
    }

    /// An eviction that several disruption budgets would have to allow.
    pub fn several_budgets() -> Self {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// An eviction that says of a dry run what its request does not; upstream gives no reason.
    pub fn other_dry_run(said: &[&str]) -> Self {
        let message = format!(
            "Non-matching dry-run options in request and content: [All] and [{}]",
            said.join(" ")
        );
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }
}

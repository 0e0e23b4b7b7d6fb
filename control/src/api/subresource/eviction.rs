//! `pods/eviction`: a deletion that asks the Pod's disruption budget first (upstream's eviction subresource).
//!
//! A budget's allowance goes down before the Pod goes, by compare-and-swap: two evictions never share one. Its
//! controller counts again later. A Pod that goes past its budget, for it serves nobody, goes as it was seen.
use super::super::posted::Form;
use super::super::render::{self, Style};
use super::super::route::Target;
use super::super::status::{ApiError, Result, success};
use super::super::write::{self, Options};
use super::super::{Call, delete};
use super::condition;
use crate::kinds::conduct::is_ready_pod;
use crate::kinds::view::View;
use crate::kinds::{FieldError, labels, posted, time};
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

const FORM: Form = Form {
    kind: &posted::EVICTION,
    versions: &["policy/v1", "policy/v1beta1"],
    hub: "policy.Eviction",
};
const BUDGETS: (&str, &str, &str) = ("policy", "v1", "poddisruptionbudgets");
/// Evictions that a budget's controller has not seen through yet (upstream's `MaxDisruptedPodSize`).
const UNCONFIRMED: usize = 2000;
/// The condition that says whether a budget has disruptions left.
const ALLOWED: &str = "DisruptionAllowed";
/// An option of deletions that no eviction has.
const BREAKING: &str = "deleteOptions.ignoreStoreReadErrorWithClusterBreakingPotential";
/// How upstream names the resource when it forbids an eviction.
const FORBIDDEN: &str = "poddisruptionbudget";
/// How often a Pod that changes on its way is judged anew (upstream's `EvictionsRetry`).
const RETRIES: usize = 20;
/// Seconds until a budget that is being counted is worth another try.
const COUNTED_IN: u32 = 10;

pub(super) async fn serve(call: &Call, name: &str, style: Style) -> Result<Response> {
    let (mut posted, warnings) = FORM.read(call)?;
    write::place(call, &mut posted)?;
    let fit = |eviction: &Value| {
        check(name, eviction)?;
        is_dry_run(call, eviction).map(drop)
    };
    let (eviction, warnings) = FORM.admit(call, name, (posted, warnings), &fit).await?;
    if let Err(error) = evict(call, name, &eviction).await {
        return Err(error.after(warnings));
    }
    let response = success::created(style.accepted.format)?;
    Ok(render::warn(response, warnings))
}

/// Whether it is fit to be one of this Pod's evictions.
fn check(name: &str, eviction: &Value) -> Result<()> {
    super::check_name("Eviction", name, eviction)?;
    if eviction.flag(BREAKING) {
        let why = "can not be set for pod eviction, try after removing the option";
        let errors = vec![FieldError::invalid(BREAKING, true, why)];
        return Err(ApiError::invalid("Eviction", "policy", name, &errors));
    }
    Ok(())
}

fn is_dry_run(call: &Call, eviction: &Value) -> Result<bool> {
    dry_run(
        call.query.dry_run("CreateOptions")?,
        eviction.list("deleteOptions.dryRun"),
    )
}

/// Whether nothing is to be done, as the request has it or what it carries, which says so by saying anything; they are not to say
/// different things (upstream's `propagateDryRun`).
fn dry_run(asked: bool, said: &[Value]) -> Result<bool> {
    let said: Vec<&str> = said.iter().filter_map(Value::as_str).collect();
    if asked && !said.is_empty() && said != ["All"] {
        return Err(ApiError::other_dry_run(&said));
    }
    Ok(asked || !said.is_empty())
}

/// Deletes the Pod, if it may go. What that rests on must hold when it goes: a Pod that became ready is judged anew.
async fn evict(call: &Call, name: &str, eviction: &Value) -> Result<()> {
    let unconditional = !eviction.has("deleteOptions.preconditions.resourceVersion");
    let mut tries = 0;
    loop {
        let pod = call.api.read(&call.target, name).await?;
        let pod = render::value(&call.target.kind, pod.as_ref())?;
        let leave = leave(call, &pod, eviction).await?;
        let seen = (leave != Leave::Given).then(|| pod.text("metadata.resourceVersion"));
        let outcome = delete::evict(call, name, eviction, seen).await;
        let lost = outcome
            .as_ref()
            .is_err_and(|error| error.code == StatusCode::CONFLICT);
        match leave {
            Leave::Pending if lost && unconditional && tries < RETRIES => tries += 1,
            Leave::Unready(budget) if lost && unconditional => return Err(uncounted(&budget)),
            _ => return outcome,
        }
    }
}

/// Why a Pod may go.
#[derive(Debug, PartialEq, Eq)]
enum Leave {
    /// It has ended, nothing guards it, or its budget gave a disruption for it.
    Given,
    /// It has not begun.
    Pending,
    /// It is not ready, and this budget guards those that are.
    Unready(String),
}

async fn leave(call: &Call, pod: &Value, eviction: &Value) -> Result<Leave> {
    if matches!(pod.text("status.phase"), "Succeeded" | "Failed") || pod.has("metadata.deletionTimestamp") {
        return Ok(Leave::Given);
    }
    if pod.text("status.phase") == "Pending" {
        return Ok(Leave::Pending);
    }
    let Some(budget) = budget_of(call, pod)? else {
        return Ok(Leave::Given);
    };
    let name = budget.text("metadata.name");
    if spares(&budget, pod) {
        return Ok(Leave::Unready(name.to_owned()));
    }
    spend(call, pod, name, eviction).await.map(|()| Leave::Given)
}

/// Whether the Pod is none of those that the budget keeps. Pure.
fn spares(budget: &Value, pod: &Value) -> bool {
    let number = |key: &str| budget.at("status").int(key).unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let always = budget.text("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow";
    !is_ready_pod(pod) && (always || healthy >= desired && desired > 0)
}

/// The budget does not know the Pod as it is now.
fn uncounted(budget: &str) -> ApiError {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    ApiError::over_budget(cause, COUNTED_IN)
}

/// The budget that picks the Pod.
fn budget_of(call: &Call, pod: &Value) -> Result<Option<Value>> {
    let kinds = call.api.kinds.load();
    let Some(kind) = kinds.resource(BUDGETS.0, BUDGETS.1, BUDGETS.2) else {
        return Ok(None);
    };
    let namespace = call.target.namespace.as_deref().unwrap_or_default();
    let prefix = format!("{}/{namespace}/", kind.storage_prefix);
    let (objects, _) = call.api.cache.resource(kind)?.list(&prefix, None);
    let budgets = objects.iter().filter_map(|object| object.value().ok());
    let own = pod.at("metadata.labels");
    let mut mine = budgets.filter(|budget| labels::matches(budget.at("spec.selector"), own));
    match (mine.next(), mine.next()) {
        (_, Some(_)) => Err(ApiError::several_budgets()),
        (budget, None) => Ok(budget),
    }
}

/// Takes one disruption from the budget, or says why there is none.
async fn spend(call: &Call, pod: &Value, budget: &str, eviction: &Value) -> Result<()> {
    let kinds = call.api.kinds.load();
    let kind = kinds
        .resource(BUDGETS.0, BUDGETS.1, BUDGETS.2)
        .ok_or_else(ApiError::no_resource)?;
    let status_call = call.about(Target {
        kind: kind.clone(),
        namespace: call.target.namespace.clone(),
        name: Some(budget.to_owned()),
        subresource: Some("status".into()),
    });
    let options = Options {
        dry_run: is_dry_run(call, eviction)?,
        ..Options::of(&call.query, "CreateOptions")?
    };
    let change = |budget: &Value| Ok((spent(budget, pod)?, Vec::new()));
    write::update(&status_call, options, budget, &change)
        .await
        .map(drop)
}

/// The budget with one disruption less. Pure.
fn spent(budget: &Value, pod: &Value) -> Result<Value> {
    let (name, status) = (budget.text("metadata.name"), budget.at("status"));
    let number = |key: &str| status.int(key).unwrap_or(0);
    if number("observedGeneration") < budget.int("metadata.generation").unwrap_or(0) {
        return Err(uncounted(name));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        let why = "pdb disruptions allowed is negative";
        return Err(ApiError::forbidden(BUDGETS.0, FORBIDDEN, name, why));
    }
    if status
        .map("disruptedPods")
        .is_some_and(|pods| pods.len() > UNCONFIRMED)
    {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(BUDGETS.0, FORBIDDEN, name, why));
    }
    if allowed == 0 {
        return Err(ApiError::over_budget(exhausted(budget), 0));
    }
    let mut budget = budget.clone();
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod.text("metadata.name")] = time::now().into();
    if allowed == 1 {
        let spent = json!({"type": ALLOWED, "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": number("observedGeneration"), "lastTransitionTime": time::now()});
        condition::set(&mut budget, spent);
    }
    Ok(budget)
}

/// Why a budget has no disruption left. Of one that could not be counted the numbers mean nothing.
fn exhausted(budget: &Value) -> String {
    let (name, status) = (budget.text("metadata.name"), budget.at("status"));
    let number = |key: &str| status.int(key).unwrap_or(0);
    let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let mut conditions = status.list("conditions").iter();
    let told = conditions.find(|c| c.text("type") == ALLOWED && c.text("status") == "False");
    let told = told.map(|c| (c.text("reason"), c.text("message")));
    match told.filter(|(_, message)| !message.is_empty()) {
        Some(("SyncFailed", why)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {why}"
            )
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, why)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {why}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p"}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {}, "status": {
            "observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 2}})
    }

    #[test]
    fn a_dry_run_is_said_in_the_request_or_in_what_it_carries() {
        for (asked, said, want) in [
            (false, json!([]), Ok(false)),
            (true, json!([]), Ok(true)),
            (false, json!(["All"]), Ok(true)),
            // Whoever says something does not mean that all be done; what it is has yet to be judged.
            (false, json!(["Some"]), Ok(true)),
            (true, json!(["All"]), Ok(true)),
            (
                true,
                json!(["All", "Some"]),
                Err("Non-matching dry-run options in request and content: [All] and [All Some]"),
            ),
        ] {
            let is = dry_run(asked, said.as_array().unwrap());
            assert_eq!(
                is.as_ref().map_err(ApiError::message),
                want.as_ref().map_err(|why| *why),
                "{said}"
            );
        }
    }

    #[test]
    fn a_disruption_is_spent_once() {
        let after = spent(&budget(1), &pod("True")).expect("allowed");
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert_eq!(after["status"]["conditions"][0]["reason"], "InsufficientPods");
        assert!(after["status"]["disruptedPods"]["p"].is_string());
        assert_eq!(spent(&after, &pod("True")).expect_err("none left").code, 429);
    }

    #[test]
    fn an_unhealthy_pod_costs_nothing_while_the_others_suffice() {
        assert!(spares(&budget(0), &pod("False")) && !spares(&budget(0), &pod("True")));
        let mut short = budget(0);
        short["status"]["currentHealthy"] = 1.into();
        assert!(!spares(&short, &pod("False")));
        assert_eq!(spent(&short, &pod("False")).expect_err("too few").code, 429);
        short["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        assert!(spares(&short, &pod("False")));
    }

    #[test]
    fn a_budget_without_disruptions_says_why() {
        let told = |healthy: i64, condition: Value| {
            let mut budget = budget(0);
            budget["status"]["currentHealthy"] = healthy.into();
            budget["status"]["conditions"] = json!([condition]);
            exhausted(&budget)
        };
        let condition = |reason: &str, message: &str| json!({"type": ALLOWED, "status": "False", "reason": reason, "message": message});
        for (healthy, condition, want) in [
            (
                2,
                condition("InsufficientPods", ""),
                "needs 2 healthy pods and has 2 currently",
            ),
            (
                2,
                condition("SyncFailed", "no controllers"),
                "does not allow evicting pods currently because it failed sync: no controllers",
            ),
            (
                2,
                condition("Other", "why"),
                "needs 2 healthy pods and has 2 currently",
            ),
            (
                3,
                condition("Other", "why"),
                "does not allow evicting pods currently (Other): why",
            ),
            (3, Value::Null, "does not allow evicting pods currently"),
        ] {
            assert_eq!(
                told(healthy, condition),
                format!("The disruption budget b {want}")
            );
        }
    }

    #[test]
    fn a_budget_that_was_not_counted_yet_allows_nothing() {
        let mut new = budget(5);
        new["status"]["observedGeneration"] = 0.into();
        assert_eq!(spent(&new, &pod("True")).expect_err("unknown").code, 429);
    }
}

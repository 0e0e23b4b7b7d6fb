//! One look at one autoscaler: reads, decides, writes, and says so.
use std::cmp::Ordering;
use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde_json::Value;
use tokio::time::Instant;

use super::Controller;
use super::ask::{get, query};
use super::history::History;
use super::limits::{self, Wish};
use super::metric::{Proposal, Refusal, propose};
use super::readings::Meter;
use super::replicas::{Tolerances, Workload};
use super::status::{ABLE_TO_SCALE, SCALING_ACTIVE, SCALING_LIMITED, set};
use super::target::Target;
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;
use crate::toolkit::lock::lock;
use crate::toolkit::{ObjectKey, Objects, patch};

/// How far from what is aimed at nothing is done, unless the autoscaler says otherwise
/// (upstream's `--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;

pub struct Round<'a> {
    controller: &'a Controller,
    key: &'a ObjectKey,
    autoscaler: &'a HorizontalPodAutoscaler,
    spec: HorizontalPodAutoscalerSpec,
    status: HorizontalPodAutoscalerStatus,
}

/// What was decided.
#[derive(Default)]
struct Decision {
    replicas: i32,
    /// Why, if it is another number.
    reason: String,
    metrics: Option<Vec<MetricStatus>>,
    /// What of the metrics could not be told, though others could.
    lacking: Option<String>,
}

/// What the metrics come to.
struct Computed {
    best: Proposal,
    metrics: Vec<MetricStatus>,
    lacking: Option<String>,
}

impl<'a> Round<'a> {
    pub fn new(
        controller: &'a Controller,
        key: &'a ObjectKey,
        autoscaler: &'a HorizontalPodAutoscaler,
    ) -> Self {
        Self {
            controller,
            key,
            autoscaler,
            spec: autoscaler.spec.clone(),
            status: autoscaler.status.clone().unwrap_or_default(),
        }
    }

    /// The error says why the workload is not as it should be; the status says it already.
    pub async fn run(mut self) -> Result<(), String> {
        let done = self.scale().await;
        self.write_status().await?;
        done
    }

    async fn scale(&mut self) -> Result<(), String> {
        let mut target = self.target().await?;
        let current = target.wanted();
        let now = Instant::now();
        let begun = || History::new(current, now);
        lock(&self.controller.histories)
            .entry(self.key.clone())
            .or_insert_with(begun);
        let min = self.spec.min_replicas.unwrap_or(1);
        let decision = match current {
            0 => {
                let why = "scaling is disabled since the replica count of the target is zero";
                set(&mut self.status, SCALING_ACTIVE, false, "ScalingDisabled", why);
                Decision::default()
            }
            _ if current > self.spec.max_replicas => Decision {
                replicas: self.spec.max_replicas,
                reason: "Current number of replicas above Spec.MaxReplicas".into(),
                ..Decision::default()
            },
            _ if current < min => Decision {
                replicas: min,
                reason: "Current number of replicas below Spec.MinReplicas".into(),
                ..Decision::default()
            },
            _ => self.by_metrics(&target, min).await?,
        };
        self.carry_out(&mut target, decision).await
    }

    async fn target(&mut self) -> Result<Target, String> {
        let (client, catalog) = (self.client(), &self.controller.context.catalog);
        let reference = &self.spec.scale_target_ref;
        let read = Target::read(client, catalog, &self.key.namespace, reference).await;
        let read = read.inspect_err(|why| {
            self.warn("FailedGetScale", why);
            let message = format!("the HPA controller was unable to get the target's current scale: {why}");
            set(&mut self.status, ABLE_TO_SCALE, false, "FailedGetScale", message);
        })?;
        let message = "the HPA controller was able to get the target's current scale";
        set(
            &mut self.status,
            ABLE_TO_SCALE,
            true,
            "SucceededGetScale",
            message,
        );
        Ok(read)
    }

    /// The number the metrics come to, within its limits.
    async fn by_metrics(&mut self, target: &Target, min: i32) -> Result<Decision, String> {
        let current = target.wanted();
        let computed = match self.compute(target).await {
            Ok(computed) => computed,
            Err((metrics, why)) => {
                self.count(current, self.status.desired_replicas, metrics);
                self.warn("FailedComputeMetricsReplicas", &why);
                return Err(why);
            }
        };
        let message = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            computed.best.name
        );
        set(
            &mut self.status,
            SCALING_ACTIVE,
            true,
            "ValidMetricFound",
            message,
        );
        let desired = computed.best.replicas;
        let reason = match desired.cmp(&current) {
            Ordering::Greater => format!("{} above target", computed.best.name),
            Ordering::Less => "All metrics below target".into(),
            Ordering::Equal => String::new(),
        };
        let wish = Wish {
            current,
            desired,
            min,
            max: self.spec.max_replicas,
        };
        Ok(Decision {
            replicas: self.grant(wish),
            reason,
            metrics: Some(computed.metrics),
            lacking: computed.lacking,
        })
    }

    fn grant(&mut self, wish: Wish) -> i32 {
        let now = Instant::now();
        let grant = {
            let mut histories = lock(&self.controller.histories);
            let history = histories
                .entry(self.key.clone())
                .or_insert_with(|| History::new(wish.current, now));
            limits::grant(wish, self.spec.behavior.as_ref(), history, now)
        };
        let ((able, why), (limited, (limit, told))) = (grant.able, grant.limited);
        set(&mut self.status, ABLE_TO_SCALE, true, able, why);
        set(&mut self.status, SCALING_LIMITED, limited, limit, told);
        grant.replicas
    }

    /// What the metrics come to. The error comes with what of them could be told.
    async fn compute(&mut self, target: &Target) -> Result<Computed, (Option<Vec<MetricStatus>>, String)> {
        let pods = self.pods(target.selector()).await.map_err(|why| (None, why))?;
        let workload = Workload {
            pods: &pods,
            wanted: target.wanted(),
            present: target.present(),
            tolerances: self.tolerances(),
            now: Timestamp::now(),
        };
        let all = self.propose(target.selector(), &workload).await;
        sum_up(all, target.wanted()).map_err(|(metrics, first, why)| {
            if let Some(Refusal { reason, cause, .. }) = first {
                let message = format!("the HPA was unable to compute the replica count: {cause}");
                set(&mut self.status, SCALING_ACTIVE, false, reason, message);
            }
            (Some(metrics), why)
        })
    }

    /// What each metric comes to; those that come to nothing are told of.
    async fn propose(&self, selector: &str, workload: &Workload<'_>) -> Vec<Result<Proposal, Refusal>> {
        let namespace = self.key.namespace.as_str();
        let meter = Meter {
            client: self.client(),
            catalog: &self.controller.context.catalog,
            namespace,
            selector,
        };
        let mut all = Vec::new();
        for metric in self.spec.metrics.iter().flatten() {
            let found = propose(metric, meter.read(metric).await, workload, namespace);
            all.push(found.inspect_err(|refusal| self.warn(refusal.reason, &refusal.cause)));
        }
        all
    }

    /// The Pods of the target, which must be nobody else's.
    async fn pods(&mut self, selector: &str) -> Result<Vec<Value>, String> {
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            set(
                &mut self.status,
                SCALING_ACTIVE,
                false,
                "InvalidSelector",
                message,
            );
            self.warn("SelectorRequired", "selector is required");
            return Err("selector is required".into());
        }
        let query = query(&[("labelSelector", selector)]);
        let path = format!("/api/v1/namespaces/{}/pods{query}", self.key.namespace);
        let list = get(self.client(), &path)
            .await
            .map_err(|failure| match failure.code {
                400 => {
                    let why = failure.message;
                    let said = "couldn't convert selector into a corresponding internal selector object";
                    self.inactive("InvalidSelector", format!("{said}: {why}"))
                }
                _ => failure.message,
            })?;
        let pods = list.list("items").to_vec();
        let names: BTreeSet<String> = pods
            .iter()
            .map(|pod| pod.text("metadata.name").to_owned())
            .collect();
        match self.controller.claimants(self.key, names).as_slice() {
            [_] => Ok(pods),
            many => {
                let many: Vec<String> = many
                    .iter()
                    .map(|key| format!("{{{} {}}}", key.name, key.namespace))
                    .collect();
                let (what, whose) = ("pods by selector", "are controlled by multiple HPAs");
                let why = format!("{what} {selector} {whose}: [{}]", many.join(" "));
                Err(self.inactive("AmbiguousSelector", why))
            }
        }
    }

    /// Says why nothing can be computed.
    fn inactive(&mut self, reason: &str, why: String) -> String {
        self.warn(reason, &why);
        set(&mut self.status, SCALING_ACTIVE, false, reason, why.clone());
        why
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.spec.behavior.as_ref();
        let said = |quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
            let amount = quantity.and_then(|quantity| Quantity::parse(&quantity.0).ok());
            amount.map_or(TOLERANCE, |amount| amount.nanos() as f64 / 1e9)
        };
        Tolerances {
            down: said(behavior.and_then(|b| b.scale_down.as_ref()?.tolerance.as_ref())),
            up: said(behavior.and_then(|b| b.scale_up.as_ref()?.tolerance.as_ref())),
        }
    }

    async fn carry_out(&mut self, target: &mut Target, decision: Decision) -> Result<(), String> {
        let (current, desired) = (target.wanted(), decision.replicas);
        if desired == current {
            self.count(current, current, decision.metrics);
            return decision.lacking.map_or(Ok(()), Err);
        }
        if let Err(why) = target.scale_to(self.client(), desired).await {
            let told = format!("New size: {desired}; reason: {}; error: {why}", decision.reason);
            self.warn("FailedRescale", &told);
            let message = format!("the HPA controller was unable to update the target scale: {why}");
            set(
                &mut self.status,
                ABLE_TO_SCALE,
                false,
                "FailedUpdateScale",
                message,
            );
            self.count(current, self.status.desired_replicas, decision.metrics);
            return Err(why);
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        set(&mut self.status, ABLE_TO_SCALE, true, "SucceededRescale", message);
        let told = format!("New size: {desired}; reason: {}", decision.reason);
        self.controller
            .recorder
            .normal(self.autoscaler, "SuccessfulRescale", told);
        self.remember(current, desired);
        self.count(current, desired, decision.metrics);
        self.status.last_scale_time = Some(Time(Timestamp::now()));
        decision.lacking.map_or(Ok(()), Err)
    }

    /// Notes what was done, for the policies that limit how fast it goes on.
    fn remember(&self, from: i32, to: i32) {
        let mut histories = lock(&self.controller.histories);
        if let (Some(behavior), Some(history)) = (&self.spec.behavior, histories.get_mut(self.key)) {
            history.changed(from, to, limits::longest_period(behavior), Instant::now());
        }
    }

    fn count(&mut self, current: i32, desired: i32, metrics: Option<Vec<MetricStatus>>) {
        self.status.current_replicas = (current != 0).then_some(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = metrics;
    }

    async fn write_status(&self) -> Result<(), String> {
        let before = self.autoscaler.status.clone().unwrap_or_default();
        let meta = &self.autoscaler.metadata;
        let Some(body) = patch::versioned(meta, "status", &before, &self.status) else {
            return Ok(());
        };
        let api: Objects<HorizontalPodAutoscaler> = Objects::in_namespace(self.client(), &self.key.namespace);
        let written = api.merge_status(&self.key.name, body).await;
        written.map(drop).map_err(|error| {
            let why = crate::toolkit::StepError::new("write the status", error).message();
            self.warn("FailedUpdateStatus", &why);
            why
        })
    }

    fn warn(&self, reason: &str, why: &str) {
        self.controller.recorder.warning(self.autoscaler, reason, why);
    }

    fn client(&self) -> &'a Client {
        &self.controller.context.client
    }
}

/// What could be told of the metrics, the first that could not, and why nothing is done.
type Unknown = (Vec<MetricStatus>, Option<Refusal>, String);

/// The greatest number that a metric comes to. None when that would be fewer Pods, and a metric could not be told.
fn sum_up(all: Vec<Result<Proposal, Refusal>>, wanted: i32) -> Result<Computed, Unknown> {
    let (mut metrics, count) = (Vec::new(), all.len());
    let (mut best, mut refused): (Option<Proposal>, Vec<Refusal>) = (None, Vec::new());
    for found in all {
        metrics.push(
            found
                .as_ref()
                .map_or_else(|_| MetricStatus::default(), |p| p.status.clone()),
        );
        match found {
            Ok(proposal) => {
                let greatest = best.as_ref().map_or(0, |best| best.replicas);
                if greatest == 0 || proposal.replicas > greatest {
                    best = Some(proposal);
                }
            }
            Err(refusal) => refused.push(refusal),
        }
    }
    let invalid = refused.len();
    let lacking = refused.first().map(|first| {
        let whole = &first.whole;
        format!("invalid metrics ({invalid} invalid out of {count}), first error is: {whole}")
    });
    match best.filter(|best| invalid == 0 || best.replicas >= wanted) {
        Some(best) => Ok(Computed {
            best,
            metrics,
            lacking,
        }),
        None => {
            let why = lacking.unwrap_or_else(|| "there are no metrics".into());
            Err((metrics, refused.into_iter().next(), why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_number_counts_unless_one_is_unknown_and_it_would_be_fewer() {
        let number = |replicas: i32| {
            Ok(Proposal {
                replicas,
                name: replicas.to_string(),
                status: MetricStatus::default(),
            })
        };
        let unknown = || {
            Err(Refusal {
                reason: "R",
                cause: "c".into(),
                whole: "w".into(),
            })
        };
        let lacking = |text: &str| Some(format!("invalid metrics ({text}), first error is: w"));
        for (what, all, expected) in [
            (
                "the greatest",
                vec![number(2), number(5), number(3)],
                Ok(("5", None)),
            ),
            ("fewer", vec![number(2), number(1)], Ok(("2", None))),
            (
                "more than is known",
                vec![unknown(), number(5)],
                Ok(("5", lacking("1 invalid out of 2"))),
            ),
            (
                "none at all",
                vec![unknown(), unknown()],
                Err(lacking("2 invalid out of 2")),
            ),
            (
                "fewer, as far as is known",
                vec![number(2), unknown()],
                Err(lacking("1 invalid out of 2")),
            ),
        ] {
            let found = sum_up(all, 3);
            let found = match &found {
                Ok(computed) => Ok((computed.best.name.as_str(), computed.lacking.clone())),
                Err((_, _, why)) => Err(Some(why.clone())),
            };
            assert_eq!(found, expected, "{what}");
        }
    }
}

//! Probes of a Pod's running containers: which run, and what they say. Joins `probes` to a worker; refuses to
//! know what follows from a failure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use super::context::Context;
use super::observed::Health;
use super::record::Record;
use super::status::container_id;
use super::view::PodView;
use crate::events::{Recorder, Severity};
use crate::metrics::{ProbeCounts, ProbeKey};
use crate::probes::{self, Exec, ProbeEvent, ProbeSink, Probing, Target};

/// The probes of one Pod.
pub struct Probes {
    running: BTreeMap<String, Probing>,
    /// Something was found out.
    pub changed: Arc<Notify>,
    ctx: Arc<Context>,
}

impl Probes {
    pub fn new(ctx: Arc<Context>) -> Self {
        Probes {
            running: BTreeMap::new(),
            changed: Arc::new(Notify::new()),
            ctx,
        }
    }

    /// Starts probing a running attempt; answers what is known of it at once.
    pub fn start(&mut self, pod: &Arc<Pod>, record: &Record, ip: Option<IpAddr>) -> Option<Health> {
        let view = PodView::new(pod)?;
        let (container, _) = view.container(&record.container)?;
        let target = Target {
            container: container.into_owned(),
            container_id: container_id(record),
            pod_ip: ip.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            started_at: record.started_at()?,
            exec: self.ctx.target(view, record).map(|target| Exec {
                execs: self.ctx.execs.clone(),
                target,
            }),
            before: before(view, record),
        };
        let sink = Sink {
            pod: pod.clone(),
            recorder: self.ctx.recorder.clone(),
            changed: self.changed.clone(),
            counts: self.ctx.probe_counts.clone(),
        };
        let probing = Probing::start(target, Arc::new(sink));
        let health = of(&probing);
        self.running.insert(record.container.clone(), probing);
        Some(health)
    }

    /// What was counted of the container goes when it never runs again, else with the Pod.
    pub fn stop(&mut self, pod: PodView<'_>, container: &str) {
        self.running.remove(container);
        if pod.spec.restart_policy.as_deref() == Some("Never") {
            self.ctx.probe_counts.forget(pod.uid(), Some(container));
        }
    }

    /// What is known of every probed container.
    pub fn results(&self) -> impl Iterator<Item = (&str, Health)> {
        self.running
            .iter()
            .map(|(name, probing)| (name.as_str(), of(probing)))
    }

    /// Only readiness matters from now on.
    pub fn pod_is_terminating(&self) {
        self.running.values().for_each(Probing::pod_is_terminating);
    }
}

fn of(probing: &Probing) -> Health {
    let found = probing.health();
    Health {
        ready: found.ready,
        started: found.started,
        failed: found.failed.map(probes::Kind::name),
    }
}

/// What the API says of the very attempt: an agent that returns does not make a ready container unready.
fn before(pod: PodView<'_>, record: &Record) -> Option<probes::Health> {
    let status = pod.pod.status.as_ref()?;
    let id = container_id(record);
    let all = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten();
    let found = all
        .into_iter()
        .find(|c| c.container_id.as_deref() == Some(id.as_str()))?;
    found.state.as_ref().and_then(|s| s.running.as_ref())?;
    Some(probes::Health {
        ready: found.ready,
        started: found.started == Some(true),
        failed: None,
    })
}

struct Sink {
    pod: Arc<Pod>,
    recorder: Recorder,
    changed: Arc<Notify>,
    counts: ProbeCounts,
}

impl ProbeSink for Sink {
    fn health(&self, container_id: &str, health: probes::Health) {
        tracing::debug!(container_id, ?health, "health changed");
        self.changed.notify_one();
    }

    fn probed(&self, container: &str, probe: &'static str, result: &'static str, took: Duration) {
        if let Some(view) = PodView::new(&self.pod) {
            let key = ProbeKey {
                pod_uid: view.uid().to_owned(),
                container: container.to_owned(),
                namespace: view.namespace().to_owned(),
                pod: view.name().to_owned(),
                probe,
                result,
            };
            self.counts.count(key, took);
        }
    }

    fn event(&self, container: &str, event: ProbeEvent) {
        if let Some(view) = PodView::new(&self.pod) {
            self.recorder
                .container(view, container, Severity::Warning, event.reason, event.message);
        }
    }
}

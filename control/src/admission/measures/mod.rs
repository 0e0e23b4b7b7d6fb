//! How long admission takes, under upstream's names (`apiserver_admission_…`): its two steps, each plugin, each webhook; and what
//! policies find amiss.
//!
//! Steps and plugins are counted in atomics that are there from the start, with one look at the clock for each, since every
//! write goes through a dozen of them. A plugin is counted where it is run, which is where it has to do with the resource;
//! upstream counts those too that look away.
mod policies;
mod webhooks;

use super::{Action, Denial};
use crate::measures::{Exposition, Histogram, Labels, Scale};
pub(super) use policies::{Amiss, Checks};
use std::time::{Duration, Instant};
pub(super) use webhooks::{Called, Said, Webhooks};

/// Upstream's buckets of steps and plugins, in microseconds.
static BUCKETS: [u64; 6] = [5_000, 25_000, 100_000, 500_000, 1_000_000, 2_500_000];

/// What admission is made of, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    TaintNodesByCondition,
    PodSecurity,
    Priority,
    DefaultTolerationSeconds,
    DefaultStorageClass,
    StorageObjectInUseProtection,
    PersistentVolumeClaimResize,
    RuntimeClass,
    DefaultIngressClass,
    PodTopologyLabels,
    PodResizeValidator,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
    ResourceQuota,
}

impl Plugin {
    const ALL: [Plugin; 19] = [
        Plugin::NamespaceLifecycle,
        Plugin::LimitRanger,
        Plugin::ServiceAccount,
        Plugin::TaintNodesByCondition,
        Plugin::PodSecurity,
        Plugin::Priority,
        Plugin::DefaultTolerationSeconds,
        Plugin::DefaultStorageClass,
        Plugin::StorageObjectInUseProtection,
        Plugin::PersistentVolumeClaimResize,
        Plugin::RuntimeClass,
        Plugin::DefaultIngressClass,
        Plugin::PodTopologyLabels,
        Plugin::PodResizeValidator,
        Plugin::MutatingAdmissionPolicy,
        Plugin::MutatingAdmissionWebhook,
        Plugin::ValidatingAdmissionPolicy,
        Plugin::ValidatingAdmissionWebhook,
        Plugin::ResourceQuota,
    ];
}

/// The two halves of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Admit,
    Validate,
}

impl Step {
    const ALL: [Step; 2] = [Step::Admit, Step::Validate];

    fn word(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }
}

/// As [`Action::word`] has them.
const OPERATIONS: [&str; 4] = ["CREATE", "UPDATE", "DELETE", "CONNECT"];

/// Where an operation is in [`OPERATIONS`].
fn place(action: Action<'_>) -> usize {
    match action {
        Action::Create | Action::Post { .. } => 0,
        Action::Update { .. } => 1,
        Action::Delete { .. } => 2,
        Action::Connect { .. } => 3,
    }
}

/// How long one thing took, by step, by operation, and by whether it said no.
struct Timings([[[Histogram<{ BUCKETS.len() }>; 2]; OPERATIONS.len()]; 2]);

impl Timings {
    const fn new() -> Self {
        Timings(
            [const { [const { [const { Histogram::new(Scale::Microseconds, &BUCKETS) }; 2] }; OPERATIONS.len()] };
                2],
        )
    }

    fn observe(&self, (step, operation): (Step, usize), rejected: bool, took: Duration) {
        self.0[step as usize][operation][usize::from(rejected)].observe(took);
    }

    fn write(&self, name: &str, more: &[(&'static str, String)], out: &mut Exposition) {
        for step in Step::ALL {
            for (operation, outcomes) in OPERATIONS.iter().zip(&self.0[step as usize]) {
                for (rejected, timing) in [("false", &outcomes[0]), ("true", &outcomes[1])] {
                    let mut labels: Labels = more.to_vec();
                    labels.push(("operation", (*operation).to_owned()));
                    labels.push(("rejected", rejected.to_owned()));
                    labels.push(("type", step.word().to_owned()));
                    timing.write(name, &labels, out);
                }
            }
        }
    }
}

/// The numbers of one cluster's admission.
pub(super) struct Measures {
    steps: Timings,
    /// In the order of [`Plugin::ALL`].
    plugins: Vec<Timings>,
    pub webhooks: Webhooks,
    pub checks: Checks,
}

impl Default for Measures {
    fn default() -> Self {
        Measures {
            steps: Timings::new(),
            plugins: Plugin::ALL.iter().map(|_| Timings::new()).collect(),
            webhooks: Webhooks::default(),
            checks: Checks::default(),
        }
    }
}

impl Measures {
    /// A request begins a step.
    pub fn begin(&self, step: Step, action: Action<'_>) -> Run<'_> {
        let begun = Instant::now();
        Run {
            measures: self,
            of: (step, place(action)),
            begun,
            lap: begun,
        }
    }

    pub fn write(&self, out: &mut Exposition) {
        let name = "apiserver_admission_step_admission_duration_seconds";
        let help = "How long all of admission took, by operation and step.";
        out.begin(name, "histogram", help);
        self.steps.write(name, &[], out);
        let name = "apiserver_admission_controller_admission_duration_seconds";
        let help = "How long a part of admission took, by its name, operation and step.";
        out.begin(name, "histogram", help);
        for (plugin, timings) in Plugin::ALL.iter().zip(&self.plugins) {
            timings.write(name, &[("name", format!("{plugin:?}"))], out);
        }
        self.webhooks.write(out);
        self.checks.write(out);
    }
}

/// One step of one request. What is not ended, since nobody waits for it any more, is not counted.
pub(super) struct Run<'m> {
    measures: &'m Measures,
    of: (Step, usize),
    begun: Instant,
    /// When the part before ended.
    lap: Instant,
}

impl Run<'_> {
    /// A part has just come to this.
    pub fn part<T>(&mut self, plugin: Plugin, done: Result<T, Denial>) -> Result<T, Denial> {
        self.observe(plugin, done.is_err());
        done
    }

    /// A part that never says no has just done its work.
    pub fn did(&mut self, plugin: Plugin) {
        self.observe(plugin, false);
    }

    fn observe(&mut self, plugin: Plugin, rejected: bool) {
        let now = Instant::now();
        let took = now.duration_since(std::mem::replace(&mut self.lap, now));
        self.measures.plugins[plugin as usize].observe(self.of, rejected, took);
    }

    /// The step has come to this.
    pub fn end<T>(self, done: Result<T, Denial>) -> Result<T, Denial> {
        let steps = &self.measures.steps;
        steps.observe(self.of, done.is_err(), self.begun.elapsed());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plugin_has_its_place() {
        for (place, plugin) in Plugin::ALL.iter().enumerate() {
            assert_eq!(*plugin as usize, place, "{plugin:?}");
        }
    }

    #[test]
    fn steps_and_their_parts_are_counted_by_what_they_came_to() {
        let (measures, old) = (Measures::default(), serde_json::Value::Null);
        let mut run = measures.begin(Step::Admit, Action::Create);
        run.did(Plugin::LimitRanger);
        let denied: Result<(), Denial> = run.part(Plugin::Priority, Err(Denial::Forbidden(String::new())));
        assert!(run.end(denied).is_err());
        assert!(
            measures
                .begin(Step::Validate, Action::Update { old: &old })
                .end(Ok(()))
                .is_ok()
        );
        let _abandoned = measures.begin(Step::Admit, Action::Create);
        let mut out = Exposition::default();
        measures.write(&mut out);
        let text = out.finish();
        let controller = "apiserver_admission_controller_admission_duration_seconds_count";
        let step = "apiserver_admission_step_admission_duration_seconds_count";
        let mut found: Vec<&str> = text.lines().filter(|line| line.contains("_count{")).collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                format!(
                    "{controller}{{name=\"LimitRanger\",operation=\"CREATE\",rejected=\"false\",type=\"admit\"}} 1"
                ),
                format!(
                    "{controller}{{name=\"Priority\",operation=\"CREATE\",rejected=\"true\",type=\"admit\"}} 1"
                ),
                format!("{step}{{operation=\"CREATE\",rejected=\"true\",type=\"admit\"}} 1"),
                format!("{step}{{operation=\"UPDATE\",rejected=\"false\",type=\"validate\"}} 1"),
            ]
        );
    }
}

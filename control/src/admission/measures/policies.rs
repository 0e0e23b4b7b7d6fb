//! What ValidatingAdmissionPolicies found amiss, and how long it took to find: by policy and binding, of which an administrator
//! decides how many there are. What is as it should be is not counted, as upstream does not.
use crate::kinds::policy::Compiled;
use crate::measures::{Exposition, Histogram, Labels, Named, Scale};
use std::time::Duration;

/// Upstream's buckets, in nanoseconds.
static BUCKETS: [u64; 5] = [500, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Why an expression did not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Amiss {
    Uncompiled,
    /// All of them together.
    TooCostly,
    /// It is false, too.
    Otherwise,
}

impl Amiss {
    /// Of an expression that has no value.
    pub fn of(program: &Compiled) -> Amiss {
        match program.is_err() {
            true => Amiss::Uncompiled,
            false => Amiss::Otherwise,
        }
    }

    /// Upstream's word, which it has for what is merely false as well.
    fn word(self) -> &'static str {
        match self {
            Amiss::Uncompiled => "compile_error",
            Amiss::TooCostly => "out_of_budget",
            Amiss::Otherwise => "invalid_error",
        }
    }
}

#[derive(Debug)]
struct Timing(Histogram<{ BUCKETS.len() }>);

impl Default for Timing {
    fn default() -> Self {
        Timing(Histogram::new(Scale::Nanoseconds, &BUCKETS))
    }
}

#[derive(Debug, Default)]
pub(in super::super) struct Checks(Named<Labels, Timing>);

impl Checks {
    /// Something was found amiss by a policy with a binding, and this was done: `deny`, `warn`, `audit`, or `allow`.
    pub fn observe(&self, (policy, binding): (&str, &str), (amiss, took): (Amiss, Duration), done: &str) {
        let labels = vec![
            ("enforcement_action", done.to_owned()),
            ("error_type", amiss.word().to_owned()),
            ("policy", policy.to_owned()),
            ("policy_binding", binding.to_owned()),
        ];
        if let Some(timing) = self.0.of(labels) {
            timing.0.observe(took);
        }
    }

    pub fn write(&self, out: &mut Exposition) {
        let all = self.0.all();
        let name = "apiserver_validating_admission_policy_check_total";
        let help = "What policies found amiss, by what was done then.";
        out.begin(name, "counter", help);
        for (labels, timing) in &all {
            out.sample(name, labels, timing.0.count());
        }
        let name = "apiserver_validating_admission_policy_check_duration_seconds";
        let help = "How long expressions took that found something amiss.";
        out.begin(name, "histogram", help);
        for (labels, timing) in &all {
            timing.0.write(name, labels, out);
        }
    }
}

//! How long webhooks take, and what they come to, by their names: an administrator's, so that there are no more series than
//! such names.
use super::super::Denial;
use crate::measures::{Exposition, Histogram, Labels, Named, Scale};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upstream's buckets, in microseconds.
static BUCKETS: [u64; 8] = [
    5_000, 25_000, 100_000, 500_000, 1_000_000, 2_500_000, 10_000_000, 25_000_000,
];
/// Codes above are told as this one.
const HIGHEST: u16 = 600;

/// Which webhook was called, and for what.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Called<'h> {
    pub name: &'h str,
    pub mutates: bool,
    pub operation: &'static str,
}

impl Called<'_> {
    /// Upstream's word for the kind of webhook.
    fn kind(&self) -> &'static str {
        if self.mutates { "admit" } else { "validating" }
    }

    fn labels(&self) -> Labels {
        vec![
            ("name", self.name.to_owned()),
            ("operation", self.operation.to_owned()),
            ("type", self.kind().to_owned()),
        ]
    }
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Said {
    Yes,
    No {
        code: u16,
    },
    /// It could not be asked, or did not make sense; `open` where its policy is to be passed over then.
    Nothing {
        code: u16,
        open: bool,
    },
    /// What it said could not be done.
    Impossible,
}

impl Said {
    pub fn refusing(denial: &Denial) -> Said {
        match denial {
            Denial::Refused { code, .. } => Said::No { code: *code },
            _ => Said::Impossible,
        }
    }

    fn code(self) -> u16 {
        match self {
            Said::Yes => 200,
            Said::No { code } | Said::Nothing { code, .. } => code.min(HIGHEST),
            Said::Impossible => 0,
        }
    }

    /// Upstream's word for why a request was refused by it; none where it was not.
    fn rejection(self) -> Option<&'static str> {
        match self {
            Said::Yes | Said::Nothing { open: true, .. } => None,
            Said::No { .. } => Some("no_error"),
            Said::Nothing { open: false, .. } => Some("calling_webhook_error"),
            Said::Impossible => Some("apiserver_internal_error"),
        }
    }
}

/// How long it took, by whether the request was refused.
#[derive(Debug)]
struct Timing(Histogram<{ BUCKETS.len() }>);

impl Default for Timing {
    fn default() -> Self {
        Timing(Histogram::new(Scale::Microseconds, &BUCKETS))
    }
}

#[derive(Debug, Default)]
pub(in super::super) struct Webhooks {
    durations: Named<Labels, Timing>,
    requests: Named<Labels, AtomicU64>,
    rejections: Named<Labels, AtomicU64>,
    failed_open: Named<Labels, AtomicU64>,
}

impl Webhooks {
    pub fn observe(&self, called: Called<'_>, said: Said, took: Duration) {
        let rejection = said.rejection();
        let mut labels = called.labels();
        labels.push(("rejected", rejection.is_some().to_string()));
        if let Some(timing) = self.durations.of(labels.clone()) {
            timing.0.observe(took);
        }
        labels.push(("code", said.code().to_string()));
        count(&self.requests, labels);
        if let Some(why) = rejection {
            let mut labels = called.labels();
            labels.push(("error_type", why.to_owned()));
            labels.push(("rejection_code", said.code().to_string()));
            count(&self.rejections, labels);
        }
        if matches!(said, Said::Nothing { open: true, .. }) {
            let labels = vec![
                ("name", called.name.to_owned()),
                ("type", called.kind().to_owned()),
            ];
            count(&self.failed_open, labels);
        }
    }

    pub fn write(&self, out: &mut Exposition) {
        let name = "apiserver_admission_webhook_admission_duration_seconds";
        out.begin(name, "histogram", "How long webhooks took.");
        for (labels, timing) in self.durations.all() {
            timing.0.write(name, &labels, out);
        }
        for (name, help, counts) in [
            (
                "apiserver_admission_webhook_request_total",
                "Requests to webhooks, by what they answered.",
                &self.requests,
            ),
            (
                "apiserver_admission_webhook_rejection_count",
                "Requests that were refused by webhooks, or for their sake.",
                &self.rejections,
            ),
            (
                "apiserver_admission_webhook_fail_open_count",
                "Webhooks that failed and were passed over.",
                &self.failed_open,
            ),
        ] {
            out.begin(name, "counter", help);
            for (labels, count) in counts.all() {
                out.sample(name, &labels, count.load(Ordering::Relaxed));
            }
        }
    }
}

fn count(counts: &Named<Labels, AtomicU64>, labels: Labels) {
    if let Some(count) = counts.of(labels) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_as_upstream_tells_them() {
        let who = "name=\"w\",operation=\"CREATE\",type=\"admit\"";
        for (said, rejected, code, more) in [
            (Said::Yes, false, 200, String::new()),
            (
                Said::No { code: 700 },
                true,
                600,
                format!("rejection_count{{{who},error_type=\"no_error\",rejection_code=\"600\"}} 1\n"),
            ),
            (
                Said::Nothing {
                    code: 503,
                    open: false,
                },
                true,
                503,
                format!(
                    "rejection_count{{{who},error_type=\"calling_webhook_error\",rejection_code=\"503\"}} 1\n"
                ),
            ),
            (
                Said::Nothing {
                    code: 503,
                    open: true,
                },
                false,
                503,
                "fail_open_count{name=\"w\",type=\"admit\"} 1\n".to_owned(),
            ),
            (
                Said::Impossible,
                true,
                0,
                format!(
                    "rejection_count{{{who},error_type=\"apiserver_internal_error\",rejection_code=\"0\"}} 1\n"
                ),
            ),
        ] {
            let webhooks = Webhooks::default();
            let called = Called {
                name: "w",
                mutates: true,
                operation: "CREATE",
            };
            webhooks.observe(called, said, Duration::from_millis(30));
            let mut out = Exposition::default();
            webhooks.write(&mut out);
            let text = out.finish();
            let timed = format!("admission_duration_seconds_count{{{who},rejected=\"{rejected}\"}} 1\n");
            let asked = format!("request_total{{{who},rejected=\"{rejected}\",code=\"{code}\"}} 1\n");
            for wanted in [timed, asked, more] {
                assert!(text.contains(&wanted), "{wanted} in {text}");
            }
            let refusals = text.matches("webhook_rejection_count{").count();
            assert_eq!(refusals, usize::from(rejected), "{text}");
        }
    }
}

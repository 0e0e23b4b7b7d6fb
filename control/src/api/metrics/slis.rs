//! `/metrics/slis`: what the checks behind `/healthz`, `/livez` and `/readyz` found (KEP-3466), under upstream's names. Checks that
//! are asked for alone are not counted, nor those that are left out.
use super::super::text;
use super::{exposed, process};
use crate::measures::Exposition;
use axum::response::Response;
use http::{Method, StatusCode};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// By the name of a check and its probe. Both are of this program, so that there are few.
#[derive(Debug, Default)]
pub(in super::super) struct Slis(Mutex<BTreeMap<(&'static str, &'static str), Found>>);

/// How often a check passed and failed, and how it went last.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    passed: u64,
    failed: u64,
    last: bool,
}

impl Slis {
    pub(in super::super) fn observe(&self, check: &'static str, probe: &'static str, passes: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.entry((check, probe)).or_default();
        found.last = passes;
        match passes {
            true => found.passed += 1,
            false => found.failed += 1,
        }
    }

    /// As upstream, which forgets what it found when it is asked to delete it.
    pub(in super::super) fn answer(&self, method: &Method) -> Response {
        if method == Method::DELETE {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
            return text(StatusCode::OK, "metrics reset\n");
        }
        let mut out = Exposition::default();
        self.write(&mut out);
        process::write_start(&mut out);
        exposed(out)
    }

    fn write(&self, out: &mut Exposition) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if all.is_empty() {
            return;
        }
        let labels =
            |(name, of): &(&str, &str)| vec![("name", (*name).to_owned()), ("type", (*of).to_owned())];
        let name = "kubernetes_healthcheck";
        out.begin(name, "gauge", "Whether a check passed when it was last made.");
        for (check, found) in &all {
            out.sample(name, &labels(check), u8::from(found.last));
        }
        let name = "kubernetes_healthchecks_total";
        out.begin(name, "counter", "How often checks passed and failed.");
        for (check, found) in &all {
            for (status, count) in [("error", found.failed), ("success", found.passed)] {
                if count > 0 {
                    let mut labels = labels(check);
                    labels.insert(1, ("status", status.to_owned()));
                    out.sample(name, &labels, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_told_by_name_and_probe() {
        let slis = Slis::default();
        for (check, probe, passes) in [
            ("ping", "livez", true),
            ("store", "livez", true),
            ("store", "livez", false),
            ("ping", "livez", true),
        ] {
            slis.observe(check, probe, passes);
        }
        let mut out = Exposition::default();
        slis.write(&mut out);
        let samples: Vec<String> = out
            .finish()
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            samples,
            [
                "kubernetes_healthcheck{name=\"ping\",type=\"livez\"} 1",
                "kubernetes_healthcheck{name=\"store\",type=\"livez\"} 0",
                "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2",
                "kubernetes_healthchecks_total{name=\"store\",status=\"error\",type=\"livez\"} 1",
                "kubernetes_healthchecks_total{name=\"store\",status=\"success\",type=\"livez\"} 1",
            ]
        );
    }
}

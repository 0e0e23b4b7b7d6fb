//! What this program is, and the servers of others that it knows.
use super::super::{Api, version};
use crate::kinds::api_service::GROUP;
use crate::kinds::view::View;
use crate::measures::{Exposition, Named};
use std::sync::atomic::{AtomicU64, Ordering};

/// How often the server behind an APIService went away, by its name and the reason.
#[derive(Debug, Default)]
pub struct Unavailable(Named<(String, &'static str), AtomicU64>);

impl Unavailable {
    pub fn count(&self, service: &str, reason: &'static str) {
        if let Some(count) = self.0.of((service.to_owned(), reason)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) fn write(api: &Api, unavailable: &Unavailable, out: &mut Exposition) {
    let name = "aggregator_unavailable_apiservice";
    out.begin(name, "gauge", "Whether the server behind an APIService is away.");
    for service in api.objects.list((GROUP, "v1", "apiservices"), None) {
        let mut conditions = service.list("status.conditions").iter();
        let is_there = conditions.any(|c| c.text("type") == "Available" && c.text("status") == "True");
        let labels = [("name", service.text("metadata.name").to_owned())];
        out.sample(name, &labels, u8::from(!is_there));
    }
    let name = "aggregator_unavailable_apiservice_total";
    out.begin(
        name,
        "counter",
        "How often the server behind an APIService went away.",
    );
    for ((service, reason), count) in unavailable.0.all() {
        let labels = [("name", service), ("reason", reason.to_owned())];
        out.sample(name, &labels, count.load(Ordering::Relaxed));
    }
    let name = "kubernetes_build_info";
    out.begin(name, "gauge", "What /version says, in labels.");
    out.sample(name, &build(), 1);
}

fn build() -> Vec<(&'static str, String)> {
    let info = version::info();
    [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ]
    .map(|(label, field)| (label, info.text(field).to_owned()))
    .to_vec()
}

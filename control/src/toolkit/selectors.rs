//! Label selectors as controllers read them.
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{Selector, SelectorExt};

/// A selector ready to match; one with an operator nobody knows selects nothing.
#[derive(Clone, Debug)]
pub struct Labels(Option<Selector>);

impl Labels {
    pub fn new(selector: &LabelSelector) -> Self {
        Self(Selector::try_from(selector.clone()).ok())
    }

    pub fn matches(&self, meta: &ObjectMeta) -> bool {
        match (&self.0, &meta.labels) {
            (None, _) => false,
            (Some(selector), Some(labels)) => selector.matches(labels),
            (Some(selector), None) => selector.matches(&BTreeMap::new()),
        }
    }

    /// Whether it would select everything: a mistake in a workload, which would then fight with all others.
    pub fn selects_all(&self) -> bool {
        self.0.as_ref().is_some_and(Selector::selects_all)
    }
}

/// Whether every pair of `selector` is among the labels of `meta` (the form Services use).
pub fn contains_all(meta: &ObjectMeta, selector: &BTreeMap<String, String>) -> bool {
    let none = BTreeMap::new();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

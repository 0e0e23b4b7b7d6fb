//! The conditions of a namespace that is being deleted, in upstream's words.
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::toolkit::StepError;
use crate::toolkit::catalog::Served;

/// What a pass over a namespace could not remove, and why.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Objects by resource, named `plural.group` as upstream prints them (`pods.`).
    counts: BTreeMap<String, usize>,
    /// Objects by finalizer.
    finalizers: BTreeMap<String, usize>,
    failures: Vec<String>,
    /// Versions of groups of which nobody knows what they hold (`bad.example.com/v1`).
    undiscovered: Vec<String>,
}

impl Leftovers {
    pub fn is_empty(&self) -> bool {
        !self.holds_any() && self.undiscovered.is_empty()
    }

    /// Whether what is known could not all be removed.
    pub fn holds_any(&self) -> bool {
        !self.counts.is_empty() || !self.failures.is_empty()
    }

    pub fn may_hide_in(&mut self, versions: Vec<String>) {
        self.undiscovered = versions;
    }

    pub fn remain<'a>(
        &mut self,
        resource: &Served,
        count: usize,
        finalizers: impl Iterator<Item = &'a [String]>,
    ) {
        if count > 0 {
            let name = format!("{}.{}", resource.resource.plural, resource.resource.group);
            *self.counts.entry(name).or_insert(0) += count;
        }
        for finalizer in finalizers.flatten() {
            *self.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
        }
    }

    pub fn failed(&mut self, error: &StepError) {
        self.failures.push(error.to_string());
    }
}

/// The conditions after a pass; what did not change keeps its time.
pub fn after(
    before: Option<&[NamespaceCondition]>,
    leftovers: &Leftovers,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let known = before.unwrap_or_default();
    judgements(leftovers)
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let old = known
                .iter()
                .find(|condition| condition.type_ == type_ && condition.status == status);
            NamespaceCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: old
                    .and_then(|old| old.last_transition_time.clone())
                    .or(Some(Time(now))),
            }
        })
        .collect()
}

type Judgement = (&'static str, &'static str, &'static str, String);

fn judgements(leftovers: &Leftovers) -> Vec<Judgement> {
    let parsed = "All legacy kube types successfully parsed";
    vec![
        discovery(leftovers),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            parsed.into(),
        ),
        content(leftovers),
        remaining(leftovers),
        finalizing(leftovers),
    ]
}

fn discovery(leftovers: &Leftovers) -> Judgement {
    let type_ = "NamespaceDeletionDiscoveryFailure";
    let failing = &leftovers.undiscovered;
    if failing.is_empty() {
        let message = "All resources successfully discovered";
        return (type_, "False", "ResourcesDiscovered", message.into());
    }
    let each = failing
        .iter()
        .map(|version| format!("{version}: stale GroupVersion discovery: {version}"));
    let message = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        failing.len(),
        each.collect::<Vec<_>>().join(", ")
    );
    (type_, "True", "DiscoveryFailed", message)
}

fn content(leftovers: &Leftovers) -> Judgement {
    let type_ = "NamespaceDeletionContentFailure";
    if leftovers.failures.is_empty() {
        let message = "All content successfully deleted, may be waiting on finalization";
        return (type_, "False", "ContentDeleted", message.into());
    }
    let message = format!(
        "Failed to delete all resource types, {} remaining: {}",
        leftovers.failures.len(),
        leftovers.failures.join(", ")
    );
    (type_, "True", "ContentDeletionFailed", message)
}

fn remaining(leftovers: &Leftovers) -> Judgement {
    let type_ = "NamespaceContentRemaining";
    if leftovers.counts.is_empty() {
        return (
            type_,
            "False",
            "ContentRemoved",
            "All content successfully removed".into(),
        );
    }
    let message = format!("Some resources are remaining: {}", list(&leftovers.counts, "has"));
    (type_, "True", "SomeResourcesRemain", message)
}

fn finalizing(leftovers: &Leftovers) -> Judgement {
    let type_ = "NamespaceFinalizersRemaining";
    if leftovers.finalizers.is_empty() {
        let message = "All content-preserving finalizers finished";
        return (type_, "False", "ContentHasNoFinalizers", message.into());
    }
    let message = format!(
        "Some content in the namespace has finalizers remaining: {}",
        list(&leftovers.finalizers, "in")
    );
    (type_, "True", "SomeFinalizersRemain", message)
}

fn list(counts: &BTreeMap<String, usize>, verb: &str) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} {verb} {count} resource instances"))
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(leftovers: &Leftovers, type_: &str) -> (String, String) {
        let conditions = after(None, leftovers, Timestamp::UNIX_EPOCH);
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == type_)
            .expect("a condition");
        (
            condition.status.clone(),
            condition.message.clone().unwrap_or_default(),
        )
    }

    #[test]
    fn what_remains_is_named_as_upstream_does() {
        let leftovers = Leftovers {
            counts: [("pods.".to_owned(), 2), ("deployments.apps".to_owned(), 1)].into(),
            finalizers: [("example.com/f".to_owned(), 2)].into(),
            ..Leftovers::default()
        };
        let remaining = "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances";
        assert_eq!(
            message(&leftovers, "NamespaceContentRemaining"),
            ("True".into(), remaining.into())
        );
        let finalizers =
            "Some content in the namespace has finalizers remaining: example.com/f in 2 resource instances";
        assert_eq!(
            message(&leftovers, "NamespaceFinalizersRemaining"),
            ("True".into(), finalizers.into())
        );
        assert_eq!(
            message(&Leftovers::default(), "NamespaceContentRemaining").0,
            "False"
        );
    }

    #[test]
    fn what_cannot_be_discovered_is_named_as_upstream_does() {
        let mut leftovers = Leftovers::default();
        leftovers.may_hide_in(vec!["a.example/v1".into(), "b.example/v2".into()]);
        let said = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
                    a.example/v1: stale GroupVersion discovery: a.example/v1, b.example/v2: stale GroupVersion discovery: b.example/v2";
        let expected = ("True".into(), said.into());
        assert_eq!(message(&leftovers, "NamespaceDeletionDiscoveryFailure"), expected);
        assert!(!leftovers.is_empty());
    }

    #[test]
    fn what_did_not_change_keeps_its_time() {
        let first = after(None, &Leftovers::default(), Timestamp::UNIX_EPOCH);
        let later = after(Some(&first), &Leftovers::default(), Timestamp::MAX);
        assert_eq!(first, later);
    }
}

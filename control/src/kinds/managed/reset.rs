//! Fields that a request cannot set on this path, so that its manager does not come to own them (upstream's
//! `GetResetFields` and `GetResetFieldsFilter`).
use super::element::Element;
use super::set::{Node, Set};
use crate::kinds::Kind;

type Paths = &'static [&'static [&'static str]];

/// What of a set counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Filter {
    /// All but these, and what is below them.
    Without(Paths),
    /// Only what is below these; `*` is any element.
    Only(Paths),
}

const ALL: Filter = Filter::Without(&[]);
const STATUS: Filter = Filter::Without(&[&["status"]]);
const SPEC: Filter = Filter::Without(&[&["spec"]]);
const SPEC_AND_METADATA: Filter = Filter::Without(&[&["spec"], &["metadata"]]);

/// Groups whose status updates leave the metadata alone as well.
const METADATA_KEPT: [&str; 5] = [
    "servicecidrs",
    "flowschemas",
    "prioritylevelconfigurations",
    "resourceclaims",
    "volumeattachments",
];

impl Filter {
    /// For requests on a resource, or on its subresource.
    pub fn of(kind: &Kind, subresource: &str) -> Filter {
        match (kind.group.as_str(), kind.plural.as_str(), subresource) {
            ("certificates.k8s.io", "certificatesigningrequests", "") => {
                Filter::Without(&[&["spec"], &["status"]])
            }
            ("certificates.k8s.io", "certificatesigningrequests", "status") => {
                Filter::Without(&[&["spec"], &["status", "conditions"]])
            }
            ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
                Filter::Without(&[&["spec"], &["status", "certificate"]])
            }
            ("", "pods", "status") => Filter::Without(&[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "ownerReferences"],
            ]),
            ("", "pods", "ephemeralcontainers") => Filter::Only(&[&["spec", "ephemeralContainers"]]),
            ("", "pods", "resize") => Filter::Only(&[
                &["spec", "resources"],
                &["spec", "containers", "*", "resources"],
                &["spec", "containers", "*", "resizePolicy"],
                &["spec", "initContainers", "*", "resources"],
                &["spec", "initContainers", "*", "resizePolicy"],
            ]),
            ("apps", "deployments", "status") => Filter::Without(&[&["spec"], &["metadata", "labels"]]),
            ("", "namespaces", "" | "finalize") => STATUS,
            ("admissionregistration.k8s.io", _, "status") => SPEC_AND_METADATA,
            (_, _, "status") if kind.custom.is_some() => SPEC_AND_METADATA,
            (_, plural, "status") if METADATA_KEPT.contains(&plural) => SPEC_AND_METADATA,
            (_, _, "status") => SPEC,
            (_, _, "") if kind.subresource("status").is_some() => STATUS,
            _ => ALL,
        }
    }

    /// The members of the object that do not count, where that is all there is to it.
    pub fn top(self) -> Option<Vec<&'static str>> {
        let Filter::Without(paths) = self else { return None };
        let single = |path: &&'static [&'static str]| match **path {
            [only] => Some(only),
            _ => None,
        };
        paths.iter().map(single).collect()
    }

    pub fn apply(self, set: &mut Set) {
        match self {
            Filter::Without(paths) => {
                let mut gone = Set::default();
                for path in paths {
                    let path: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
                    gone.insert(&path);
                }
                set.subtract_whole(&gone);
            }
            Filter::Only(paths) => *set = only(std::mem::take(set), paths),
        }
    }
}

/// Every element on the way to one of the paths, and all below them.
fn only(set: Set, paths: Paths) -> Set {
    let heads: Vec<&'static [&'static str]> = paths.to_vec();
    keep(&set, &heads)
}

fn keep(set: &Set, paths: &[&'static [&'static str]]) -> Set {
    let mut out = Set::default();
    for (element, node) in set.iter() {
        let on = |name: &str| name == "*" || matches!(element, Element::Field(field) if field == name);
        let rest: Vec<&[&str]> = paths
            .iter()
            .filter_map(|path| {
                path.split_first()
                    .filter(|(name, _)| on(name))
                    .map(|(_, rest)| rest)
            })
            .collect();
        if rest.is_empty() {
            continue;
        }
        let below = match rest.iter().any(|rest| rest.is_empty()) {
            true => node.below.clone(),
            false => keep(&node.below, &rest),
        };
        let node = Node {
            member: node.member,
            below,
        };
        out.put(element.clone(), node);
    }
    out
}

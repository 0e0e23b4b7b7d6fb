//! One rule of a role: what it allows, what it covers, and how upstream prints it.
use crate::auth::attributes::{Attributes, Resource, What};
use serde_json::{Value, json};

/// `rbac.authorization.k8s.io/v1.PolicyRule`, with nothing absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

const ALL: &str = "*";

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|each| each == wanted)
}

fn has_or_all(set: &[String], wanted: &str) -> bool {
    set.iter().any(|each| each == ALL || each == wanted)
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

impl Rule {
    pub fn read(rule: &Value) -> Self {
        Rule {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            urls: strings(&rule["nonResourceURLs"]),
        }
    }

    /// The `rules` of a Role or ClusterRole.
    pub fn read_all(role: &Value) -> Vec<Rule> {
        let rules = role["rules"].as_array().into_iter().flatten();
        rules.map(Rule::read).collect()
    }

    /// As the API shows it, with empty fields left out.
    pub fn show(&self) -> Value {
        let mut shown = json!({ "verbs": self.verbs });
        for (key, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                shown[key] = json!(list);
            }
        }
        shown
    }

    pub fn allows(&self, what: &Attributes<'_>) -> bool {
        has_or_all(&self.verbs, what.verb)
            && match &what.what {
                What::Path(path) => self.urls.iter().any(|url| url_covers(url, path)),
                What::Resource(resource) => self.allows_resource(resource),
            }
    }

    fn allows_resource(&self, wanted: &Resource<'_>) -> bool {
        let name = wanted.name.unwrap_or_default();
        has_or_all(&self.groups, wanted.group)
            && self.resources.iter().any(|each| names_resource(each, wanted))
            && (self.names.is_empty() || has(&self.names, name))
    }

    /// Rules that each have one verb and one thing, and together allow what this one does.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    match self.names.is_empty() {
                        true => parts.push(part),
                        false => parts.extend(self.names.iter().map(|name| Rule {
                            names: one(name),
                            ..part.clone()
                        })),
                    }
                }
            }
        }
        for url in &self.urls {
            parts.extend(self.verbs.iter().map(|verb| Rule {
                verbs: one(verb),
                urls: one(url),
                ..Rule::default()
            }));
        }
        parts
    }

    /// Whether this rule allows all that a part does.
    fn covers(&self, part: &Rule) -> bool {
        let all =
            |set: &[String], wanted: &[String]| has(set, ALL) || wanted.iter().all(|each| has(set, each));
        let names = match part.names.is_empty() {
            true => self.names.is_empty(),
            false => self.names.is_empty() || part.names.iter().all(|name| has(&self.names, name)),
        };
        let covers_url = |url: &String| self.urls.iter().any(|own| url_covers(own, url));
        all(&self.verbs, &part.verbs)
            && all(&self.groups, &part.groups)
            && part
                .resources
                .iter()
                .all(|each| resource_covered(&self.resources, each))
            && names
            && part.urls.iter().all(covers_url)
    }

    /// As Go prints it: `{APIGroups:["*"], Resources:["secrets"], Verbs:["*"]}`.
    pub fn compact(&self) -> String {
        let fields = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown = fields
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted_list(list)));
        format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
    }

    /// Whether this is one resource of one group, by at most one name.
    fn is_simple(&self) -> bool {
        self.names.len() <= 1 && self.urls.is_empty() && self.groups.len() == 1 && self.resources.len() == 1
    }
}

/// A list of strings as Go's `%q` prints it.
pub fn quoted_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|each| crate::kinds::quote(each)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Whether a rule's word for resources means this one: `*`, `pods`, `pods/log`, `*/scale`.
fn names_resource(word: &str, wanted: &Resource<'_>) -> bool {
    if word == ALL {
        return true;
    }
    match wanted.subresource {
        None => word == wanted.resource,
        Some(subresource) => word.split_once('/').is_some_and(|(resource, sub)| {
            sub == subresource && (resource == ALL || resource == wanted.resource)
        }),
    }
}

fn resource_covered(set: &[String], wanted: &str) -> bool {
    has_or_all(set, wanted)
        || wanted
            .split_once('/')
            .is_some_and(|(_, sub)| set.iter().any(|each| each.strip_prefix("*/") == Some(sub)))
}

fn url_covers(own: &str, wanted: &str) -> bool {
    own == wanted || (own.ends_with('*') && wanted.starts_with(own.trim_end_matches('*')))
}

/// What of `wanted` the `held` rules do not allow, in its smallest parts.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts
        .filter(|part| !held.iter().any(|own| own.covers(part)))
        .collect()
}

/// Joins the verbs of parts that are about the same thing.
pub fn compacted(parts: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for part in parts {
        let same = |other: &&mut Rule| {
            other.is_simple()
                && part.is_simple()
                && (&other.groups, &other.resources, &other.names)
                    == (&part.groups, &part.resources, &part.names)
        };
        match out.iter_mut().find(same) {
            Some(known) => known.verbs.extend(part.verbs),
            None => out.push(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str], urls: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Rule {
            verbs: owned(verbs),
            groups: owned(groups),
            resources: owned(resources),
            names: owned(names),
            urls: owned(urls),
        }
    }

    fn asks<'a>(verb: &'a str, group: &'a str, resource: &'a str, name: Option<&'a str>) -> Attributes<'a> {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, sub)) => (resource, Some(sub)),
            None => (resource, None),
        };
        let what = Resource {
            group,
            resource,
            subresource,
            name,
            ..Resource::default()
        };
        Attributes::resource(verb, what)
    }

    #[test]
    fn what_rules_allow() {
        let pods = rule(&["get", "list"], &[""], &["pods"], &[], &[]);
        let named = rule(&["*"], &["apps"], &["deployments", "*/scale"], &["a"], &[]);
        let all = rule(&["*"], &["*"], &["*"], &[], &[]);
        for (rule, what, want) in [
            (&pods, asks("get", "", "pods", Some("p")), true),
            (&pods, asks("watch", "", "pods", None), false),
            (&pods, asks("get", "", "pods/log", Some("p")), false),
            (&pods, asks("get", "apps", "pods", Some("p")), false),
            (&named, asks("delete", "apps", "deployments", Some("a")), true),
            (&named, asks("delete", "apps", "deployments", Some("b")), false),
            (&named, asks("create", "apps", "deployments", None), false),
            (
                &named,
                asks("update", "apps", "replicasets/scale", Some("a")),
                true,
            ),
            (&all, asks("get", "x", "y/z", None), true),
            (&all, Attributes::path("get", "/metrics"), false),
        ] {
            assert_eq!(rule.allows(&what), want, "{rule:?} {what:?}");
        }
    }

    #[test]
    fn paths() {
        let some = rule(&["get"], &[], &[], &[], &["/api/*", "/version"]);
        assert!(some.allows(&Attributes::path("get", "/api/v1")));
        assert!(some.allows(&Attributes::path("get", "/version")));
        assert!(!some.allows(&Attributes::path("get", "/versions")));
        assert!(!some.allows(&Attributes::path("post", "/version")));
    }

    #[test]
    fn what_is_missing_is_told_as_upstream_tells_it() {
        let held = [rule(&["get", "list"], &[""], &["pods", "*/status"], &[], &[])];
        let wanted = [
            rule(&["get", "delete"], &[""], &["pods", "nodes/status"], &[], &[]),
            rule(&["get"], &[], &[], &[], &["/x"]),
        ];
        let told: Vec<String> = compacted(missing(&held, &wanted))
            .iter()
            .map(Rule::compact)
            .collect();
        assert_eq!(
            told,
            [
                "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}",
                "{APIGroups:[\"\"], Resources:[\"nodes/status\"], Verbs:[\"delete\"]}",
                "{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}",
            ]
        );
        let everything = [rule(&["*"], &["*"], &["*"], &[], &[])];
        assert!(missing(&everything, &held).is_empty());
        let by_name = [rule(&["get"], &[""], &["pods"], &["a"], &[])];
        assert_eq!(missing(&by_name, &held[..1]).len(), 4);
        assert!(missing(&held, &by_name).is_empty());
    }
}

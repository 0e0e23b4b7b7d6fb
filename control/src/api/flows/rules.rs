//! The rules of a FlowSchema, read once: subjects, and what they do to which resources and paths.
use serde_json::Value;

use crate::auth::Identity;
use crate::auth::attributes::{Attributes, Resource, What};
use crate::auth::identity::account_of;
use crate::kinds::view::View;

/// `PolicyRulesWithSubjects`.
#[derive(Debug)]
pub(super) struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// A name, or any.
type Name = Option<Box<str>>;

#[derive(Debug)]
enum Subject {
    User(Name),
    Group(Name),
    Account { namespace: Box<str>, name: Name },
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Names,
    paths: Vec<Place>,
}

/// Some names, or all.
#[derive(Debug)]
enum Names {
    All,
    Some(Vec<Box<str>>),
}

/// Which paths a `nonResourceURL` means.
#[derive(Debug)]
enum Place {
    All,
    /// This one, and those below the second, which ends in a slash.
    Below(Box<str>, Box<str>),
}

impl Rule {
    pub(super) fn of(rule: &Value) -> Rule {
        Rule {
            subjects: rule.list("subjects").iter().filter_map(Subject::of).collect(),
            resources: rule.list("resourceRules").iter().map(ResourceRule::of).collect(),
            paths: rule.list("nonResourceRules").iter().map(PathRule::of).collect(),
        }
    }

    pub(super) fn takes(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        self.subjects.iter().any(|subject| subject.is(who))
            && match &what.what {
                What::Resource(resource) => self.resources.iter().any(|r| r.takes(what.verb, resource)),
                What::Path(path) => self.paths.iter().any(|rule| rule.takes(what.verb, path)),
            }
    }
}

fn name(text: &str) -> Name {
    (text != "*").then(|| text.into())
}

fn is(wanted: &Name, found: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == found)
}

impl Subject {
    fn of(subject: &Value) -> Option<Subject> {
        match subject.text("kind") {
            "User" => Some(Subject::User(name(subject.text("user.name")))),
            "Group" => Some(Subject::Group(name(subject.text("group.name")))),
            "ServiceAccount" => Some(Subject::Account {
                namespace: subject.text("serviceAccount.namespace").into(),
                name: name(subject.text("serviceAccount.name")),
            }),
            _ => None,
        }
    }

    fn is(&self, who: &Identity) -> bool {
        match self {
            Subject::User(user) => is(user, &who.user),
            Subject::Group(group) => group.as_deref().is_none_or(|group| who.is_in(group)),
            Subject::Account { namespace, name } => account_of(&who.user)
                .is_some_and(|(in_namespace, account)| **namespace == *in_namespace && is(name, account)),
        }
    }
}

impl Names {
    fn of(rule: &Value, key: &str) -> Names {
        let names: Vec<Box<str>> = rule
            .list(key)
            .iter()
            .filter_map(|name| name.as_str().map(Into::into))
            .collect();
        match names.iter().any(|name| &**name == "*") {
            true => Names::All,
            false => Names::Some(names),
        }
    }

    fn has(&self, wanted: &str) -> bool {
        self.any(|name| name == wanted)
    }

    fn any(&self, is: impl Fn(&str) -> bool) -> bool {
        match self {
            Names::All => true,
            Names::Some(names) => names.iter().any(|name| is(name)),
        }
    }
}

impl ResourceRule {
    fn of(rule: &Value) -> ResourceRule {
        ResourceRule {
            verbs: Names::of(rule, "verbs"),
            groups: Names::of(rule, "apiGroups"),
            resources: Names::of(rule, "resources"),
            namespaces: Names::of(rule, "namespaces"),
            cluster: rule.flag("clusterScope"),
        }
    }

    fn takes(&self, verb: &str, what: &Resource<'_>) -> bool {
        let within = match what.namespace {
            None | Some("") => self.cluster,
            Some(namespace) => self.namespaces.has(namespace),
        };
        let is = |name: &str| match (name.split_once('/'), what.subresource) {
            (Some((resource, sub)), Some(subresource)) => resource == what.resource && sub == subresource,
            (None, None) => name == what.resource,
            _ => false,
        };
        within && self.verbs.has(verb) && self.resources.any(is) && self.groups.has(what.group)
    }
}

impl PathRule {
    fn of(rule: &Value) -> PathRule {
        let urls = rule.list("nonResourceURLs").iter().filter_map(Value::as_str);
        PathRule {
            verbs: Names::of(rule, "verbs"),
            paths: urls.map(Place::of).collect(),
        }
    }

    fn takes(&self, verb: &str, path: &str) -> bool {
        self.verbs.has(verb) && self.paths.iter().any(|place| place.has(path))
    }
}

impl Place {
    /// As upstream reads it: a path means those below it too, with or without `*` at its end.
    fn of(url: &str) -> Place {
        match url {
            "*" => Place::All,
            url => {
                let below = url.strip_suffix('*').unwrap_or(url).trim_end_matches('/');
                Place::Below(url.into(), format!("{below}/").into())
            }
        }
    }

    fn has(&self, path: &str) -> bool {
        match self {
            Place::All => true,
            Place::Below(itself, below) => **itself == *path || path.starts_with(&**below),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let account = |name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": name}});
        let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
        let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
        let who = Identity::account("n", "a");
        for (subject, want) in [
            (account("a"), true),
            (account("*"), true),
            (account("b"), false),
            (group("system:serviceaccounts:n"), true),
            (group("system:serviceaccounts:m"), false),
            (group("*"), true),
            (user("system:serviceaccount:n:a"), true),
            (user("*"), true),
            (user("a"), false),
        ] {
            assert_eq!(Subject::of(&subject).unwrap().is(&who), want, "{subject}");
        }
    }

    #[test]
    fn resources_are_named_with_their_subresource() {
        let rule = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["n"]});
        let what = |resource, subresource, namespace| Resource {
            resource,
            subresource,
            namespace,
            ..Resource::default()
        };
        for (verb, resource, want) in [
            ("get", what("pods", None, Some("n")), true),
            ("get", what("pods", Some("log"), Some("n")), true),
            ("get", what("pods", Some("status"), Some("n")), false),
            ("list", what("pods", None, Some("n")), false),
            ("get", what("pods", None, Some("m")), false),
            ("get", what("pods", None, None), false),
        ] {
            assert_eq!(
                ResourceRule::of(&rule).takes(verb, &resource),
                want,
                "{resource:?}"
            );
        }
    }

    #[test]
    fn paths_mean_those_below_them() {
        for (url, path, want) in [
            ("*", "/x", true),
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", true),
            ("/healthz", "/healthzz", false),
            ("/apis/*", "/apis/x", true),
            ("/apis/*", "/apis", false),
            ("/apis/*", "/api", false),
        ] {
            assert_eq!(Place::of(url).has(path), want, "{url} {path}");
        }
    }
}

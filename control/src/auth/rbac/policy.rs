//! Roles and bindings as they were at one moment, and what they allow. Pure.
use super::rule::Rule;
use crate::auth::Identity;
use crate::auth::attributes::{Attributes, What};
use crate::auth::authorize::Verdict;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A RoleBinding, or without a namespace a ClusterRoleBinding.
#[derive(Debug)]
pub struct Binding {
    pub name: String,
    pub namespace: Option<String>,
    pub role: RoleRef,
    pub subjects: Vec<Subject>,
}

/// What a binding refers to: a ClusterRole, or a Role of the binding's own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    pub name: String,
}

#[derive(Debug)]
pub enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

/// A role that a binding refers to is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub RoleRef);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Missing(role) = self;
        write!(
            f,
            "{}.{GROUP} {:?} not found",
            role.kind.to_lowercase(),
            role.name
        )
    }
}

/// A role's name in its namespace; cluster roles are in none.
type RoleKey = (Option<String>, String);

/// Everything RBAC knows.
#[derive(Debug, Default)]
pub struct Policy {
    pub roles: HashMap<RoleKey, Arc<Vec<Rule>>>,
    pub cluster_bindings: Vec<Arc<Binding>>,
    pub bindings: HashMap<String, Vec<Arc<Binding>>>,
}

impl Binding {
    pub fn read(binding: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = binding["metadata"]["namespace"].as_str().map(str::to_owned);
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        Binding {
            name: text(&binding["metadata"]["name"]),
            role: RoleRef::read(&binding["roleRef"]),
            subjects: subjects
                .filter_map(|subject| Subject::read(subject, namespace.as_deref()))
                .collect(),
            namespace,
        }
    }

    /// The subject of this binding that the user is or is in.
    fn subject_of(&self, who: &Identity) -> Option<&Subject> {
        self.subjects.iter().find(|subject| subject.means(who))
    }

    fn describe(&self, subject: &Subject) -> String {
        let (role, name) = (&self.role.kind, &self.role.name);
        let subject = subject.describe();
        match &self.namespace {
            Some(namespace) => format!(
                "RoleBinding {:?} of {role} {name:?} to {subject}",
                format!("{}/{namespace}", self.name)
            ),
            None => format!(
                "ClusterRoleBinding {:?} of {role} {name:?} to {subject}",
                self.name
            ),
        }
    }
}

impl RoleRef {
    pub fn read(reference: &Value) -> Self {
        let text = |key: &str| reference[key].as_str().unwrap_or_default().to_owned();
        RoleRef {
            kind: text("kind"),
            name: text("name"),
        }
    }
}

impl Subject {
    fn read(subject: &Value, namespace: Option<&str>) -> Option<Self> {
        let text = |key: &str| subject[key].as_str().filter(|text| !text.is_empty());
        let name = text("name")?.to_owned();
        match text("kind")? {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => Some(Subject::Account {
                namespace: text("namespace").or(namespace)?.to_owned(),
                name,
            }),
            _ => None,
        }
    }

    fn means(&self, who: &Identity) -> bool {
        match self {
            Subject::User(name) => *name == *who.user,
            Subject::Group(name) => who.is_in(name),
            Subject::Account { namespace, name } => who
                .user
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|account| account == (namespace, name)),
        }
    }

    fn describe(&self) -> String {
        match self {
            Subject::User(name) => format!("User {name:?}"),
            Subject::Group(name) => format!("Group {name:?}"),
            Subject::Account { namespace, name } => {
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

impl Policy {
    /// The rules of the role that a binding in `namespace` refers to.
    pub fn role(&self, role: &RoleRef, namespace: Option<&str>) -> Result<&Arc<Vec<Rule>>, Missing> {
        let namespace = (role.kind == "Role").then(|| namespace.unwrap_or_default().to_owned());
        let key = (namespace, role.name.clone());
        self.roles.get(&key).ok_or_else(|| Missing(role.clone()))
    }

    /// Bindings that may matter in a namespace: those of the cluster, then its own.
    fn bindings_in(&self, namespace: Option<&str>) -> impl Iterator<Item = &Arc<Binding>> {
        let own = namespace.and_then(|namespace| self.bindings.get(namespace));
        self.cluster_bindings.iter().chain(own.into_iter().flatten())
    }

    /// What RBAC says of a request.
    pub fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Verdict {
        let namespace = match &what.what {
            What::Resource(resource) => resource.namespace.filter(|n| !n.is_empty()),
            What::Path(_) => None,
        };
        let mut errors = Vec::new();
        for binding in self.bindings_in(namespace) {
            let Some(subject) = binding.subject_of(who) else {
                continue;
            };
            match self.role(&binding.role, binding.namespace.as_deref()) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(what)) => {
                    let reason = format!("RBAC: allowed by {}", binding.describe(subject));
                    return Verdict::Allowed { reason };
                }
                Ok(_) => {}
                Err(missing) => errors.push(missing.to_string()),
            }
        }
        let error = aggregate(errors);
        let reason = match error.is_empty() {
            true => String::new(),
            false => format!("RBAC: {error}"),
        };
        Verdict::Refused { reason, error }
    }

    /// Every rule that is the user's in a namespace, or in the whole cluster; and roles that could not be found.
    pub fn rules_of(&self, who: &Identity, namespace: Option<&str>) -> (Vec<Rule>, Vec<Missing>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for binding in self.bindings_in(namespace) {
            if binding.subject_of(who).is_none() {
                continue;
            }
            match self.role(&binding.role, binding.namespace.as_deref()) {
                Ok(found) => rules.extend(found.iter().cloned()),
                Err(gone) => missing.push(gone),
            }
        }
        (rules, missing)
    }
}

/// Errors as Go's aggregate prints them: one plain, several in brackets, repeats once.
pub fn aggregate(mut errors: Vec<String>) -> String {
    let mut seen = std::collections::HashSet::new();
    errors.retain(|error| seen.insert(error.clone()));
    match errors.len() {
        0 => String::new(),
        1 => errors.remove(0),
        _ => format!("[{}]", errors.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::attributes::Resource;
    use serde_json::json;

    fn policy() -> Policy {
        let rules = |rules: Value| Arc::new(Rule::read_all(&json!({ "rules": rules })));
        let reader = rules(json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
        let bind = |binding: Value| Arc::new(Binding::read(&binding));
        Policy {
            roles: HashMap::from([
                ((None, "reader".to_owned()), reader.clone()),
                ((Some("n".to_owned()), "own".to_owned()), reader),
            ]),
            cluster_bindings: vec![
                bind(
                    json!({"metadata": {"name": "everywhere"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
                    "subjects": [{"kind": "Group", "name": "ops"}]}),
                ),
                bind(
                    json!({"metadata": {"name": "lost"}, "roleRef": {"kind": "ClusterRole", "name": "gone"},
                    "subjects": [{"kind": "User", "name": "eve"}]}),
                ),
            ],
            bindings: HashMap::from([(
                "n".to_owned(),
                vec![bind(
                    json!({"metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "own"},
                    "subjects": [{"kind": "ServiceAccount", "name": "robot"}, {"kind": "User", "name": "bob"}]}),
                )],
            )]),
        }
    }

    fn get<'a>(namespace: &'a str) -> Attributes<'a> {
        let pods = Resource {
            resource: "pods",
            namespace: Some(namespace),
            name: Some("p"),
            ..Resource::default()
        };
        Attributes::resource("get", pods)
    }

    fn says(user: &str, groups: &[&str], namespace: &str) -> String {
        let who = Identity::new(user, groups.iter().map(ToString::to_string));
        match policy().authorize(&who, &get(namespace)) {
            Verdict::Allowed { reason } => reason,
            Verdict::Refused { reason, .. } => format!("no {reason}"),
        }
    }

    #[test]
    fn bindings_reach_their_namespace_and_say_so() {
        assert_eq!(
            says("bob", &[], "n"),
            "RBAC: allowed by RoleBinding \"b/n\" of Role \"own\" to User \"bob\""
        );
        assert_eq!(says("bob", &[], "m"), "no ");
        assert_eq!(
            says("system:serviceaccount:n:robot", &[], "n"),
            "RBAC: allowed by RoleBinding \"b/n\" of Role \"own\" to ServiceAccount \"robot/n\""
        );
        assert_eq!(says("system:serviceaccount:m:robot", &[], "n"), "no ");
        assert_eq!(
            says("zoe", &["ops"], "m"),
            "RBAC: allowed by ClusterRoleBinding \"everywhere\" of ClusterRole \"reader\" to Group \"ops\""
        );
    }

    #[test]
    fn a_role_that_is_gone_is_named() {
        assert_eq!(
            says("eve", &[], "n"),
            "no RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found"
        );
    }

    #[test]
    fn rules_add_up() {
        let who = Identity::new("bob", ["ops".to_owned()]);
        assert_eq!(policy().rules_of(&who, Some("n")).0.len(), 2);
        assert_eq!(policy().rules_of(&who, None).0.len(), 1);
    }
}

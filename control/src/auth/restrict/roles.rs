//! Roles and bindings: nobody grants what he does not hold, unless he may `escalate` or `bind` ("Privilege escalation
//! prevention and bootstrapping" of the RBAC reference).
use super::{Operation, Refused, Write, forbidden, special};
use crate::auth::Authorizer;
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::rbac::{GROUP, RoleRef, Rule, confirm_no_escalation};
use serde_json::Value;

pub(super) fn role(authorizer: &Authorizer, write: &Write<'_>) -> Result<(), Refused> {
    if authorizer.allows(write.who, &special("escalate", write)) || only_collected(write) {
        return Ok(());
    }
    let policy = authorizer.policy();
    let confirm = |rules: &[Rule]| confirm_no_escalation(&policy, write.who, write.namespace, rules);
    confirm(&Rule::read_all(write.new)).or_else(forbidden)?;
    if aggregates(write.new) || aggregates(write.old) {
        let refused = |_| forbidden("must have cluster-admin privileges to use the aggregationRule");
        confirm(&everything()).or_else(refused)?;
    }
    Ok(())
}

/// An aggregation can gather anything.
fn aggregates(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .is_some_and(|selectors| !selectors.is_empty())
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            urls: all(),
            ..Rule::default()
        },
    ]
}

pub(super) fn binding(authorizer: &Authorizer, write: &Write<'_>) -> Result<(), Refused> {
    if only_collected(write) {
        return Ok(());
    }
    let role = RoleRef::read(&write.new["roleRef"]);
    let plural = match role.kind.as_str() {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation will say what is wrong.
        _ => return Ok(()),
    };
    let bind = Resource {
        group: GROUP,
        resource: plural,
        namespace: write.namespace,
        name: Some(&role.name),
        ..Resource::default()
    };
    if authorizer.allows(write.who, &Attributes::resource("bind", bind)) {
        return Ok(());
    }
    let policy = authorizer.policy();
    let Ok(rules) = policy.role(&role, write.namespace) else {
        return Err(Refused::NoRole(plural, role.name));
    };
    confirm_no_escalation(&policy, write.who, write.namespace, rules).or_else(forbidden)
}

/// Whether nothing changes but what the garbage collector needs to let the object go.
fn only_collected(write: &Write<'_>) -> bool {
    write.operation == Operation::Update && without_marks(write.new) == without_marks(write.old)
}

fn without_marks(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object["metadata"].as_object_mut() {
        for key in [
            "ownerReferences",
            "finalizers",
            "managedFields",
            "resourceVersion",
        ] {
            meta.remove(key);
        }
    }
    object
}

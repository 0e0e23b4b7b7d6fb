//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going away, and the namespaces that
//! the system lives in stay. Nothing is created either of a definition that is going away.
use super::{Action, Denial, Objects, ResourceName, Review};

const NAMESPACES: ResourceName<'_> = ("", "v1", "namespaces");

/// Namespaces that cannot be deleted (upstream's immortal namespaces).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn check(objects: &dyn Objects, review: &Review<'_>) -> Result<(), Denial> {
    let custom = review.kind.custom.as_ref();
    if matches!(review.action, Action::Create) && custom.is_some_and(|custom| custom.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Denial::Forbidden(why.to_owned()));
    }
    match (review.action, review.namespace) {
        (Action::Delete { .. }, None)
            if review.kind.group.is_empty() && review.kind.plural == "namespaces" =>
        {
            deletable(review.name)
        }
        // Whether somebody may do something where there is nothing yet may be asked.
        (Action::Create | Action::Post { .. }, Some(namespace))
            if review.kind.namespaced && !review.asks() =>
        {
            living(objects, namespace)
        }
        _ => Ok(()),
    }
}

fn deletable(name: &str) -> Result<(), Denial> {
    if IMMORTAL.contains(&name) {
        return Err(Denial::Forbidden("this namespace may not be deleted".to_owned()));
    }
    Ok(())
}

fn living(objects: &dyn Objects, name: &str) -> Result<(), Denial> {
    let Some(namespace) = objects.get(NAMESPACES, None, name) else {
        return Err(Denial::NoNamespace(name.to_owned()));
    };
    if namespace["metadata"]
        .get("deletionTimestamp")
        .is_some_and(|t| !t.is_null())
    {
        return Err(Denial::Terminating(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::{Value, json};

    fn namespaces() -> Fixed {
        let dying = json!({"metadata": {"name": "dying", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        Fixed(vec![
            ("namespaces", json!({"metadata": {"name": "alive"}})),
            ("namespaces", dying),
        ])
    }

    #[test]
    fn creation_needs_a_living_namespace() {
        let create = |namespace| {
            let review = Review {
                namespace: Some(namespace),
                ..review("pods", Action::Create)
            };
            check(&namespaces(), &review)
        };
        assert!(create("alive").is_ok());
        assert!(matches!(create("dying"), Err(Denial::Terminating(_))));
        assert!(matches!(create("missing"), Err(Denial::NoNamespace(_))));
    }

    #[test]
    fn system_namespaces_stay() {
        let delete = |name| {
            let review = Review {
                name,
                ..review("namespaces", Action::Delete { old: &Value::Null })
            };
            check(&namespaces(), &review)
        };
        assert!(matches!(delete("default"), Err(Denial::Forbidden(_))));
        assert!(delete("mine").is_ok());
    }
}

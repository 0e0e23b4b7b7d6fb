//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going away, and the namespaces that
//! the system lives in stay.
use super::{Action, Denial, Objects, Review};

/// Namespaces that cannot be deleted (upstream's immortal namespaces).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn check(objects: &dyn Objects, review: &Review<'_>) -> Result<(), Denial> {
    match (review.action, review.namespace) {
        (Action::Delete, None) if review.kind.group.is_empty() && review.kind.plural == "namespaces" => {
            deletable(review.name)
        }
        (Action::Create, Some(namespace)) if review.kind.namespaced => living(objects, namespace),
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
    let Some(namespace) = objects.get("namespaces", None, name) else {
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
    use super::*;
    use crate::kinds::{Kind, Registry};
    use serde_json::{Value, json};

    struct Fixed;

    impl Objects for Fixed {
        fn get(&self, _: &str, _: Option<&str>, name: &str) -> Option<Value> {
            match name {
                "alive" => Some(json!({"metadata": {"name": name}})),
                "dying" => {
                    Some(json!({"metadata": {"name": name, "deletionTimestamp": "2026-01-01T00:00:00Z"}}))
                }
                _ => None,
            }
        }
    }

    fn review<'a>(
        kind: &'a Kind,
        namespace: Option<&'a str>,
        name: &'a str,
        action: Action<'a>,
    ) -> Review<'a> {
        Review {
            kind,
            namespace,
            name,
            subresource: None,
            action,
        }
    }

    #[test]
    fn creation_needs_a_living_namespace() {
        let pods = Registry::builtin().resource("", "v1", "pods").unwrap();
        let create = |namespace| check(&Fixed, &review(pods, Some(namespace), "p", Action::Create));
        assert!(create("alive").is_ok());
        assert!(matches!(create("dying"), Err(Denial::Terminating(_))));
        assert!(matches!(create("missing"), Err(Denial::NoNamespace(_))));
    }

    #[test]
    fn system_namespaces_stay() {
        let namespaces = Registry::builtin().resource("", "v1", "namespaces").unwrap();
        let delete = |name| check(&Fixed, &review(namespaces, None, name, Action::Delete));
        assert!(matches!(delete("default"), Err(Denial::Forbidden(_))));
        assert!(delete("mine").is_ok());
    }
}

//! DefaultIngressClass: an Ingress that names no class is of the default one.
use super::{Action, Objects, ResourceName, Review, classes};
use crate::kinds::view::View;
use serde_json::Value;

const CLASSES: ResourceName<'_> = ("networking.k8s.io", "v1", "ingressclasses");
const MARK: &str = "ingressclass.kubernetes.io/is-default-class";
/// Where classes were named before there was a field.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

pub(super) fn ingress(objects: &dyn Objects, review: &Review<'_>, ingress: &mut Value) {
    let old_class = ingress.at("metadata.annotations").get(OLD_CLASS).is_some();
    let unnamed = !ingress.has("spec.ingressClassName") && !old_class;
    if matches!(review.action, Action::Create)
        && unnamed
        && let Some(class) = classes::default(objects, CLASSES, &[MARK])
    {
        ingress["spec"]["ingressClassName"] = class.into();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_class_is_taken_where_none_is_named() {
        let class = |name: &str, made: &str, mark: &str| {
            let meta = json!({"name": name, "creationTimestamp": made, "annotations": {MARK: mark}});
            ("ingressclasses", json!({"metadata": meta}))
        };
        let objects = Fixed(vec![
            class("c", "2026-01-02T00:00:00Z", "true"),
            class("b", "2026-01-02T00:00:00Z", "true"),
            class("a", "2026-01-01T00:00:00Z", "true"),
            class("late", "2026-01-03T00:00:00Z", "false"),
        ]);
        let none = Fixed::default();
        let plain = json!({"metadata": {}, "spec": {}});
        let old = json!({"metadata": {"annotations": {OLD_CLASS: ""}}, "spec": {}});
        let named = json!({"metadata": {}, "spec": {"ingressClassName": "x"}});
        let update = Action::Update { old: &plain };
        for (objects, action, object, wanted) in [
            (&objects, Action::Create, &plain, json!("b")),
            (&objects, Action::Create, &old, Value::Null),
            (&objects, Action::Create, &named, json!("x")),
            (&objects, update, &plain, Value::Null),
            (&none, Action::Create, &plain, Value::Null),
        ] {
            let mut found = object.clone();
            ingress(
                objects,
                &review("ingresses.networking.k8s.io", action),
                &mut found,
            );
            assert_eq!(found["spec"]["ingressClassName"], wanted, "{action:?} {object}");
        }
    }
}

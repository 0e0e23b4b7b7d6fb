//! DefaultStorageClass, and the finalizers that keep volumes, claims and classes of attributes while they are in use.
use super::{Action, Denial, Objects, ResourceName, Review, classes};
use crate::kinds::quantity::Quantity;
use crate::kinds::view::View;
use serde_json::{Value, json};

const CLASSES: ResourceName<'_> = ("storage.k8s.io", "v1", "storageclasses");
const MARKS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Held until no Pod uses the claim.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Held until no claim is bound to the volume.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Held until no claim and no volume names the class.
pub const ATTRIBUTES_PROTECTION: &str = "kubernetes.io/vac-protection";

pub(super) fn class_of(objects: &dyn Objects, claim: &mut Value) {
    let old_class = claim.at("metadata.annotations").get(OLD_CLASS).is_some();
    if !claim.has("spec.storageClassName")
        && !old_class
        && let Some(class) = classes::default(objects, CLASSES, &MARKS)
    {
        claim["spec"]["storageClassName"] = class.into();
    }
}

pub(super) fn claim(review: &Review<'_>, claim: &mut Value) {
    protect(review, claim, CLAIM_PROTECTION);
}

pub(super) fn volume(review: &Review<'_>, volume: &mut Value) {
    protect(review, volume, VOLUME_PROTECTION);
}

pub(super) fn attributes_class(review: &Review<'_>, class: &mut Value) {
    protect(review, class, ATTRIBUTES_PROTECTION);
}

/// A bound claim may grow if its class says so (upstream's PersistentVolumeClaimResize).
pub(super) fn resize(objects: &dyn Objects, review: &Review<'_>, claim: &Value) -> Result<(), Denial> {
    const SIZE: &str = "spec.resources.requests.storage";
    let Action::Update { old } = review.action else {
        return Ok(());
    };
    let bytes = |claim: &Value| Quantity::parse(claim.text(SIZE)).map_or(0, |size| size.value());
    if bytes(claim) <= bytes(old) {
        return Ok(());
    }
    if old.text("status.phase") != "Bound" {
        return Err(Denial::Forbidden(
            "Only bound persistent volume claims can be expanded".into(),
        ));
    }
    let class = match old
        .at("metadata.annotations")
        .get(OLD_CLASS)
        .and_then(Value::as_str)
    {
        Some(name) => name,
        None => old.text("spec.storageClassName"),
    };
    let class = objects.get(CLASSES, None, class);
    match class.is_some_and(|class| *class.at("allowVolumeExpansion") == true) {
        true => Ok(()),
        false => Err(Denial::Forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
                .into(),
        )),
    }
}

fn protect(review: &Review<'_>, object: &mut Value, finalizer: &str) {
    if !matches!(review.action, Action::Create) {
        return;
    }
    let mut finalizers = object.list("metadata.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == finalizer) {
        finalizers.push(finalizer.into());
        object["metadata"]["finalizers"] = json!(finalizers);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Fixed, review};
    use super::*;

    #[test]
    fn the_newest_default_class_is_taken() {
        let class = |name: &str, made: &str| {
            let meta = json!({"name": name, "creationTimestamp": made, "annotations": {MARKS[0]: "true"}});
            ("storageclasses", json!({"metadata": meta}))
        };
        let objects = Fixed(vec![
            class("a", "2026-01-01T00:00:00Z"),
            class("b", "2026-01-02T00:00:00Z"),
        ]);
        let mut object = json!({"metadata": {}, "spec": {}});
        class_of(&objects, &mut object);
        claim(&review("persistentvolumeclaims", Action::Create), &mut object);
        assert_eq!(object["spec"]["storageClassName"], "b");
        assert_eq!(object["metadata"]["finalizers"], json!([CLAIM_PROTECTION]));
        let mut none = json!({"metadata": {}, "spec": {"storageClassName": ""}});
        class_of(&objects, &mut none);
        assert_eq!(none["spec"]["storageClassName"], "");
    }

    #[test]
    fn claims_grow_where_their_class_allows_it() {
        let class = |name: &str, grows: bool| {
            (
                "storageclasses",
                json!({"metadata": {"name": name}, "allowVolumeExpansion": grows}),
            )
        };
        let objects = Fixed(vec![class("elastic", true), class("stiff", false)]);
        let of = |class: &str, size: &str, phase: &str| {
            json!({"metadata": {}, "status": {"phase": phase},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        for (class, from, to, phase, fine) in [
            ("elastic", "1Gi", "2Gi", "Bound", true),
            ("elastic", "1Gi", "2Gi", "Pending", false),
            ("stiff", "1Gi", "2Gi", "Bound", false),
            ("stiff", "2Gi", "2048Mi", "Bound", true),
            ("none", "1Gi", "2Gi", "Bound", false),
        ] {
            let old = of(class, from, phase);
            let review = review("persistentvolumeclaims", Action::Update { old: &old });
            let judged = resize(&objects, &review, &of(class, to, phase));
            assert_eq!(judged.is_ok(), fine, "{class} {from} {to} {phase}");
        }
    }
}

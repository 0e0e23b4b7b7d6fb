//! Controller references: who manages an object (metadata.ownerReferences, KEP-2839 and the API conventions).
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

/// The owner with `controller: true`; an object has at most one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// The uid of the managing controller: what the caches index by.
pub fn controller_uid<K: ResourceExt>(object: &K) -> Option<String> {
    controller_of(object.meta()).map(|owner| owner.uid.clone())
}

/// The reference with which `owner` marks what it manages.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about one object in its namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Already ours and still selected.
    Keep,
    /// Matches and nobody manages it: take it.
    Adopt,
    /// Ours, but its labels no longer match: let it go.
    Release,
    /// Not our business.
    Ignore,
}

/// Decides by controllerRef, selector and deletion, as upstream's `ControllerRefManager`.
pub fn claim(owner: &ObjectMeta, object: &ObjectMeta, selected: bool) -> Claim {
    let (owner_dying, object_dying) = (
        owner.deletion_timestamp.is_some(),
        object.deletion_timestamp.is_some(),
    );
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if selected => Claim::Keep,
        Some(_) if owner_dying => Claim::Ignore,
        Some(_) => Claim::Release,
        None if selected && !owner_dying && !object_dying => Claim::Adopt,
        None => Claim::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(uid: &str, controller: Option<&str>, dying: bool) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            deletion_timestamp: dying.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            owner_references: controller.map(|uid| {
                vec![OwnerReference {
                    uid: uid.into(),
                    controller: Some(true),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        }
    }

    #[test]
    fn claims_follow_reference_then_selector_then_deletion() {
        let cases = [
            ("ours and selected", Some("o"), false, false, true, Claim::Keep),
            (
                "ours, labels changed",
                Some("o"),
                false,
                false,
                false,
                Claim::Release,
            ),
            (
                "ours, labels changed, owner dying",
                Some("o"),
                true,
                false,
                false,
                Claim::Ignore,
            ),
            ("another's", Some("x"), false, false, true, Claim::Ignore),
            ("orphan that matches", None, false, false, true, Claim::Adopt),
            ("orphan that does not", None, false, false, false, Claim::Ignore),
            (
                "orphan, but the owner is dying",
                None,
                true,
                false,
                true,
                Claim::Ignore,
            ),
            ("orphan that is dying", None, false, true, true, Claim::Ignore),
        ];
        for (name, controller, owner_dying, object_dying, selected, expected) in cases {
            let got = claim(
                &meta("o", None, owner_dying),
                &meta("p", controller, object_dying),
                selected,
            );
            assert_eq!(got, expected, "{name}");
        }
    }
}

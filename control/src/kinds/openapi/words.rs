//! What `kubectl explain` says of the fields that every object has.
//!
//! Owns these sentences alone: fields of kinds have no prose.

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const WORDS: [(&str, &str); 15] = [
    (
        "annotations",
        "Annotations are keys and values that tools keep with an object; nothing is selected by them.",
    ),
    (
        "creationTimestamp",
        "CreationTimestamp is a timestamp of the moment the server stored the object first. Clients do not set it.",
    ),
    (
        "deletionGracePeriodSeconds",
        "Seconds that the object has to end by itself once its deletion was asked for. Read-only.",
    ),
    (
        "deletionTimestamp",
        "DeletionTimestamp is the time from which the object may be gone; set by the server when a deletion is asked \
         for and something still has to happen before. Read-only.",
    ),
    (
        "finalizers",
        "Names of those who have to do something before a deleted object goes; each takes its own name away.",
    ),
    (
        "generateName",
        "Beginning of a name that the server completes when name is empty.",
    ),
    (
        "generation",
        "Counts the changes of the desired state. Read-only.",
    ),
    ("labels", "Keys and values that the object is selected by."),
    (
        "managedFields",
        "Which manager set which fields, as server-side apply knows it.",
    ),
    (
        "name",
        "Name of the object, unique among those of its kind and namespace. It cannot be changed.",
    ),
    ("namespace", "Namespace the object is in. It cannot be changed."),
    (
        "ownerReferences",
        "Objects that this one depends on: when all of them are gone it is collected.",
    ),
    (
        "resourceVersion",
        "Opaque version of the object as it is stored. In an update it must be the version that was read.",
    ),
    ("selfLink", "Not set any more."),
    (
        "uid",
        "Identity of this object, never used again for another. Read-only.",
    ),
];

/// The description of a field of a definition, when there is one.
pub(super) fn of(definition: &str, field: &str) -> Option<&'static str> {
    let words = WORDS.iter().filter(|_| definition == OBJECT_META);
    words
        .into_iter()
        .find(|(name, _)| *name == field)
        .map(|(_, words)| *words)
}

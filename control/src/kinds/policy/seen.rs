//! The types of what expressions see beside the object: the request, and the Namespace (Kubernetes' reference of
//! ValidatingAdmissionPolicy lists them).
use std::sync::{Arc, OnceLock};

use crate::cel::{Structure, Type};

/// `request`.
pub fn request() -> &'static Type {
    static TYPE: OnceLock<Type> = OnceLock::new();
    TYPE.get_or_init(|| {
        let kind = texts("GroupVersionKind", ["group", "version", "kind"]);
        let resource = texts("GroupVersionResource", ["group", "version", "resource"]);
        let user = object(
            "UserInfo",
            [
                ("username", Type::String),
                ("uid", Type::String),
                ("groups", Type::list(Type::String)),
                ("extra", Type::map(Type::String, Type::list(Type::String))),
            ],
        );
        object(
            "AdmissionRequest",
            [
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", Type::String),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", Type::String),
                ("name", Type::String),
                ("namespace", Type::String),
                ("operation", Type::String),
                ("userInfo", user),
                ("dryRun", Type::Bool),
                ("options", Type::Dyn),
            ],
        )
    })
}

/// `namespaceObject`.
pub fn namespace() -> &'static Type {
    static TYPE: OnceLock<Type> = OnceLock::new();
    TYPE.get_or_init(|| {
        let condition = object(
            "NamespaceCondition",
            [
                ("status", Type::String),
                ("type", Type::String),
                ("lastTransitionTime", Type::Timestamp),
                ("message", Type::String),
                ("reason", Type::String),
            ],
        );
        let status = object(
            "NamespaceStatus",
            [("conditions", Type::list(condition)), ("phase", Type::String)],
        );
        let spec = object("NamespaceSpec", [("finalizers", Type::list(Type::String))]);
        object(
            "Namespace",
            [("metadata", metadata()), ("spec", spec), ("status", status)],
        )
    })
}

fn metadata() -> Type {
    let labels = Type::map(Type::String, Type::String);
    object(
        "NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", labels.clone()),
            ("annotations", labels),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", Type::list(Type::String)),
        ],
    )
}

fn texts<const N: usize>(name: &str, fields: [&'static str; N]) -> Type {
    object(name, fields.map(|field| (field, Type::String)))
}

fn object<const N: usize>(name: &str, fields: [(&str, Type); N]) -> Type {
    Type::Object(Arc::new(Structure {
        name: format!("kubernetes.{name}"),
        fields: fields.map(|(field, ty)| (field.to_owned(), ty)).into(),
    }))
}

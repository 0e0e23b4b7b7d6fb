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
                ("username", Type::string()),
                ("uid", Type::string()),
                ("groups", Type::list(Type::string())),
                ("extra", Type::map(Type::string(), Type::list(Type::string()))),
            ],
        );
        object(
            "AdmissionRequest",
            [
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", Type::string()),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", Type::string()),
                ("name", Type::string()),
                ("namespace", Type::string()),
                ("operation", Type::string()),
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
                ("status", Type::string()),
                ("type", Type::string()),
                ("lastTransitionTime", Type::Timestamp),
                ("message", Type::string()),
                ("reason", Type::string()),
            ],
        );
        let status = object(
            "NamespaceStatus",
            [("conditions", Type::list(condition)), ("phase", Type::string())],
        );
        let spec = object("NamespaceSpec", [("finalizers", Type::list(Type::string()))]);
        object(
            "Namespace",
            [("metadata", metadata()), ("spec", spec), ("status", status)],
        )
    })
}

fn metadata() -> Type {
    let labels = Type::map(Type::string(), Type::string());
    object(
        "NamespaceMetadata",
        [
            ("name", Type::string()),
            ("generateName", Type::string()),
            ("namespace", Type::string()),
            ("labels", labels.clone()),
            ("annotations", labels),
            ("UID", Type::string()),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::string()),
            ("finalizers", Type::list(Type::string())),
        ],
    )
}

fn texts<const N: usize>(name: &str, fields: [&'static str; N]) -> Type {
    object(name, fields.map(|field| (field, Type::string())))
}

fn object<const N: usize>(name: &str, fields: [(&str, Type); N]) -> Type {
    Type::Object(Arc::new(Structure {
        name: format!("kubernetes.{name}"),
        fields: fields.map(|(field, ty)| (field.to_owned(), ty)).into(),
    }))
}

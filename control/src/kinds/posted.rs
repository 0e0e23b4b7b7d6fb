//! Kinds of what is asked of an object, posted below it or told by the query of a connection to it: decoded, completed and
//! admitted as any other, but never stored. They have no path of their own, and so no row in the table.
use std::sync::{Arc, LazyLock};

use super::kind::Kind;
use super::rules::Rules;
use super::schema::{Definition, Field, Schemas, Type, Wire};
use super::view::{object_mut, set_missing};

/// Seconds that a token lives when nothing is said.
const LIFE: i64 = 3600;

pub static BINDING: LazyLock<Kind> = LazyLock::new(|| posted(["", "v1", "Binding"], &Rules::PLAIN));
pub static EVICTION: LazyLock<Kind> = LazyLock::new(|| posted(["policy", "v1", "Eviction"], &Rules::PLAIN));
/// What is put or patched in the place of an object's replicas.
pub static SCALE: LazyLock<Kind> = LazyLock::new(|| posted(["autoscaling", "v1", "Scale"], &Rules::PLAIN));
pub static TOKEN_REQUEST: LazyLock<Kind> =
    LazyLock::new(|| posted(["authentication.k8s.io", "v1", "TokenRequest"], &TOKEN));

static TOKEN: Rules = Rules {
    default: |request| {
        if let Some(spec) = object_mut(request, "spec") {
            set_missing(spec, "expirationSeconds", LIFE);
        }
    },
    ..Rules::PLAIN
};

/// What the query of a connection says. OpenAPI does not tell of these: their fields are parameters there.
static OPTIONS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let text = |name: &str| optional(name, Type::String);
    let streams = || ["stdin", "stdout", "stderr", "tty"].map(|name| optional(name, Type::Bool));
    let attach = || streams().into_iter().chain([text("container")]);
    let mut command = optional("command", Type::List(Box::new(Type::String)));
    command.wire = Wire::Null;
    let ports = optional("ports", Type::List(Box::new(Type::Int32)));
    let mut all = vec![
        options("PodAttachOptions", attach().collect()),
        options("PodExecOptions", attach().chain([command]).collect()),
        options("PodPortForwardOptions", vec![ports]),
    ];
    let proxies = ["PodProxyOptions", "NodeProxyOptions", "ServiceProxyOptions"];
    all.extend(proxies.map(|kind| options(kind, vec![text("path")])));
    all
});

/// The kind of that name, of the options of a connection.
pub fn of_connection(kind: &str) -> Option<&'static Kind> {
    OPTIONS.iter().find(|options| options.kind == kind)
}

fn optional(name: &str, ty: Type) -> Field {
    let mut field = Field::plain(name, ty);
    field.wire = Wire::OmitZero;
    field
}

fn options(kind: &str, mut fields: Vec<Field>) -> Kind {
    fields.extend(["kind", "apiVersion"].map(|name| optional(name, Type::String)));
    let definition = Definition::object(kind, fields);
    unserved(["", "v1", kind], Arc::new(definition), &Rules::PLAIN)
}

fn posted(gvk: [&str; 3], rules: &'static Rules) -> Kind {
    let wanted = gvk.map(str::to_owned).into();
    let mut all = Schemas::builtin().iter();
    let known = all.find(|d| d.group_version_kinds.contains(&wanted)).cloned();
    let definition = known.unwrap_or_else(|| Arc::new(Definition::object(gvk[2], Vec::new())));
    unserved(gvk, definition, rules)
}

fn unserved(gvk: [&str; 3], definition: Arc<Definition>, rules: &'static Rules) -> Kind {
    let [group, version, kind] = gvk.map(str::to_owned);
    Kind {
        definition,
        schemas: Schemas::builtin().clone(),
        list_kind: String::new(),
        plural: String::new(),
        singular: String::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: Vec::new(),
        subresources: Vec::new(),
        storage_prefix: String::new(),
        columns: Vec::new(),
        rules,
        custom: None,
        group,
        version,
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    #[test]
    fn they_are_read_by_their_schemas() {
        for (kind, sent, whole) in [
            (
                &BINDING,
                json!({"target": {"name": "n", "kind": ""}}),
                json!({"apiVersion": "v1", "kind": "Binding", "metadata": {}, "target": {"name": "n"}}),
            ),
            (
                &EVICTION,
                json!({"deleteOptions": {"gracePeriodSeconds": 0}}),
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {},
                    "deleteOptions": {"gracePeriodSeconds": 0}}),
            ),
            (
                &TOKEN_REQUEST,
                json!({"spec": {"audiences": ["a"]}}),
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {},
                    "spec": {"audiences": ["a"], "expirationSeconds": 3600, "boundObjectRef": null},
                    "status": {"token": "", "expirationTimestamp": null}}),
            ),
        ] {
            let mut sent = sent;
            kind.prune(&mut sent).expect("fits");
            kind.default(&mut sent);
            kind.normalise(&mut sent);
            assert_eq!(sent, whole);
        }
    }

    #[test]
    fn every_connection_has_options() {
        let kinds = Registry::builtin().iter();
        let subresources = kinds.flat_map(|kind| &kind.subresources);
        let options = subresources.filter(|sub| sub.kind.ends_with("Options"));
        let unknown: Vec<_> = options.filter(|sub| of_connection(&sub.kind).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let mut exec = json!({"stdin": false, "stdout": true});
        of_connection("PodExecOptions")
            .expect("known")
            .normalise(&mut exec);
        let whole = json!({"apiVersion": "v1", "kind": "PodExecOptions", "stdout": true, "command": null});
        assert_eq!(exec, whole);
    }
}

//! OpenAPI documents of the served kinds: what `kubectl explain`, `apply` and validation by clients need.
//!
//! Version 2 in one document, version 3 by group and version with an index. Facts only, and few words. Refuses to know HTTP.
mod definitions;
pub mod gnostic;
pub mod merge;
mod operations;
mod parameters;
mod words;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::custom;
use super::kind::Kind;
use super::registry::Registry;

use super::schema::{BUILTIN, Schemas};
use definitions::{Dialect, closure, render};

const TITLE: &str = "Kubernetes";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// Types that every document needs: bodies and answers of the verbs.
const COMMON: [&str; 4] = ["Status", "DeleteOptions", "Patch", "WatchEvent"];

/// The Swagger 2.0 document of everything served. `version` is the server's (`v1.36.2`).
pub fn v2(registry: &Registry, version: &str) -> Value {
    let kinds: Vec<&Kind> = registry.iter().map(AsRef::as_ref).collect();
    let info = json!({"title": TITLE, "version": version});
    json!({
        "swagger": "2.0",
        "info": info,
        "paths": paths(&kinds, Dialect::V2),
        "definitions": schemas(&kinds, Dialect::V2),
    })
}

/// The index of version 3 documents: path by path, with a hash that changes when the document does.
pub fn v3_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, version) in registry.group_versions() {
        let path = path_of(group, version);
        let url = format!(
            "/openapi/v3/{path}?hash={:016X}",
            hash(&kinds_of(registry, group, version))
        );
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The OpenAPI 3.0 document of a group and version (`""`, `v1`), when it is served.
pub fn v3(registry: &Registry, group: &str, version: &str, server_version: &str) -> Option<Value> {
    let kinds = kinds_of(registry, group, version);
    (!kinds.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": {"title": TITLE, "version": server_version},
            "paths": paths(&kinds, Dialect::V3),
            "components": {"schemas": schemas(&kinds, Dialect::V3)},
        })
    })
}

/// `api/v1`, `apis/apps/v1`.
fn path_of(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

fn kinds_of<'a>(registry: &'a Registry, group: &str, version: &str) -> Vec<&'a Kind> {
    registry
        .iter()
        .map(AsRef::as_ref)
        .filter(|k| k.group == group && k.version == version)
        .collect()
}

fn hash(kinds: &[&Kind]) -> u64 {
    let mut hasher = DefaultHasher::new();
    BUILTIN.hash(&mut hasher);
    for kind in kinds {
        kind.custom.as_ref().map(|c| c.fingerprint).hash(&mut hasher);
        kind.plural.hash(&mut hasher);
        kind.subresources.iter().for_each(|s| s.name.hash(&mut hasher));
    }
    hasher.finish()
}

fn paths(kinds: &[&Kind], dialect: Dialect) -> Map<String, Value> {
    kinds
        .iter()
        .flat_map(|kind| operations::paths(kind, dialect))
        .collect()
}

fn schemas(kinds: &[&Kind], dialect: Dialect) -> Map<String, Value> {
    let mut names: BTreeSet<String> = COMMON.iter().map(|name| format!("{META}{name}")).collect();
    let mut customs = Map::new();
    for kind in kinds {
        match &kind.custom {
            Some(custom) => {
                let reference = |name: &str| dialect.reference(name);
                let (own, list) = (&kind.definition.name, format!("{}List", kind.definition.name));
                let v2 = dialect == Dialect::V2;
                customs.insert(
                    own.clone(),
                    custom::openapi_definition(kind, custom, v2, &reference),
                );
                customs.insert(list, custom::openapi_list(kind, custom, v2, &reference));
                names.extend(["ObjectMeta", "ListMeta"].map(|name| format!("{META}{name}")));
            }
            None => {
                names.insert(kind.definition.name.clone());
                names.insert(format!("{}List", kind.definition.name));
            }
        }
        names.extend(
            kind.subresources
                .iter()
                .filter_map(|s| definitions::of_kind(kind, s)),
        );
    }
    let all = closure(Schemas::builtin(), names);
    let all = all.iter().map(|d| (d.name.clone(), render(d, dialect)));
    all.chain(customs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_is_defined() {
        let registry = Registry::builtin();
        let mut documents = vec![(v2(registry, "v1.36.2"), "definitions", "#/definitions/")];
        for (group, version) in registry.group_versions() {
            let document = v3(registry, group, version, "v1.36.2").expect("served");
            documents.push((document["components"].clone(), "schemas", "#/components/schemas/"));
        }
        for (document, key, prefix) in documents {
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix(prefix).expect("prefix");
                assert!(document[key].get(name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn a_definition_is_no_mere_name() {
        for dialect in [Dialect::V2, Dialect::V3] {
            for definition in Schemas::builtin().iter() {
                let shown = render(definition, dialect);
                assert!(shown.get("$ref").is_none(), "{}: {shown}", definition.name);
            }
            let time = Schemas::builtin().get("io.k8s.apimachinery.pkg.apis.meta.v1.Time");
            let time = render(time.expect("known"), dialect);
            assert_eq!(time, serde_json::json!({"type": "string", "format": "date-time"}));
        }
    }

    #[test]
    fn kubectl_finds_field_validation_on_patch() {
        let document = v3(Registry::builtin(), "apps", "v1", "v1.36.2").expect("served");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names: Vec<&Value> = patch["parameters"]
            .as_array()
            .expect("list")
            .iter()
            .map(|p| &p["name"])
            .collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
    }

    #[test]
    fn operations_say_what_they_answer_and_where_else_they_are() {
        let document = v2(Registry::builtin(), "v1.36.2");
        let at = |path: &str, method: &str| document["paths"][path][method].clone();
        let pods = "/api/v1/namespaces/{namespace}/pods";
        for (path, method, id, codes) in [
            (
                pods,
                "post",
                "createCoreV1NamespacedPod",
                &["200", "201", "202", "401"][..],
            ),
            (
                pods,
                "delete",
                "deleteCoreV1CollectionNamespacedPod",
                &["200", "401"],
            ),
            (
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
                "put",
                "replaceRbacAuthorizationV1ClusterRole",
                &["200", "201", "401"],
            ),
            (
                "/api/v1/watch/namespaces/{namespace}/pods",
                "get",
                "watchCoreV1NamespacedPodList",
                &["200", "401"],
            ),
            (
                "/api/v1/nodes/{name}/proxy/{path}",
                "head",
                "connectCoreV1HeadNodeProxyWithPath",
                &["200", "401"],
            ),
        ] {
            let operation = at(path, method);
            assert_eq!(operation["operationId"], id);
            let told: Vec<&String> = operation["responses"].as_object().expect("some").keys().collect();
            assert_eq!(told, codes, "{path}");
        }
        let deleted = &at(&format!("{pods}/{{name}}"), "delete")["responses"]["202"]["schema"]["$ref"];
        assert_eq!(deleted, "#/definitions/io.k8s.api.core.v1.Pod");
        assert!(document["paths"].get("/api/v1/bindings").is_none());
    }

    #[test]
    fn merge_keys_are_told() {
        let document = v3(Registry::builtin(), "", "v1", "v1.36.2").expect("served");
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(
            spec["properties"]["containers"]["x-kubernetes-patch-merge-key"],
            "name"
        );
        assert_eq!(spec["required"], json!(["containers"]));
        assert!(v3_index(Registry::builtin())["paths"]["api/v1"]["serverRelativeURL"].is_string());
    }
}

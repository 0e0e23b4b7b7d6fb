//! OpenAPI documents of the served kinds: what `kubectl explain`, `apply` and validation by clients need.
//!
//! Version 2 in one document, version 3 by group and version with an index. Facts only, and few words. Refuses to know HTTP.
mod definitions;
mod documents;
pub mod gnostic;
pub mod merge;
mod operations;
mod parameters;
mod shared;
mod words;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use super::custom;
use super::kind::Kind;
use super::registry::Registry;

use super::schema::Schemas;
use definitions::{Dialect, closure, render};

const TITLE: &str = "Kubernetes";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const GVK: &str = "x-kubernetes-group-version-kind";
/// Title and version that upstream gives the documents of definitions.
const CUSTOM_INFO: (&str, &str) = ("Kubernetes CRD Swagger", "v0.1.0");
/// Types that every document needs: bodies and answers of the verbs.
const COMMON: [&str; 4] = ["Status", "DeleteOptions", "Patch", "WatchEvent"];
const BEARER: &str = "BearerToken";

/// The Swagger 2.0 document of everything served. `version` is the server's (`v1.36.2`).
pub fn v2(registry: &Registry, version: &str) -> Value {
    let kinds: Vec<&Kind> = registry.iter().map(AsRef::as_ref).collect();
    let info = json!({"title": TITLE, "version": version});
    let (mut paths, mut definitions) = (paths(&kinds, Dialect::V2), common());
    let versions = own_versions(registry);
    let known = documents::paths(versions.iter().map(|(group, _)| *group));
    let told = known.iter().filter_map(|path| documents::of(path, Dialect::V2));
    let of_versions = versions.iter();
    let of_versions = of_versions.map(|(group, version)| documents::of_version(group, version, Dialect::V2));
    for written in told.chain(of_versions) {
        paths.insert(written.path, written.item);
        definitions.extend(written.definition);
    }
    let mut document = json!({
        "swagger": "2.0",
        "info": info,
        "paths": paths,
        "definitions": schemas(&kinds, definitions, Dialect::V2),
        "securityDefinitions": security(),
        "security": [{BEARER: []}],
    });
    shared::share(&mut document);
    document
}

/// The paths of the documents of version 3, each with a number that is another when its kinds are.
pub fn v3_paths(registry: &Registry) -> Vec<(String, u64)> {
    let of_server = documents::paths(own_versions(registry).into_iter().map(|(group, _)| group));
    let of_server = of_server.into_iter().map(|path| (path, hash(&[])));
    let versions = registry.group_versions().into_iter();
    let of_versions =
        versions.map(|(group, version)| (path_of(group, version), hash(&kinds_of(registry, group, version))));
    of_server.chain(of_versions).collect()
}

/// The OpenAPI 3.0 document of a path below the root (`api/v1`, `apis/apps`, `version`), when it is served.
pub fn v3(registry: &Registry, path: &str, server_version: &str) -> Option<Value> {
    let version = registry
        .group_versions()
        .into_iter()
        .find(|(group, version)| path_of(group, version) == path);
    let known = || documents::paths(own_versions(registry).into_iter().map(|(group, _)| group));
    let (mut paths, mut definitions, kinds, own) = match version {
        Some((group, version)) => {
            let kinds = kinds_of(registry, group, version);
            let own = kinds.iter().any(|kind| kind.custom.is_none());
            let own = own.then(|| documents::of_version(group, version, Dialect::V3));
            let stored = kinds.iter().any(|kind| kind.has_verb("delete"));
            let mut common = if stored { common() } else { BTreeSet::new() };
            if own.is_none() {
                // The paths below `watch/` are the built-in kinds' alone.
                common.remove(&format!("{META}WatchEvent"));
            }
            (paths(&kinds, Dialect::V3), common, kinds, own)
        }
        None if known().iter().any(|known| known == path) => (
            Map::new(),
            BTreeSet::new(),
            Vec::new(),
            documents::of(path, Dialect::V3),
        ),
        None => return None,
    };
    if let Some(own) = own {
        paths.insert(own.path, own.item);
        definitions.extend(own.definition);
    }
    let mut schemas = schemas(&kinds, definitions, Dialect::V3);
    let of_definitions = !kinds.is_empty() && kinds.iter().all(|kind| kind.custom.is_some());
    let mut components = json!({});
    if !of_definitions {
        components["securitySchemes"] = security();
        schemas.values_mut().for_each(|schema| keep_own(schema, version));
    }
    if !schemas.is_empty() {
        components["schemas"] = schemas.into();
    }
    let info = match of_definitions {
        true => CUSTOM_INFO,
        false => (TITLE, server_version),
    };
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": info.0, "version": info.1},
        "paths": paths,
        "components": components,
    }))
}

/// Of a schema that many groups have, those that say what this document is about: the core group and its own.
fn keep_own(schema: &mut Value, version: Option<(&str, &str)>) {
    let kinds = schema.get_mut(GVK).and_then(Value::as_array_mut);
    let Some(kinds) = kinds.filter(|kinds| kinds.len() > 1) else {
        return;
    };
    kinds.retain(|kind| {
        let of = (kind["group"].as_str(), kind["version"].as_str());
        of == (Some(""), Some("v1")) || of.0.zip(of.1) == version
    });
}

/// Groups and versions with built-in kinds.
fn own_versions(registry: &Registry) -> Vec<(&str, &str)> {
    let mut versions = registry.group_versions();
    versions.retain(|(group, version)| {
        kinds_of(registry, group, version)
            .iter()
            .any(|k| k.custom.is_none())
    });
    versions
}

/// How clients say who they are.
fn security() -> Value {
    json!({BEARER: {"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}})
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

/// Names of what the verbs of kinds need.
fn common() -> BTreeSet<String> {
    COMMON.iter().map(|name| format!("{META}{name}")).collect()
}

/// The definitions of kinds and those of these names, with all that they refer to.
fn schemas(kinds: &[&Kind], mut names: BTreeSet<String>, dialect: Dialect) -> Map<String, Value> {
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
        let mut whole = v2(registry, "v1.36.2");
        let shared = whole["parameters"].take();
        for (_, item) in whole["paths"].as_object_mut().expect("paths") {
            shared::inline(item, &shared);
        }
        let mut documents = vec![(whole, "definitions", "#/definitions/")];
        for (path, _) in v3_paths(registry) {
            let document = v3(registry, &path, "v1.36.2").expect("served");
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
        let document = v3(Registry::builtin(), "apis/apps/v1", "v1.36.2").expect("served");
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
    fn documents_are_told_of() {
        let (registry, json) = (Registry::builtin(), "application/json");
        let whole = v2(registry, "v1.36.2");
        for (path, key, id) in [
            ("/api/", "api", "getCoreAPIVersions"),
            ("/api/v1/", "api/v1", "getCoreV1APIResources"),
            ("/apis/", "apis", "getAPIVersions"),
            (
                "/apis/rbac.authorization.k8s.io/",
                "apis/rbac.authorization.k8s.io",
                "getRbacAuthorizationAPIGroup",
            ),
            ("/apis/apps/v1/", "apis/apps/v1", "getAppsV1APIResources"),
            ("/version/", "version", "getCodeVersion"),
        ] {
            let get = &whole["paths"][path]["get"];
            assert_eq!(get["operationId"], id);
            assert_eq!(get["produces"][0], json);
            let document = v3(registry, key, "v1.36.2").expect(key);
            let get = &document["paths"][path]["get"];
            assert!(get["responses"]["200"]["content"][json].is_object(), "{path}");
        }
        assert!(v3(registry, "apis/nope", "v1.36.2").is_none() && v3(registry, "", "v1.36.2").is_none());
    }

    #[test]
    fn a_document_has_what_it_needs() {
        let schemas =
            |path: &str| v3(Registry::builtin(), path, "1.36").expect(path)["components"]["schemas"].clone();
        let reviews = schemas("apis/authentication.k8s.io/v1");
        assert!(reviews.get(format!("{META}ObjectMeta")).is_some());
        assert!(reviews.get(format!("{META}DeleteOptions")).is_none());
        let options = &schemas("apis/apps/v1")[format!("{META}DeleteOptions")];
        let groups: Vec<&Value> = options[GVK]
            .as_array()
            .expect("kinds")
            .iter()
            .map(|k| &k["group"])
            .collect();
        assert_eq!(groups, ["", "apps"]);
        assert!(schemas("openid/v1/jwks").is_null());
        let claim = &schemas("api/v1")["io.k8s.api.core.v1.PersistentVolumeClaimStatus"];
        let states = &claim["properties"]["allocatedResourceStatuses"]["additionalProperties"]["enum"];
        assert_eq!(states[0], "ControllerResizeInProgress");
    }

    #[test]
    fn merge_keys_are_told() {
        let document = v3(Registry::builtin(), "api/v1", "v1.36.2").expect("served");
        let spec = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
        assert_eq!(
            spec["properties"]["containers"]["x-kubernetes-patch-merge-key"],
            "name"
        );
        assert_eq!(spec["required"], json!(["containers"]));
    }
}

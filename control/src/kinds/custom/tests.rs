//! Custom resources as a whole: from a definition to what happens to its objects.
mod bounded;
mod costs;
mod numbers;
mod ratcheting;
mod rules;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::kinds::error::join;
use crate::kinds::registry::Registry;

fn schema() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["cronSpec"], "properties": {
            "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)$"},
            "image": {"type": "string", "minLength": 2, "maxLength": 5},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
            "mode": {"type": "string", "enum": ["a", "b"]},
            "port": {"x-kubernetes-int-or-string": true},
            "nothing": {"type": "string", "nullable": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}, "maxItems": 3},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {
                    "name": {"type": "string"}, "size": {"type": "integer", "minimum": 1}}}},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
            "one": {"type": "integer", "oneOf": [{"minimum": 5}, {"maximum": 6}]},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
    }})
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas"}},
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}]}]}})
}

fn definition_kind() -> Kind {
    let kind = Registry::builtin().resource("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    std::sync::Arc::into_inner(std::sync::Arc::new(())).expect("new");
    clone_of(kind.expect("served"))
}

/// Kinds are not cloned by the program; tests take them from the table again.
fn clone_of(kind: &Kind) -> Kind {
    Kind {
        group: kind.group.clone(),
        version: kind.version.clone(),
        kind: kind.kind.clone(),
        list_kind: kind.list_kind.clone(),
        plural: kind.plural.clone(),
        singular: kind.singular.clone(),
        short_names: kind.short_names.clone(),
        categories: kind.categories.clone(),
        namespaced: kind.namespaced,
        verbs: kind.verbs.clone(),
        subresources: kind.subresources.clone(),
        storage_prefix: kind.storage_prefix.clone(),
        columns: kind.columns.clone(),
        schemas: kind.schemas.clone(),
        definition: kind.definition.clone(),
        rules: kind.rules,
        custom: None,
    }
}

/// The definition as it would be stored.
fn admitted(mut definition: Value) -> Result<Value, String> {
    let kind = definition_kind();
    kind.prune(&mut definition).map_err(|e| e.to_string())?;
    kind.default(&mut definition);
    kind.prepare_create(&mut definition);
    let errors = kind.validate_create(&definition);
    kind.normalise(&mut definition);
    if errors.is_empty() {
        Ok(definition)
    } else {
        Err(join(&errors))
    }
}

fn established() -> Value {
    let mut definition = admitted(definition()).expect("valid");
    let naming = settle_names(&definition, std::iter::empty());
    definition["status"]["acceptedNames"] = naming.accepted;
    definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    definition
}

fn cron() -> Kind {
    kinds(&established()).remove(0)
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "c", "namespace": "n"}, "spec": spec})
}

fn errors(spec: Value) -> String {
    let (kind, mut object) = (cron(), object(spec));
    kind.prune(&mut object).expect("decodes");
    kind.default(&mut object);
    join(&kind.validate_create(&object))
}

#[test]
fn a_definition_gets_its_defaults_and_becomes_a_kind() {
    let definition = established();
    assert_eq!(definition["spec"]["names"]["listKind"], "CronTabList");
    assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    let kind = cron();
    assert_eq!(
        (kind.singular.as_str(), kind.short_names[0].as_str()),
        ("crontab", "ct")
    );
    assert_eq!(
        kind.key(Some("n"), "c"),
        "/registry/stable.example.com/crontabs/n/c"
    );
    let names: Vec<&str> = kind.subresources.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["status", "scale"]);
}

#[test]
fn bad_definitions_are_refused_in_upstreams_words() {
    let cases: [(&str, Value, &str); 12] = [
        (
            "/metadata/name",
            json!("x"),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/scope",
            json!("Both"),
            "spec.scope: Unsupported value: \"Both\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/spec/group",
            json!("one"),
            "spec.group: Invalid value: \"one\": should be a domain with at least one dot",
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            "must have exactly one version marked as storage version",
        ),
        (
            "/spec/versions/0/schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/image",
            json!({"minLength": 1}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[image].type: Required value: must not be empty for specified object fields",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/image",
            json!({"type": "string", "pattern": "("}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[image].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/image",
            json!({"type": "string", "default": 1}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[image].default: Invalid value: \"integer\": ",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/type",
            json!("string"),
            "spec.validation.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/type",
            json!("text"),
            "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            "/spec/versions/0/subresources/scale/specReplicasPath",
            json!(".status.replicas"),
            "spec.subresources.scale.specReplicasPath: Invalid value: \".status.replicas\": should be a json path under .spec",
        ),
        (
            "/spec/versions/0/selectableFields/0/jsonPath",
            json!(".spec.tags"),
            "spec.selectableFields[0].jsonPath: Invalid value: \".spec.tags\": must point to a field of type string",
        ),
    ];
    for (path, value, want) in cases {
        let mut definition = definition();
        *definition.pointer_mut(path).expect(path) = value;
        let found = admitted(definition).expect_err(path);
        assert!(found.contains(want), "{path}\n  {found}\n  {want}");
    }
}

#[test]
fn values_are_judged_in_upstreams_words() {
    for (spec, want) in [
        (json!({}), "spec.cronSpec: Required value"),
        (
            json!({"cronSpec": 1}),
            "spec.cronSpec: Invalid value: \"integer\": spec.cronSpec in body must be of type string: \"integer\"",
        ),
        (
            json!({"cronSpec": "x"}),
            "spec.cronSpec: Invalid value: \"x\": spec.cronSpec in body should match '^(\\d+|\\*)$'",
        ),
        (
            json!({"cronSpec": "1", "replicas": 15}),
            "spec.replicas: Invalid value: 15: spec.replicas in body should be less than or equal to 10",
        ),
        (
            json!({"cronSpec": "1", "mode": "c"}),
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"cronSpec": "1", "image": "a"}),
            "spec.image: Invalid value: \"a\": spec.image in body should be at least 2 chars long",
        ),
        (
            json!({"cronSpec": "1", "image": "abcdef"}),
            "spec.image: Too long: may not be more than 5 bytes",
        ),
        (
            json!({"cronSpec": "1", "port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"cronSpec": "1", "tags": ["a", "a"]}),
            "spec.tags[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"cronSpec": "1", "tags": ["a", "b", "c", "d"]}),
            "spec.tags: Too many: 4: must have at most 3 items",
        ),
        (
            json!({"cronSpec": "1", "parts": [{"name": "x"}, {"name": "x"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"x\"}",
        ),
        (
            json!({"cronSpec": "1", "labels": {"a": 1}}),
            "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
        ),
        (
            json!({"cronSpec": "1", "template": {"kind": "X"}}),
            "spec.template.apiVersion: Required value",
        ),
        (
            json!({"cronSpec": "1", "template": {"kind": "X_", "apiVersion": "a/b/c", "metadata": {"labels": {"a b": ""}}}}),
            "[spec.template.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c, spec.template.kind: Invalid value: \"X_\": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?'), spec.template.metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')]",
        ),
        (
            json!({"cronSpec": "1", "one": 5}),
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
    ] {
        assert_eq!(errors(spec), want);
    }
}

#[test]
fn what_is_not_specified_is_pruned_and_told() {
    let (kind, mut object) = (
        cron(),
        object(json!({"cronSpec": "1", "nope": 1, "any": {"kept": {"x": 1}},
        "parts": [{"name": "x", "nope": 1}], "template": {"apiVersion": "v1", "kind": "X", "metadata": {"nope": 1}, "x": 1}})),
    );
    let issues: Vec<String> = kind
        .prune(&mut object)
        .expect("decodes")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        issues,
        [
            "unknown field \"spec.nope\"",
            "unknown field \"spec.parts[0].nope\"",
            "unknown field \"spec.template.metadata.nope\""
        ]
    );
    assert_eq!(object["spec"]["any"], json!({"kept": {"x": 1}}));
    assert_eq!(
        object["spec"]["template"],
        json!({"apiVersion": "v1", "kind": "X", "metadata": {}, "x": 1})
    );
}

#[test]
fn metadata_of_embedded_objects_is_decoded() {
    for (template, want) in [
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": 1}}}),
            "spec.template.metadata: Invalid value: {\"labels\":{\"a\":1}}: json: cannot unmarshal number into Go struct \
             field ObjectMeta.labels of type string",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": "x"}),
            "spec.template.metadata: Invalid value: \"x\": json: cannot unmarshal string into Go value of type v1.ObjectMeta",
        ),
        (
            json!({"apiVersion": "v1", "kind": 5}),
            "spec.template.kind: Invalid value: 5: must be a string",
        ),
    ] {
        let mut object = object(json!({"cronSpec": "1", "template": template}));
        let told = cron().prune(&mut object).expect_err("refused").to_string();
        assert_eq!(told, want);
    }
    let template = json!({"apiVersion": "v1", "kind": "Pod", "metadata": null});
    let mut object = object(json!({"cronSpec": "1", "template": template}));
    assert!(cron().prune(&mut object).is_ok());
    assert_eq!(object["spec"]["template"]["metadata"], json!({}));
}

/// Documented of upstream: what is read has the defaults of the version by which it was stored.
#[test]
fn another_version_shows_an_object_without_defaults_of_its_own() {
    let mut definition = established();
    let mut second = definition["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"] =
        json!({"cronSpec": {"type": "string"}, "fresh": {"type": "integer", "default": 7}});
    definition["spec"]["versions"]
        .as_array_mut()
        .expect("a list")
        .push(second);
    let kinds = kinds(&definition);
    let second = kinds.iter().find(|kind| kind.version == "v2").expect("served");
    let mut read = object(json!({"cronSpec": "1", "replicas": 1}));
    second.from_storage(&mut read);
    second.normalise(&mut read);
    assert_eq!(read["spec"], json!({"cronSpec": "1"}));
    assert_eq!(read["apiVersion"], "stable.example.com/v2");
}

#[test]
fn defaults_replace_what_is_missing_and_nulls() {
    for (given, want) in [
        (json!({"cronSpec": "1"}), json!({"cronSpec": "1", "replicas": 1})),
        (
            json!({"cronSpec": "1", "replicas": null}),
            json!({"cronSpec": "1", "replicas": 1}),
        ),
        (
            json!({"cronSpec": "1", "replicas": 3, "image": null, "nothing": null}),
            json!({"cronSpec": "1", "replicas": 3, "nothing": null}),
        ),
    ] {
        let mut object = object(given);
        cron().default(&mut object);
        assert_eq!(object["spec"], want);
    }
}

#[test]
fn an_update_is_not_blamed_for_what_was_there() {
    let kind = cron();
    let old = object(json!({"cronSpec": "1", "replicas": 15, "parts": [{"name": "x", "size": 0}]}));
    let mut new = old.clone();
    new["spec"]["cronSpec"] = "2".into();
    new["spec"]["parts"] = json!([{"name": "y", "size": 1}, {"name": "x", "size": 0}]);
    assert!(
        kind.validate_update(None, &new, &old)
            .iter()
            .all(|e| e.field.starts_with("metadata"))
    );
    new["spec"]["replicas"] = 16.into();
    assert!(
        kind.validate_update(None, &new, &old)
            .iter()
            .any(|e| e.field == "spec.replicas")
    );
}

#[test]
fn status_and_spec_are_written_apart() {
    let kind = cron();
    let mut old = object(json!({"cronSpec": "1"}));
    old["metadata"]["generation"] = 1.into();
    let mut new = old.clone();
    new["spec"]["cronSpec"] = "2".into();
    new["status"] = json!({"replicas": 1});
    let mut by_object = new.clone();
    kind.prepare_update(None, &mut by_object, &old);
    assert_eq!(
        (by_object.get("status"), &by_object["metadata"]["generation"]),
        (None, &json!(2))
    );
    let mut by_status = new;
    kind.prepare_update(Some("status"), &mut by_status, &old);
    assert_eq!(
        (&by_status["spec"]["cronSpec"], &by_status["status"]["replicas"]),
        (&json!("1"), &json!(1))
    );
    assert_eq!(by_status["metadata"]["generation"], 1);
}

#[test]
fn columns_and_selectable_fields_follow_the_definition() {
    let kind = cron();
    let object = object(json!({"cronSpec": "1", "replicas": 3, "mode": "a"}));
    assert_eq!(
        kind.row(&object, Timestamp::UNIX_EPOCH),
        [json!("c"), json!("1"), json!(3)]
    );
    assert_eq!(kind.selectable_fields(&object)["spec.mode"], "a");
    assert!(kind.supports_field_label("spec.mode") && !kind.supports_field_label("spec.image"));
}

#[test]
fn published_schemas_have_what_every_object_has() {
    let registry = Registry::builtin().extended(kinds(&established()));
    let document = crate::kinds::openapi::v3(&registry, "apis/stable.example.com/v1", "v1").expect("served");
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert!(schema["properties"]["metadata"].is_object());
    assert_eq!(
        schema["properties"]["spec"]["properties"]["replicas"]["default"],
        1
    );
    let item = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
    let patches = &document["paths"][item]["patch"]["requestBody"]["content"];
    assert!(
        patches.get("application/merge-patch+json").is_some()
            && patches.get("application/strategic-merge-patch+json").is_none(),
        "kubectl apply sends what is offered"
    );
    let v2 = crate::kinds::openapi::v2(&registry, "v1");
    let one = &v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"]["one"];
    assert!(one.get("oneOf").is_none());
    assert_eq!(document["info"]["title"], "Kubernetes CRD Swagger");
    let watched = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
    assert!(document["components"]["schemas"].get(watched).is_none());
    let fields = |schema: &Value| schema["properties"]["spec"]["properties"]["port"].clone();
    let either =
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    assert_eq!(fields(schema), either);
    let v2 = &v2["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(fields(v2), json!({"x-kubernetes-int-or-string": true}));
}

#[test]
fn version_2_says_nothing_of_what_it_cannot_say() {
    let mut definition = established();
    let spec = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["required"] = json!(["maybe", "sure"]);
    let properties = &mut spec["properties"];
    properties["maybe"] = json!({"type": "string", "nullable": true, "maxLength": 5});
    properties["sure"] = json!({"type": "string", "default": "s"});
    properties["free"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"a": {"type": "string"}}});
    let registry = Registry::builtin().extended(kinds(&definition));
    let v2 = crate::kinds::openapi::v2(&registry, "v1");
    let spec = &v2["definitions"]["com.example.stable.v1.CronTab"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["sure"]));
    let properties = &spec["properties"];
    assert_eq!(properties["maybe"], json!({"maxLength": 5}));
    assert_eq!(properties["sure"], json!({"type": "string"}));
    assert_eq!(
        properties["free"],
        json!({"x-kubernetes-preserve-unknown-fields": true})
    );
}

#[test]
fn published_schemas_tell_of_selectable_fields_and_embedded_objects() {
    let mut definition = established();
    let version = &mut definition["spec"]["versions"][0];
    version["selectableFields"] = json!([{"jsonPath": ".spec.mode"}]);
    let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec["whole"] = json!({"type": "object", "x-kubernetes-embedded-resource": true});
    let registry = Registry::builtin().extended(kinds(&definition));
    let document = crate::kinds::openapi::v3(&registry, "apis/stable.example.com/v1", "v1").expect("served");
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        schema["x-kubernetes-selectable-fields"],
        json!([{"fieldPath": "spec.mode"}])
    );
    let whole = &schema["properties"]["spec"]["properties"]["whole"];
    assert_eq!(whole["required"], json!(["kind", "apiVersion"]));
    assert!(whole["properties"]["metadata"].is_object());
}

#[test]
fn names_in_use_are_not_given_twice() {
    let mut other = established();
    other["spec"]["names"]["plural"] = "others".into();
    other["status"]["acceptedNames"] =
        json!({"plural": "others", "singular": "other", "kind": "Other", "shortNames": ["ct"]});
    let naming = settle_names(&definition(), [&other].into_iter());
    assert_eq!(
        naming.conflict,
        Some(("ShortNamesConflict", "\"ct\" is already in use".to_owned()))
    );
    assert_eq!(naming.accepted.get("shortNames"), None);
}

//! Paths and operations of a kind.
use serde_json::{Map, Value, json};

use super::definitions::{Dialect, of_kind};
use super::{META, path_of};
use crate::kinds::kind::{Kind, Subresource};

/// Media types a patch may have.
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Those of a custom resource: clients take what is offered here, and strategic merges are not defined on it.
const CUSTOM_PATCHES: [&str; 3] = [PATCHES[0], PATCHES[1], PATCHES[3]];
const LIST_PARAMETERS: [(&str, &str); 10] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE_PARAMETERS: [(&str, &str); 3] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const DELETE_PARAMETERS: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// What an operation is about: the kind, or one of its subresources.
struct Subject<'a> {
    kind: &'a Kind,
    group: &'a str,
    version: &'a str,
    name: &'a str,
    /// Definition of the body.
    body: Option<String>,
    suffix: String,
    dialect: Dialect,
}

/// Every path of a kind with its operations.
pub(super) fn paths(kind: &Kind, dialect: Dialect) -> Vec<(String, Value)> {
    let root = format!("/{}", path_of(&kind.group, &kind.version));
    let collection = match kind.namespaced {
        true => format!("{root}/namespaces/{{namespace}}/{}", kind.plural),
        false => format!("{root}/{}", kind.plural),
    };
    let item = format!("{collection}/{{name}}");
    let subject = Subject::of(kind, dialect);
    let mut paths = Vec::new();
    if kind.namespaced {
        paths.push((
            format!("{root}/{}", kind.plural),
            subject.path_item(&[("get", "list")], false, false),
        ));
    }
    let all = [
        ("get", "list"),
        ("post", "create"),
        ("delete", "deletecollection"),
    ];
    paths.push((collection, subject.path_item(&all, kind.namespaced, false)));
    let verbs = [
        ("get", "get"),
        ("put", "update"),
        ("patch", "patch"),
        ("delete", "delete"),
    ];
    paths.push((item.clone(), subject.path_item(&verbs, kind.namespaced, true)));
    for sub in &kind.subresources {
        let subject = Subject::of_sub(kind, sub, dialect);
        let verbs = [
            ("get", "get"),
            ("put", "update"),
            ("patch", "patch"),
            ("post", "create"),
        ];
        let served: Vec<_> = verbs
            .into_iter()
            .filter(|(_, v)| sub.verbs.iter().any(|s| s == v))
            .collect();
        paths.push((
            format!("{item}/{}", sub.name),
            subject.path_item(&served, kind.namespaced, true),
        ));
    }
    paths
}

impl<'a> Subject<'a> {
    fn of(kind: &'a Kind, dialect: Dialect) -> Self {
        let body = Some(kind.definition.name.clone());
        let (group, version, name) = (&kind.group, &kind.version, &kind.kind);
        Subject {
            kind,
            group,
            version,
            name,
            body,
            suffix: String::new(),
            dialect,
        }
    }

    fn of_sub(kind: &'a Kind, sub: &'a Subresource, dialect: Dialect) -> Self {
        let (group, version, name) = (&sub.group, &sub.version, &sub.kind);
        Subject {
            kind,
            group,
            version,
            name,
            body: of_kind(kind, sub),
            suffix: capital(&sub.name),
            dialect,
        }
    }

    fn path_item(&self, verbs: &[(&str, &str)], namespaced: bool, named: bool) -> Value {
        let served = |verb: &str| !self.suffix.is_empty() || self.kind.has_verb(verb);
        let mut item: Map<String, Value> = verbs
            .iter()
            .filter(|(_, verb)| served(verb))
            .map(|(method, verb)| ((*method).to_owned(), self.operation(verb, namespaced || named)))
            .collect();
        let mut parameters = Vec::new();
        parameters.extend(named.then(|| self.parameter("name", "path", "string")));
        parameters.extend(namespaced.then(|| self.parameter("namespace", "path", "string")));
        if !parameters.is_empty() {
            item.insert("parameters".into(), Value::Array(parameters));
        }
        Value::Object(item)
    }

    fn operation(&self, verb: &str, scoped: bool) -> Value {
        let mut operation = json!({
            "operationId": self.operation_id(verb, scoped),
            "x-kubernetes-action": action(verb),
            "x-kubernetes-group-version-kind": {"group": self.group, "version": self.version, "kind": self.name},
            "responses": {"200": self.response(verb)},
        });
        let mut parameters: Vec<Value> = query_parameters(verb)
            .map(|(name, ty)| self.parameter(name, "query", ty))
            .collect();
        if verb == "patch" {
            parameters.push(self.parameter("force", "query", "boolean"));
        }
        self.body(verb, &mut operation, &mut parameters);
        operation["parameters"] = Value::Array(parameters);
        operation
    }

    fn operation_id(&self, verb: &str, scoped: bool) -> String {
        let group = capital(
            self.kind
                .group
                .split('.')
                .next()
                .filter(|g| !g.is_empty())
                .unwrap_or("core"),
        );
        let verb = match verb {
            "get" => "read",
            "update" => "replace",
            "deletecollection" => "deleteCollection",
            other => other,
        };
        let scope = if self.kind.namespaced && scoped {
            "Namespaced"
        } else {
            ""
        };
        let everywhere = if self.kind.namespaced && !scoped {
            "ForAllNamespaces"
        } else {
            ""
        };
        let version = capital(&self.kind.version);
        format!(
            "{verb}{group}{version}{scope}{}{}{everywhere}",
            self.kind.kind, self.suffix
        )
    }

    fn parameter(&self, name: &str, place: &str, ty: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place});
        match self.dialect {
            Dialect::V2 => {
                parameter["type"] = ty.into();
                parameter["uniqueItems"] = true.into();
            }
            Dialect::V3 => parameter["schema"] = json!({"type": ty, "uniqueItems": true}),
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        parameter
    }

    fn body(&self, verb: &str, operation: &mut Value, parameters: &mut Vec<Value>) {
        let (types, definition): (&[&str], Option<String>) = match verb {
            "patch" => (self.patches(), Some(format!("{META}Patch"))),
            "create" | "update" => (&["*/*"], self.body.clone()),
            "delete" | "deletecollection" => (&["*/*"], Some(format!("{META}DeleteOptions"))),
            _ => return,
        };
        let Some(schema) = definition.map(|d| self.dialect.reference(&d)) else {
            return;
        };
        match self.dialect {
            Dialect::V2 => {
                operation["consumes"] = json!(types);
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
            }
            Dialect::V3 => {
                let content: Map<String, Value> = types
                    .iter()
                    .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                    .collect();
                operation["requestBody"] = json!({"content": content});
            }
        }
    }

    fn patches(&self) -> &'static [&'static str] {
        match self.kind.merges_strategically() || self.suffix == "Scale" {
            true => &PATCHES,
            false => &CUSTOM_PATCHES,
        }
    }

    fn response(&self, verb: &str) -> Value {
        let definition = match verb {
            "list" => self.body.as_ref().map(|b| format!("{b}List")),
            "delete" | "deletecollection" => Some(format!("{META}Status")),
            _ => self.body.clone(),
        };
        let schema = definition.map_or_else(|| json!({"type": "string"}), |d| self.dialect.reference(&d));
        match self.dialect {
            Dialect::V2 => json!({"description": "OK", "schema": schema}),
            Dialect::V3 => json!({"description": "OK", "content": {"application/json": {"schema": schema}}}),
        }
    }
}

fn query_parameters(verb: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let parameters: &[(&str, &str)] = match verb {
        "list" | "deletecollection" => &LIST_PARAMETERS,
        "create" | "update" | "patch" => &WRITE_PARAMETERS,
        "delete" => &DELETE_PARAMETERS,
        _ => &[],
    };
    parameters.iter().copied()
}

fn action(verb: &str) -> &str {
    match verb {
        "create" => "post",
        "update" => "put",
        other => other,
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| {
        c.to_uppercase().collect::<String>() + chars.as_str()
    })
}

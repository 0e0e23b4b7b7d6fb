//! Paths and operations of a kind, as upstream's installers register them: those of built-in kinds, and the fewer of kinds
//! of definitions.
use serde_json::{Map, Value, json};

use super::definitions::{Dialect, of_kind};
use super::parameters::{self, Parameter};
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
pub(super) const TEXT: [&str; 2] = ["application/json", "application/yaml"];
pub(super) const BINARY: &str = "application/vnd.kubernetes.protobuf";
const STREAMS: [&str; 2] = [
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const ANY: [&str; 1] = ["*/*"];
/// Subresources that hand on what they are sent.
const CONNECTED: [&str; 4] = ["attach", "exec", "portforward", "proxy"];
const PROXY: &str = "proxy";
const PROXIED: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// One method of a path.
struct Operation {
    method: &'static str,
    id: String,
    action: &'static str,
    consumes: Vec<&'static str>,
    produces: Vec<&'static str>,
    /// The definition of what is sent, and whether it must be.
    body: Option<(String, bool)>,
    parameters: Vec<Parameter>,
    codes: &'static [(&'static str, &'static str)],
    /// The definition of what is answered; text without.
    answer: Option<String>,
}

const OK: (&str, &str) = ("200", "OK");
const CREATED: (&str, &str) = ("201", "Created");
const ACCEPTED: (&str, &str) = ("202", "Accepted");

/// What an operation is about: the kind, or one of its subresources.
struct Subject<'a> {
    kind: &'a Kind,
    /// Group, version and kind of the body.
    of: [&'a str; 3],
    /// Definition of the body.
    body: Option<String>,
    suffix: String,
}

/// Every path of a kind with its operations.
pub(super) fn paths(kind: &Kind, dialect: Dialect) -> Vec<(String, Value)> {
    let root = format!("/{}", path_of(&kind.group, &kind.version));
    let own = Subject::of(kind);
    let mut paths = Vec::new();
    let mut add = |path: String, subject: &Subject<'_>, operations: Vec<Operation>| {
        if !operations.is_empty() {
            let placed = operations
                .into_iter()
                .map(|operation| operation.at(&path))
                .collect();
            paths.push((path, subject.item(placed, dialect)));
        }
    };
    let scope = if kind.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{root}{scope}/{}", kind.plural);
    let item = format!("{collection}/{{name}}");
    if kind.namespaced {
        add(
            format!("{root}/{}", kind.plural),
            &own,
            own.served(&["list"], false),
        );
    }
    add(
        collection,
        &own,
        own.served(&["list", "create", "deletecollection"], true),
    );
    add(
        item.clone(),
        &own,
        own.served(&["get", "update", "patch", "delete"], true),
    );
    for sub in &kind.subresources {
        let subject = Subject::of_sub(kind, sub);
        let path = format!("{item}/{}", sub.name);
        if sub.name == PROXY {
            add(
                format!("{path}/{{path}}"),
                &subject,
                subject.connections(sub, "WithPath"),
            );
        }
        add(path, &subject, subject.of_subresource(sub));
    }
    if kind.custom.is_none() && kind.has_verb("watch") {
        let watched = format!("{root}/watch{scope}/{}", kind.plural);
        if kind.namespaced {
            add(
                format!("{root}/watch/{}", kind.plural),
                &own,
                vec![own.watch(false, "List")],
            );
        }
        add(format!("{watched}/{{name}}"), &own, vec![own.watch(true, "")]);
        add(watched, &own, vec![own.watch(true, "List")]);
    }
    paths
}

impl<'a> Subject<'a> {
    fn of(kind: &'a Kind) -> Self {
        Subject {
            kind,
            of: [&kind.group, &kind.version, &kind.kind],
            body: Some(kind.definition.name.clone()),
            suffix: String::new(),
        }
    }

    fn of_sub(kind: &'a Kind, sub: &'a Subresource) -> Self {
        Subject {
            kind,
            of: match kind.custom {
                Some(_) => [&kind.group, &kind.version, &kind.kind],
                None => [&sub.group, &sub.version, &sub.kind],
            },
            body: of_kind(kind, sub),
            suffix: capital(&sub.name),
        }
    }

    /// What the kind itself has of these verbs.
    fn served(&self, verbs: &[&str], scoped: bool) -> Vec<Operation> {
        let served = verbs.iter().filter(|verb| self.kind.has_verb(verb));
        served.map(|verb| self.operation(verb, scoped)).collect()
    }

    fn of_subresource(&self, sub: &Subresource) -> Vec<Operation> {
        if CONNECTED.contains(&sub.name.as_str()) {
            return self.connections(sub, "");
        }
        let verbs = ["get", "update", "patch", "create"];
        let served = verbs.iter().filter(|verb| sub.verbs.iter().any(|v| v == *verb));
        served.map(|verb| self.operation(verb, true)).collect()
    }

    fn operation(&self, verb: &str, scoped: bool) -> Operation {
        let status = Some(format!("{META}Status"));
        let own = || self.body.clone();
        let (method, word, action, body, answer): (_, _, _, Option<(String, bool)>, _) = match verb {
            "list" => (
                "get",
                "list",
                "list",
                None,
                own().map(|body| format!("{body}List")),
            ),
            "create" => ("post", "create", "post", own().map(|body| (body, true)), own()),
            "update" => ("put", "replace", "put", own().map(|body| (body, true)), own()),
            "patch" => (
                "patch",
                "patch",
                "patch",
                Some((format!("{META}Patch"), true)),
                own(),
            ),
            "deletecollection" => ("delete", "delete", "deletecollection", self.options(), status),
            "delete" if self.kind.returns_deleted() => ("delete", "delete", "delete", self.deletion(), own()),
            "delete" => ("delete", "delete", "delete", self.deletion(), status),
            _ if self.suffix == "Log" => ("get", "read", "get", None, None),
            _ => ("get", "read", "get", None, own()),
        };
        let codes: &[_] = match verb {
            "create" => &[OK, CREATED, ACCEPTED],
            "delete" => &[OK, ACCEPTED],
            "update" => &[OK, CREATED],
            "patch" if self.kind.custom.is_none() => &[OK, CREATED],
            _ => &[OK],
        };
        let before = if verb == "deletecollection" {
            "Collection"
        } else {
            ""
        };
        Operation {
            method,
            id: self.id(word, before, scoped, ""),
            action,
            consumes: self.consumes(verb),
            produces: self.produces(verb),
            body,
            parameters: parameters::of(verb, self.kind.custom.is_some(), &self.suffix),
            codes,
            answer,
        }
    }

    fn deletion(&self) -> Option<(String, bool)> {
        Some((format!("{META}DeleteOptions"), false))
    }

    /// Collections of custom resources are deleted without.
    fn options(&self) -> Option<(String, bool)> {
        self.kind.custom.is_none().then(|| self.deletion()).flatten()
    }

    fn watch(&self, scoped: bool, list: &str) -> Operation {
        Operation {
            id: self.id("watch", "", scoped, list),
            action: if list.is_empty() { "watch" } else { "watchlist" },
            answer: Some(format!("{META}WatchEvent")),
            ..self.operation("list", scoped)
        }
    }

    /// A connected subresource, by each of its methods.
    fn connections(&self, sub: &Subresource, with: &str) -> Vec<Operation> {
        let methods: &[&'static str] = match sub.name == PROXY {
            true => &PROXIED,
            false => &["get", "post"],
        };
        let of = |method: &&'static str| Operation {
            method,
            id: self.id("connect", &capital(method), true, with),
            action: "connect",
            consumes: ANY.to_vec(),
            produces: ANY.to_vec(),
            body: None,
            parameters: parameters::of("connect", false, &self.suffix),
            codes: &[OK],
            answer: None,
        };
        methods.iter().map(of).collect()
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self, verb: &str, before: &str, scoped: bool, after: &str) -> String {
        let (group, version) = (camel(&self.kind.group, true), capital(&self.kind.version));
        let (scope, everywhere) = match (self.kind.namespaced, scoped) {
            (true, true) => ("Namespaced", ""),
            (true, false) => ("", "ForAllNamespaces"),
            (false, _) => ("", ""),
        };
        let (kind, suffix) = (&self.kind.kind, &self.suffix);
        format!("{verb}{group}{version}{before}{scope}{kind}{suffix}{after}{everywhere}")
    }

    fn consumes(&self, verb: &str) -> Vec<&'static str> {
        match (verb, self.kind.custom.is_some()) {
            ("patch", true) => CUSTOM_PATCHES.to_vec(),
            ("patch", false) => PATCHES.to_vec(),
            (_, true) => TEXT.to_vec(),
            (_, false) => ANY.to_vec(),
        }
    }

    fn produces(&self, verb: &str) -> Vec<&'static str> {
        let mut types = TEXT.to_vec();
        if self.kind.custom.is_none() {
            types.push(BINARY);
            types.extend(STREAMS.iter().filter(|_| verb == "list"));
        }
        if self.suffix == "Log" {
            types.insert(0, "text/plain");
        }
        types
    }

    /// A path: its operations, and apart from them the parameters that all have.
    fn item(&self, operations: Vec<Operation>, dialect: Dialect) -> Value {
        let has = |operation: &Operation, parameter: &Parameter| operation.parameters.contains(parameter);
        let mut shared = operations
            .first()
            .map_or_else(Vec::new, |first| first.parameters.clone());
        shared.retain(|parameter| operations.iter().all(|operation| has(operation, parameter)));
        let mut item = Map::new();
        for mut operation in operations {
            operation
                .parameters
                .retain(|parameter| !shared.contains(parameter));
            item.insert(operation.method.into(), self.written(&operation, dialect));
        }
        let shared: Vec<Value> = shared
            .iter()
            .map(|parameter| parameter.written(dialect))
            .collect();
        if !shared.is_empty() {
            item.insert("parameters".into(), shared.into());
        }
        Value::Object(item)
    }

    fn written(&self, operation: &Operation, dialect: Dialect) -> Value {
        let [group, version, kind] = self.of;
        let tag = format!("{}_{}", camel(&self.kind.group, false), self.kind.version);
        let codes = operation.codes.iter();
        let mut responses: Map<String, Value> = codes
            .map(|(code, words)| ((*code).to_owned(), operation.response(words, dialect)))
            .collect();
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        let mut written = json!({
            "operationId": operation.id,
            "tags": [tag],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            "responses": responses,
        });
        let mut parameters: Vec<Value> = Vec::new();
        if let Some((definition, required)) = &operation.body {
            let schema = dialect.reference(definition);
            match dialect {
                Dialect::V2 => parameters.push(parameters::body(&schema, *required)),
                Dialect::V3 => written["requestBody"] = operation.request(&schema, *required),
            }
        }
        if dialect == Dialect::V2 {
            written["consumes"] = json!(operation.consumes);
            written["produces"] = json!(operation.produces);
            written["schemes"] = json!(["https"]);
        }
        parameters.extend(
            operation
                .parameters
                .iter()
                .map(|parameter| parameter.written(dialect)),
        );
        if !parameters.is_empty() {
            written["parameters"] = parameters.into();
        }
        written
    }
}

impl Operation {
    /// With the parameters of its path, all in the order of their names.
    fn at(mut self, path: &str) -> Operation {
        self.parameters.extend(parameters::of_path(path));
        self.parameters.sort();
        self
    }

    fn response(&self, words: &str, dialect: Dialect) -> Value {
        let text = || json!({"type": "string"});
        let schema = self
            .answer
            .as_ref()
            .map_or_else(text, |answer| dialect.reference(answer));
        match dialect {
            Dialect::V2 => json!({"description": words, "schema": schema}),
            Dialect::V3 => json!({"description": words, "content": content(&self.produces, &schema)}),
        }
    }

    fn request(&self, schema: &Value, required: bool) -> Value {
        let mut request = json!({"content": content(&self.consumes, schema)});
        if required {
            request["required"] = true.into();
        }
        request
    }
}

pub(super) fn content(types: &[&str], schema: &Value) -> Map<String, Value> {
    let of = |media: &&str| ((*media).to_owned(), json!({"schema": schema}));
    types.iter().map(of).collect()
}

/// A group as one word: `RbacAuthorization`, `core`.
pub(super) fn camel(group: &str, capitalised: bool) -> String {
    let group = if group.is_empty() { "core" } else { group };
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    let words = short.split(|c: char| !c.is_alphanumeric());
    let cased = words.enumerate().map(|(i, word)| match i > 0 || capitalised {
        true => capital(word),
        false => word.to_owned(),
    });
    cased.collect()
}

pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| {
        c.to_uppercase().collect::<String>() + chars.as_str()
    })
}

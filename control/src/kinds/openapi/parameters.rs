//! Parameters of operations: what paths and queries may say.
use serde_json::{Value, json};

use super::definitions::Dialect;

/// One parameter; ordered by name, then place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parameter {
    name: &'static str,
    place: &'static str,
    ty: &'static str,
}

const PRETTY: (&str, &str) = ("pretty", "string");
const LIST: [(&str, &str); 10] = [
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
const COLLECTION: [(&str, &str); 12] = [
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];
const WRITE: [(&str, &str); 3] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const PATCH: [(&str, &str); 4] = [WRITE[0], WRITE[1], WRITE[2], ("force", "boolean")];
const DELETE: [(&str, &str); 4] = [
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const ATTACH: [(&str, &str); 5] = [
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const EXEC: [(&str, &str); 6] = [
    ("command", "string"),
    ATTACH[0],
    ATTACH[1],
    ATTACH[2],
    ATTACH[3],
    ATTACH[4],
];
const LOG: [(&str, &str); 10] = [
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
    PRETTY,
];

/// What the query of an operation may say. `suffix` is the subresource's name, capitalised.
pub(super) fn of(verb: &str, custom: bool, suffix: &str) -> Vec<Parameter> {
    let own: &[(&str, &str)] = match (verb, suffix) {
        ("connect", "Attach") => &ATTACH,
        ("connect", "Exec") => &EXEC,
        ("connect", "Portforward") => &[("ports", "integer")],
        ("connect", _) => &[("path", "string")],
        ("get", "Log") => &LOG,
        ("get", _) if custom => &[("resourceVersion", "string")],
        ("list", _) => &LIST,
        ("deletecollection", _) if custom => &LIST,
        ("deletecollection", _) => &COLLECTION,
        ("create" | "update", _) => &WRITE,
        ("patch", _) => &PATCH,
        ("delete", _) => &DELETE,
        _ => &[],
    };
    let pretty = [PRETTY]
        .into_iter()
        .filter(|_| verb != "connect" && suffix != "Log");
    let of = |(name, ty)| Parameter {
        name,
        place: "query",
        ty,
    };
    own.iter().copied().chain(pretty).map(of).collect()
}

/// What stands in braces in a path.
pub(super) fn of_path(path: &str) -> impl Iterator<Item = Parameter> + use<> {
    let names = ["name", "namespace", "path"];
    let named = names.map(|name| path.contains(&format!("{{{name}}}")).then_some(name));
    named.into_iter().flatten().map(|name| Parameter {
        name,
        place: "path",
        ty: "string",
    })
}

/// What is sent, as version 2 has it among the parameters.
pub(super) fn body(schema: &Value, required: bool) -> Value {
    let mut body = json!({"name": "body", "in": "body", "schema": schema});
    if required {
        body["required"] = true.into();
    }
    body
}

impl Parameter {
    pub(super) fn written(&self, dialect: Dialect) -> Value {
        let mut written = json!({"name": self.name, "in": self.place});
        match dialect {
            Dialect::V2 => {
                written["type"] = self.ty.into();
                written["uniqueItems"] = true.into();
            }
            Dialect::V3 => written["schema"] = json!({"type": self.ty, "uniqueItems": true}),
        }
        if self.place == "path" {
            written["required"] = true.into();
        }
        written
    }
}

//! Paths of what is served beside the objects of kinds: discovery, the version, and what verifiers of tokens need.
use serde_json::{Value, json};

use super::definitions::Dialect;
use super::operations::{BINARY, TEXT, camel, capital, content};
use super::{META, path_of};

const VERSION: &str = "io.k8s.apimachinery.pkg.version.Info";

/// A document and how it is told of.
struct Document {
    path: String,
    id: String,
    tag: String,
    /// Media types that it comes in.
    types: Vec<&'static str>,
    /// The definition of it; text without.
    definition: Option<String>,
    /// Whether the types are also taken, though nothing is sent.
    takes: bool,
}

/// The document of that path below the root, without what clients ask versions for (`api`, `apis/apps`, `version`).
fn document(path: &str) -> Option<Document> {
    let own = |id: &str, tag: &str, types: &[&'static str], definition: Option<&str>| Document {
        path: format!("/{path}/"),
        id: id.to_owned(),
        tag: tag.to_owned(),
        types: types.to_vec(),
        definition: definition.map(str::to_owned),
        takes: definition.is_some(),
    };
    let meta = |name: &str| format!("{META}{name}");
    let parts: Vec<&str> = path.split('/').collect();
    Some(match parts.as_slice() {
        ["api"] => own(
            "getCoreAPIVersions",
            "core",
            &discovered(),
            Some(&meta("APIVersions")),
        ),
        ["apis"] => own(
            "getAPIVersions",
            "apis",
            &discovered(),
            Some(&meta("APIGroupList")),
        ),
        ["apis", group] => {
            let id = format!("get{}APIGroup", camel(group, true));
            own(&id, &camel(group, false), &discovered(), Some(&meta("APIGroup")))
        }
        ["version"] => own("getCodeVersion", "version", &TEXT[..1], Some(VERSION)),
        [".well-known", "openid-configuration"] => own(
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
            &TEXT[..1],
            None,
        ),
        ["openid", "v1", "jwks"] => own(
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
            &["application/jwk-set+json"],
            None,
        ),
        _ => return None,
    })
}

/// What a client asks a group and version for.
fn resources(group: &str, version: &str) -> Document {
    Document {
        path: format!("/{}/", path_of(group, version)),
        id: format!("get{}{}APIResources", camel(group, true), capital(version)),
        tag: format!("{}_{version}", camel(group, false)),
        types: discovered(),
        definition: Some(format!("{META}APIResourceList")),
        takes: true,
    }
}

/// The media types of discovery.
fn discovered() -> Vec<&'static str> {
    [&TEXT[..], &[BINARY]].concat()
}

/// A path with its operations, and the definition that they need.
pub(super) struct Written {
    pub path: String,
    pub item: Value,
    pub definition: Option<String>,
}

/// The document of that path, if there is one of that group or of the server.
pub(super) fn of(path: &str, dialect: Dialect) -> Option<Written> {
    Some(document(path)?.written(dialect))
}

/// What is told of a group and version as such.
pub(super) fn of_version(group: &str, version: &str, dialect: Dialect) -> Written {
    resources(group, version).written(dialect)
}

/// The paths of all documents, below the root, that a server of these groups has.
pub(super) fn paths<'g>(groups: impl Iterator<Item = &'g str>) -> Vec<String> {
    let roots = [
        ".well-known/openid-configuration",
        "api",
        "apis",
        "openid/v1/jwks",
        "version",
    ];
    let named = groups
        .filter(|group| !group.is_empty())
        .map(|group| format!("apis/{group}"));
    let mut paths: Vec<String> = roots.map(str::to_owned).into_iter().chain(named).collect();
    paths.sort();
    paths.dedup();
    paths
}

impl Document {
    fn written(self, dialect: Dialect) -> Written {
        let schema = match &self.definition {
            Some(definition) => dialect.reference(definition),
            None => json!({"type": "string"}),
        };
        let mut get = json!({"operationId": self.id, "tags": [self.tag]});
        let unauthorized = json!({"description": "Unauthorized"});
        let answer = match dialect {
            Dialect::V2 => json!({"description": "OK", "schema": schema}),
            Dialect::V3 => json!({"description": "OK", "content": content(&self.types, &schema)}),
        };
        get["responses"] = json!({"200": answer, "401": unauthorized});
        if dialect == Dialect::V2 {
            get["produces"] = json!(self.types);
            get["schemes"] = json!(["https"]);
            if self.takes {
                get["consumes"] = json!(self.types);
            }
        }
        Written {
            path: self.path,
            item: json!({"get": get}),
            definition: self.definition,
        }
    }
}

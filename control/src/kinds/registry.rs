//! The registry of kinds: rows of the embedded table that are served, found by resource or by kind.
//!
//! Owns look-ups. Refuses to know what a kind does.
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::kind::{Column, Kind, Subresource};
use super::quick::Names;
use super::rows::{SERVED, Served};
use super::schema::{BUILTIN, Schemas};

/// All served kinds.
#[derive(Debug, Default)]
pub struct Registry {
    kinds: Vec<Arc<Kind>>,
    /// Under one name there are few: its versions, and what other groups call the same.
    by_plural: Names<Vec<Arc<Kind>>>,
    by_kind: Names<Vec<Arc<Kind>>>,
}

impl Registry {
    /// The built-in kinds, made at first use.
    pub fn builtin() -> &'static Arc<Registry> {
        static REGISTRY: OnceLock<Arc<Registry>> = OnceLock::new();
        REGISTRY.get_or_init(|| Arc::new(Registry::with(builtin_kinds())))
    }

    /// A registry of these kinds, in this order.
    pub fn with(kinds: Vec<Arc<Kind>>) -> Registry {
        Registry {
            by_plural: named(&kinds, |kind| &kind.plural),
            by_kind: named(&kinds, |kind| &kind.kind),
            kinds,
        }
    }

    /// These kinds and custom ones. A custom resource never takes the place of another.
    pub fn extended(&self, mut customs: Vec<Kind>) -> Registry {
        super::custom::sort(&mut customs);
        let taken = |kind: &Kind| {
            let same = |other: &Arc<Kind>| other.group == kind.group && other.plural == kind.plural;
            self.kinds.iter().any(same)
        };
        let customs = customs.into_iter().filter(|kind| !taken(kind)).map(Arc::new);
        Registry::with(self.kinds.iter().cloned().chain(customs).collect())
    }

    /// By URL: `("apps", "v1", "deployments")`; the core group is `""`.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        of_version(self.by_plural.get(plural)?, group, version)
    }

    /// By body: `("apps", "v1", "Deployment")`.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        of_version(self.by_kind.get(kind)?, group, version)
    }

    /// By the two fields of an object: `("apps/v1", "Deployment")`.
    pub fn object(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.kind(group, version, kind)
    }

    /// Every kind, in discovery order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// `(group, version)` pairs served, in discovery order.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut seen = Vec::new();
        for kind in &self.kinds {
            let pair = (kind.group.as_str(), kind.version.as_str());
            if !seen.contains(&pair) {
                seen.push(pair);
            }
        }
        seen
    }
}

fn named(kinds: &[Arc<Kind>], name: impl Fn(&Kind) -> &String) -> Names<Vec<Arc<Kind>>> {
    let mut named: Names<Vec<Arc<Kind>>> = Names::default();
    for kind in kinds {
        named.entry(name(kind).clone()).or_default().push(kind.clone());
    }
    named
}

/// Of several with the same name the last, as it was put there.
fn of_version<'k>(kinds: &'k [Arc<Kind>], group: &str, version: &str) -> Option<&'k Arc<Kind>> {
    let mut kinds = kinds.iter().rev();
    kinds.find(|kind| kind.group == group && kind.version == version)
}

fn builtin_kinds() -> Vec<Arc<Kind>> {
    let lines = BUILTIN.lines().filter(|l| l.starts_with("{\"r\":"));
    let rows = lines.filter_map(|l| serde_json::from_str::<Value>(l).ok());
    rows.filter_map(|row| builtin_kind(&row)).map(Arc::new).collect()
}

fn builtin_kind(row: &Value) -> Option<Kind> {
    let (group, plural) = (text(row, "g"), text(row, "r"));
    let served = SERVED
        .iter()
        .find(|s| s.group == group && s.version == text(row, "v") && s.plural == plural)?;
    let schemas = Schemas::builtin();
    let kind = text(row, "k");
    Some(Kind {
        list_kind: format!("{kind}List"),
        version: text(row, "v"),
        singular: text(row, "i"),
        short_names: strings(row, "s"),
        categories: strings(row, "c"),
        namespaced: row.get("n").and_then(Value::as_bool).unwrap_or(false),
        verbs: strings(row, "verbs"),
        subresources: subresources(row, served),
        storage_prefix: served.storage_prefix.to_owned(),
        columns: columns(row),
        definition: schemas.get(row.get("def")?.as_str()?)?.clone(),
        schemas: schemas.clone(),
        rules: served.rules,
        custom: None,
        group,
        plural,
        kind,
    })
}

fn subresources(row: &Value, served: &Served) -> Vec<Subresource> {
    let all = row
        .get("sub")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let wanted = all
        .iter()
        .filter(|s| s[0].as_str().is_some_and(|n| served.subresources.contains(&n)));
    wanted.map(subresource).collect()
}

fn subresource(row: &Value) -> Subresource {
    let part = |i: usize| row[1][i].as_str().unwrap_or_default().to_owned();
    Subresource {
        name: row[0].as_str().unwrap_or_default().to_owned(),
        group: part(0),
        version: part(1),
        kind: part(2),
        verbs: row[2]
            .as_array()
            .map_or_else(Vec::new, |v| v.iter().filter_map(owned).collect()),
    }
}

fn columns(row: &Value) -> Vec<Column> {
    let cells = row
        .get("cols")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    cells.iter().map(column).collect()
}

fn column(row: &Value) -> Column {
    let part = |i: usize| row[i].as_str().unwrap_or_default().to_owned();
    let priority = row[3].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0);
    Column {
        name: part(0),
        ty: part(1),
        format: part(2),
        description: String::new(),
        priority,
    }
}

fn text(row: &Value, key: &str) -> String {
    row.get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn strings(row: &Value, key: &str) -> Vec<String> {
    row.get(key)
        .and_then(Value::as_array)
        .map_or_else(Vec::new, |v| v.iter().filter_map(owned).collect())
}

fn owned(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_row_is_in_the_table() {
        assert_eq!(Registry::builtin().iter().count(), SERVED.len());
        for served in SERVED {
            let kind = Registry::builtin()
                .resource(served.group, served.version, served.plural)
                .expect(served.plural);
            let names: Vec<&str> = kind.subresources.iter().map(|s| s.name.as_str()).collect();
            for wanted in served.subresources {
                assert!(names.contains(wanted), "{}/{wanted}", served.plural);
            }
            assert!(!kind.columns().is_empty() || kind.verbs == ["create"]);
        }
    }

    #[test]
    fn kinds_are_found_by_body_and_by_url() {
        let registry = Registry::builtin();
        let deployment = registry.object("apps/v1", "Deployment").expect("served");
        assert_eq!(deployment.group_resource(), "deployments.apps");
        assert_eq!(deployment.key(Some("ns"), "d"), "/registry/deployments/ns/d");
        assert!(
            registry
                .object("v1", "Pod")
                .is_some_and(|p| p.namespaced && p.short_names == ["po"])
        );
        assert!(registry.object("apps/v9", "Deployment").is_none());
        assert_eq!(registry.group_versions().first(), Some(&("", "v1")));
    }
}

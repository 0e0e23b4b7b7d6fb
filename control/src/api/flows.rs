//! Which FlowSchema takes a request, and with it which priority level (KEP-1040).
//!
//! Owns the matching of requests. Refuses to know how seats are handed out.
mod levels;
mod rules;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::Api;
use super::fairness::Counts;
use crate::admission::{Objects, ResourceName};
use crate::auth::attributes::{Attributes, What};
use crate::auth::{GroupResource, Identity, Reader};
use crate::kinds::view::View;
pub use levels::{Level, Share};
use rules::Rule;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: ResourceName<'_> = (GROUP, "v1", "flowschemas");
const LEVELS: ResourceName<'_> = (GROUP, "v1", "prioritylevelconfigurations");
const READ: [GroupResource; 2] = [(GROUP, "flowschemas"), (GROUP, "prioritylevelconfigurations")];
const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Upstream's default for what does not say.
const PRECEDENCE: i64 = 1000;

/// What a request belongs to.
#[derive(Clone, Debug)]
pub struct Flow {
    schema_uid: Arc<str>,
    pub level: Arc<Level>,
    /// Requests of one flow wait for each other.
    pub name: Arc<str>,
    pub counts: Arc<Counts>,
}

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    User,
    Namespace,
    Nothing,
}

#[derive(Debug)]
struct Schema {
    uid: Arc<str>,
    name: Arc<str>,
    level: Arc<Level>,
    counts: Arc<Counts>,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

/// Schemas in the order in which they are asked, with their levels.
#[derive(Debug, Default)]
pub struct Table {
    /// What it was made of was changed last then.
    changed: [u64; READ.len()],
    schemas: Vec<Schema>,
    levels: Vec<Arc<Level>>,
}

/// What is counted of the requests of each schema in each level.
#[derive(Default)]
struct AllCounts(HashMap<(Arc<str>, Arc<str>), Arc<Counts>>);

impl AllCounts {
    fn of(&mut self, level: &Arc<str>, schema: &str) -> Arc<Counts> {
        self.0.entry((level.clone(), schema.into())).or_default().clone()
    }

    /// Forgets those of schemas that are gone with their requests.
    fn forget_gone(&mut self) {
        self.0.retain(|_, counts| Arc::strong_count(counts) > 1);
    }
}

/// The table, as of the last change of what it is made of.
#[derive(Default)]
pub struct Flows(Mutex<Known>);

#[derive(Default)]
struct Known {
    table: Option<Arc<Table>>,
    counts: AllCounts,
}

impl Flows {
    pub fn table(&self, objects: &dyn Objects, reader: &dyn Reader) -> Arc<Table> {
        let mut known = self.lock();
        let changed = READ.map(|resource| reader.changed(resource));
        match &known.table {
            Some(table) if table.changed == changed => table.clone(),
            _ => {
                let table = Table::of(objects, &mut known.counts);
                let table = Arc::new(Table { changed, ..table });
                known.table = Some(table.clone());
                known.counts.forget_gone();
                table
            }
        }
    }

    /// What is counted, by level and schema.
    pub fn counts(&self) -> BTreeMap<(Arc<str>, Arc<str>), Arc<Counts>> {
        let mut known = self.lock();
        // When the table changed, who divides the seats still had the one before it.
        known.counts.forget_gone();
        let all = known.counts.0.iter();
        all.map(|(names, counts)| (names.clone(), counts.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn of(objects: &dyn Objects, all: &mut AllCounts) -> Table {
        let levels: Vec<Arc<Level>> = objects
            .list(LEVELS, None)
            .iter()
            .map(|object| Arc::new(Level::of(object)))
            .collect();
        let mut found = objects.list(SCHEMAS, None);
        found.sort_by_cached_key(|schema| {
            let precedence = schema.int("spec.matchingPrecedence").unwrap_or(PRECEDENCE);
            (precedence, schema.text("metadata.name").to_owned())
        });
        let schemas = found
            .iter()
            .filter_map(|schema| Schema::of(schema, &levels, all))
            .collect();
        Table {
            schemas,
            levels,
            ..Table::default()
        }
    }

    pub fn is_older_than(&self, other: &Table) -> bool {
        self.changed < other.changed
    }

    /// What a request belongs to; none while there are no schemas yet.
    pub fn flow(&self, who: &Identity, what: &Attributes<'_>) -> Option<Flow> {
        let schema = self.schemas.iter().find(|schema| schema.takes(who, what))?;
        let within = match (schema.distinguisher, what.what) {
            (Distinguisher::User, _) => &who.user,
            (Distinguisher::Namespace, What::Resource(resource)) => resource.namespace.unwrap_or_default(),
            _ => "",
        };
        Some(Flow {
            schema_uid: schema.uid.clone(),
            level: schema.level.clone(),
            counts: schema.counts.clone(),
            name: format!("{}/{within}", schema.name).into(),
        })
    }

    /// What a request to a path that is no resource belongs to.
    pub fn flow_of_path(&self, who: &Identity, parts: &Parts) -> Option<Flow> {
        let verb = parts.method.as_str().to_ascii_lowercase();
        self.flow(who, &Attributes::path(&verb, parts.uri.path()))
    }

    /// What every level but the exempt ones has of `seats`.
    pub fn shares(&self, seats: usize) -> Vec<(Arc<str>, Share)> {
        let mut shares = levels::divided(&self.levels, seats);
        for (level, share) in &mut shares {
            share.single = self.is_one_flow(level);
        }
        let named = shares.into_iter();
        named.map(|(level, share)| (level.name.clone(), share)).collect()
    }

    /// Whether all requests of a level are of one schema that tells none of them apart.
    fn is_one_flow(&self, level: &Arc<Level>) -> bool {
        let mut schemas = self
            .schemas
            .iter()
            .filter(|schema| Arc::ptr_eq(&schema.level, level));
        let first = schemas.next();
        first.is_some_and(|schema| schema.distinguisher == Distinguisher::Nothing) && schemas.next().is_none()
    }
}

impl Schema {
    /// A schema of a level that is not there takes no requests.
    fn of(object: &Value, levels: &[Arc<Level>], all: &mut AllCounts) -> Option<Schema> {
        let wanted = object.text("spec.priorityLevelConfiguration.name");
        let level = levels.iter().find(|level| *level.name == *wanted)?.clone();
        Some(Schema {
            uid: object.text("metadata.uid").into(),
            name: object.text("metadata.name").into(),
            counts: all.of(&level.name, object.text("metadata.name")),
            level,
            distinguisher: match object.text("spec.distinguisherMethod.type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules: object.list("spec.rules").iter().map(Rule::of).collect(),
        })
    }

    fn takes(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.takes(who, what))
    }
}

impl Flow {
    /// Tells who decided about the request.
    pub fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA_UID, &self.schema_uid), (LEVEL_UID, &self.level.uid)] {
            if let Ok(uid) = HeaderValue::from_str(uid) {
                headers.insert(name, uid);
            }
        }
    }
}

impl Api {
    pub fn flow_table(&self) -> Arc<Table> {
        self.flows.table(self.objects.as_ref(), self.reader.as_ref())
    }
}

#[cfg(test)]
impl Table {
    /// The schemas and levels that every cluster has, and others.
    pub fn begun_with(others: Vec<(&'static str, Value)>) -> Table {
        let objects = crate::facts::flow_control().map(|object| {
            let plural = match object.text("kind") {
                "FlowSchema" => SCHEMAS.2,
                _ => LEVELS.2,
            };
            (plural, object)
        });
        let objects = crate::admission::fixtures::Fixed(objects.chain(others).collect());
        Table::of(&objects, &mut AllCounts::default())
    }

    /// The same, as of a later change.
    pub fn changed_at(self, revision: u64) -> Table {
        let changed = [revision; READ.len()];
        Table { changed, ..self }
    }

    /// As above, with a level of so many shares of which it lends none.
    pub fn with_level(shares: usize) -> Table {
        let spec = serde_json::json!({
            "type": "Limited", "limited": {"nominalConcurrencyShares": shares, "lendablePercent": 0},
        });
        let level = serde_json::json!({"metadata": {"name": "mine", "uid": "mine"}, "spec": spec});
        Table::begun_with(vec![(LEVELS.2, level)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::attributes::Resource;
    use serde_json::json;

    fn flow(table: &Table, user: &str, groups: &[&str], what: &Attributes<'_>) -> (String, String) {
        let who = Identity::new(user, groups.iter().map(|g| (*g).to_owned()));
        let flow = table.flow(&who, what).expect("a schema for everybody");
        (flow.level.name.to_string(), flow.name.to_string())
    }

    fn of<'a>(resource: &'a str, namespace: &'a str) -> Resource<'a> {
        Resource {
            resource,
            namespace: Some(namespace),
            ..Resource::default()
        }
    }

    #[test]
    fn requests_go_to_their_levels() {
        let leases = Resource {
            group: "coordination.k8s.io",
            ..of("leases", "kube-system")
        };
        let update = Attributes::resource("update", leases);
        let list = Attributes::resource("list", of("pods", "n"));
        let accounts = ["system:serviceaccounts"];
        let table = Table::begun_with(Vec::new());
        for (user, groups, what, level, name) in [
            ("admin", &["system:masters"][..], &list, "exempt", "exempt/"),
            ("jane", &[], &list, "global-default", "global-default/jane"),
            (
                "jane",
                &[],
                &Attributes::path("get", "/healthz"),
                "exempt",
                "probes/",
            ),
            (
                "jane",
                &[],
                &Attributes::path("get", "/version"),
                "global-default",
                "global-default/jane",
            ),
            (
                "system:kube-scheduler",
                &[],
                &update,
                "leader-election",
                "system-leader-election/system:kube-scheduler",
            ),
            (
                "system:kube-scheduler",
                &[],
                &list,
                "workload-high",
                "kube-scheduler/n",
            ),
            (
                "system:serviceaccount:kube-system:x",
                &accounts,
                &list,
                "workload-high",
                "kube-system-service-accounts/n",
            ),
            (
                "system:serviceaccount:n:x",
                &accounts,
                &list,
                "workload-low",
                "service-accounts/system:serviceaccount:n:x",
            ),
            (
                "system:node:a",
                &["system:nodes"],
                &list,
                "system",
                "system-nodes/system:node:a",
            ),
        ] {
            let want = (level.to_owned(), name.to_owned());
            assert_eq!(flow(&table, user, groups, what), want, "{user}");
        }
    }

    #[test]
    fn a_schema_whose_level_is_missing_takes_nothing() {
        let schema = |name: &str, level: &str| {
            let rule = json!({
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["pods"], "namespaces": ["*"]}],
            });
            let spec = json!({"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": level}, "rules": [rule]});
            (
                SCHEMAS.2,
                json!({"metadata": {"name": name, "uid": name}, "spec": spec}),
            )
        };
        let list = Attributes::resource("list", of("pods", "n"));
        let dangling = Table::begun_with(vec![schema("a", "nowhere")]);
        assert_eq!(flow(&dangling, "jane", &[], &list).0, "global-default");
        let twice = Table::begun_with(vec![schema("b", "system"), schema("a", "node-high")]);
        assert_eq!(
            flow(&twice, "jane", &[], &list),
            ("node-high".to_owned(), "a/".to_owned())
        );
    }

    #[test]
    fn levels_divide_the_seats() {
        let table = Table::begun_with(Vec::new());
        let shares = table.shares(600);
        let of = |name: &str| shares.iter().find(|(n, _)| **n == *name).expect("a level").1;
        assert!(shares.iter().all(|(name, _)| **name != *"exempt"));
        let kept: usize = shares.iter().map(|(_, share)| share.own).sum();
        assert!(kept < 400);
        // 30 of 245 shares, a third of them lent; of others' what they lend.
        for (name, own) in [("system", 50), ("catch-all", 13)] {
            let most = 600 - (kept - own);
            assert_eq!((of(name).own, of(name).most), (own, most));
        }
    }

    #[test]
    fn what_one_level_keeps_is_left_by_the_others() {
        for shares in [2_000, 100_000, usize::from(u16::MAX) << 15] {
            let divided = Table::with_level(shares).shares(600);
            let kept: usize = divided.iter().map(|(_, share)| share.own).sum();
            assert!(kept < 600, "{shares}: {kept}");
            for (name, share) in divided {
                let reach = 600 - (kept - share.own);
                assert!(
                    share.own < share.most && share.most <= reach,
                    "{shares} {name}: {share:?}"
                );
            }
        }
    }

    #[test]
    fn a_level_whose_requests_are_one_flow_knows_that() {
        let schema = |name: &str, level: &str, by: Value| {
            let spec = json!({"priorityLevelConfiguration": {"name": level}, "distinguisherMethod": by});
            (
                SCHEMAS.2,
                json!({"metadata": {"name": name, "uid": name}, "spec": spec}),
            )
        };
        let level = |name: &str| (LEVELS.2, json!({"metadata": {"name": name, "uid": name}}));
        let by_user = json!({"type": "ByUser"});
        let table = Table::begun_with(vec![
            level("one"),
            schema("a", "one", Value::Null),
            level("many"),
            schema("b", "many", by_user),
            level("two"),
            schema("c", "two", Value::Null),
            schema("d", "two", Value::Null),
        ]);
        for (name, share) in table.shares(600) {
            let three_quarters = share.most * 3 / 4;
            let want = if *name == *"one" {
                share.most
            } else {
                three_quarters
            };
            assert_eq!(share.of_one_flow(), want, "{name}");
        }
    }

    #[test]
    fn what_was_counted_of_a_schema_goes_with_the_last_who_knew_it() {
        let flows = Flows::default();
        let rule = json!({"metadata": {"name": "a"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let level = json!({"metadata": {"name": "l"}});
        let objects = crate::admission::fixtures::Fixed(vec![(SCHEMAS.2, rule), (LEVELS.2, level)]);
        let table = Table::of(&objects, &mut flows.lock().counts);
        assert_eq!(flows.counts().len(), 1);
        drop(table);
        assert!(flows.counts().is_empty());
    }
}

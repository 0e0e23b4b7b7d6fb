//! Flow control: says of FlowSchemas whether their priority level exists, and keeps the objects that every cluster has
//! as upstream's bootstrap ensurer does: what is missing comes back, what nobody claimed for himself
//! (`apf.kubernetes.io/autoupdate-spec: "false"`) has its spec back.
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};

use super::context::Context;
use crate::cel;
use crate::facts;
use crate::kinds::Registry;
use crate::kinds::time::now;
use crate::toolkit::conditions;
use crate::toolkit::patch::{difference, guarded, to_value};
use crate::toolkit::{Kind, ObjectKey, Objects, Outcome, Queue, StepError, Steps, work};

const WORKERS: usize = 1;
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// The one key of the queue: levels and schemas are looked at together.
const ALL: &str = "all";

/// What is done about one object.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Create,
    /// A merge patch.
    Patch(Value),
}

/// Registers for changes and returns the future that does the work.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let context = context.clone();
    let queue: Arc<Queue<&'static str>> = Arc::new(Queue::new());
    let (schemas, levels) = (queue.clone(), queue.clone());
    let watches = &context.watches;
    watches.flow_schemas.on_change(move |_| schemas.add(ALL));
    watches.priority_levels.on_change(move |_| levels.add(ALL));
    let shutdown = context.shutdown.clone();
    work("flow-control", queue, WORKERS, shutdown, context, |context, _| {
        reconcile(context).boxed()
    })
}

/// What came of a look at everything.
#[derive(Default)]
struct Round {
    created: bool,
    /// The first step that failed; it keeps no other from being done.
    failed: Option<StepError>,
}

impl Round {
    fn note<T>(&mut self, done: Result<T, StepError>) -> bool {
        match done {
            Ok(_) => true,
            Err(error) => {
                self.failed.get_or_insert(error);
                false
            }
        }
    }

    fn end(self) -> Result<Outcome, StepError> {
        self.failed.map_or(Ok(Outcome::Done), Err)
    }
}

async fn reconcile(context: &Context) -> Result<Outcome, StepError> {
    let (schemas, levels) = (&context.watches.flow_schemas, &context.watches.priority_levels);
    let mut round = Round::default();
    keep(context, &levels.list(), &mut round).await;
    let changed = keep(context, &schemas.list(), &mut round).await;
    if round.created {
        // What is there again is not known here yet: it is spoken of when it is.
        return round.end();
    }
    // Nor is what was changed as it is now.
    let schemas = schemas.list();
    for schema in schemas
        .iter()
        .filter(|schema| !changed.contains(&*schema.name_any()))
    {
        let level = wanted_level(schema);
        let found = levels.get(&ObjectKey::cluster(level)).is_some();
        round.note(tell(context, schema, level, found).await);
    }
    round.end()
}

/// Brings the objects of a kind back to what the cluster began with. The names of those that were changed for that.
async fn keep<K: Kind>(context: &Context, there: &[Arc<K>], round: &mut Round) -> BTreeSet<&'static str> {
    let mut changed = BTreeSet::new();
    let objects: Objects<K> = Objects::all(&context.client);
    let kind = K::kind(&());
    for wanted in begun_with(&kind) {
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let found = there.iter().find(|object| object.name_any() == name);
        match plan(
            found.map(|object| (object.meta(), to_value(object.as_ref()))),
            wanted,
        ) {
            Step::Nothing => {}
            Step::Create => {
                let created = objects.create(wanted).await;
                match created.step(|| format!("create {kind} {name}")) {
                    // It is there, and comes to be known.
                    Err(error) if error.is_already_exists() => {}
                    created => round.created |= round.note(created),
                }
            }
            Step::Patch(patch) => {
                changed.insert(name);
                let patched = objects.merge(name, patch).await;
                round.note(patched.step_opt(|| format!("bring back {kind} {name}")));
            }
        }
    }
    for object in there.iter().filter(|object| is_left_over(object.meta(), &kind)) {
        let name = object.name_any();
        let still_this = DeleteParams::default().preconditions(Preconditions {
            resource_version: object.meta().resource_version.clone(),
            uid: object.meta().uid.clone(),
        });
        let deleted = objects.delete(&name, &still_this).await;
        round.note(deleted.step_opt(|| format!("delete {kind} {name}, which is no longer begun with")));
    }
    changed
}

/// What a cluster begins with, with its defaults.
static BEGUN_WITH: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let with_defaults = facts::flow_control().map(|mut object| {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        if let Some(kind) = Registry::builtin().object(&text("apiVersion"), &text("kind")) {
            kind.default(&mut object);
        }
        object
    });
    with_defaults.collect()
});

/// As above, of one kind.
fn begun_with<'a>(kind: &'a str) -> impl Iterator<Item = &'static Value> + 'a {
    BEGUN_WITH.iter().filter(move |object| object["kind"] == kind)
}

/// Decides. Pure.
fn plan(found: Option<(&ObjectMeta, Value)>, wanted: &Value) -> Step {
    let Some((meta, found)) = found else {
        return Step::Create;
    };
    let name = meta.name.as_deref().unwrap_or_default();
    let marked = mark(meta);
    // Unmarked, it is theirs as soon as they have changed it.
    let ours = facts::MANDATORY.contains(&name) || marked.unwrap_or(meta.generation == Some(1));
    let mut patch = json!({});
    if marked != Some(ours) {
        patch["metadata"] = json!({"annotations": {AUTOUPDATE: ours.to_string()}});
    }
    if ours
        && let Some(change) = difference(&found["spec"], &with_own_shares(&wanted["spec"], &found["spec"]))
    {
        patch["spec"] = change;
    }
    match patch.as_object().is_some_and(|patch| patch.is_empty()) {
        true => Step::Nothing,
        false => Step::Patch(guarded(meta, patch)),
    }
}

/// What an exempt level has and lends is the administrator's, whatever else is brought back.
fn with_own_shares(wanted: &Value, found: &Value) -> Value {
    let mut wanted = wanted.clone();
    let exempt = wanted.get_mut("exempt").and_then(Value::as_object_mut);
    if let (Some(wanted), Some(found)) = (exempt, found["exempt"].as_object()) {
        for key in ["nominalConcurrencyShares", "lendablePercent"] {
            let own = found.get(key).cloned();
            wanted.insert(key.to_owned(), own.unwrap_or_default());
        }
    }
    wanted
}

/// What the annotation says, read as Go's `strconv.ParseBool` reads.
fn mark(meta: &ObjectMeta) -> Option<bool> {
    cel::boolean(meta.annotations.as_ref()?.get(AUTOUPDATE)?)
}

/// Whether an earlier version began with it, and this one does not.
fn is_left_over(meta: &ObjectMeta, kind: &str) -> bool {
    let known = |wanted: &Value| wanted["metadata"]["name"].as_str() == meta.name.as_deref();
    mark(meta) == Some(true) && !begun_with(kind).any(known)
}

fn wanted_level(schema: &FlowSchema) -> &str {
    let spec = schema.spec.as_ref();
    spec.map_or("", |spec| &spec.priority_level_configuration.name)
}

/// Writes the condition `Dangling` where it says something else.
async fn tell(context: &Context, schema: &FlowSchema, level: &str, found: bool) -> Result<(), StepError> {
    let Some(status) = status(schema, level, found, &now()) else {
        return Ok(());
    };
    let name = schema.name_any();
    let body = guarded(&schema.metadata, json!({ "status": status }));
    let schemas: Objects<FlowSchema> = Objects::all(&context.client);
    let written = schemas.merge_status(&name, body).await;
    written
        .step_opt(|| format!("write the status of FlowSchema {name}"))
        .map(drop)
}

/// The status as it should be; none when it is.
fn status(schema: &FlowSchema, level: &str, found: bool, now: &str) -> Option<Value> {
    let (state, reason, rest) = match found {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}");
    let mut status = to_value(&schema.status);
    let said = |condition: &Value| {
        condition["type"] == "Dangling"
            && condition["status"] == state
            && condition["reason"] == reason
            && condition["message"] == message
    };
    if status["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(said))
    {
        return None;
    }
    conditions::set(&mut status, "Dangling", (state, reason, &message), now);
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::flowcontrol::v1::PriorityLevelConfiguration;
    use std::collections::BTreeMap;

    fn level(name: &str, mark: Option<&str>, generation: i64) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            generation: Some(generation),
            annotations: mark.map(|mark| BTreeMap::from([(AUTOUPDATE.to_owned(), mark.to_owned())])),
            ..ObjectMeta::default()
        }
    }

    fn wanted(name: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {"lendablePercent": 50}}})
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_nobodys_is_brought_back() {
        let same = wanted("x")["spec"].clone();
        let other = json!({"type": "Limited", "limited": {"lendablePercent": 10}});
        let back = Some(json!({"limited": {"lendablePercent": 50}}));
        assert_eq!(plan(None, &wanted("x")), Step::Create);
        for (name, mark, generation, spec, marked, changed) in [
            ("x", Some("true"), 1, &same, None, None),
            ("x", Some("true"), 7, &other, None, back.clone()),
            ("x", Some("false"), 7, &other, None, None),
            ("x", None, 1, &other, Some("true"), back.clone()),
            ("x", None, 2, &other, Some("false"), None),
            ("exempt", Some("false"), 7, &other, Some("true"), back.clone()),
        ] {
            let meta = level(name, mark, generation);
            let found = plan(Some((&meta, json!({"spec": spec}))), &wanted(name));
            let mut patch = json!({});
            if let Some(marked) = marked {
                patch["metadata"] = json!({"annotations": {AUTOUPDATE: marked}});
            }
            if let Some(changed) = changed {
                patch["spec"] = changed;
            }
            let want = match patch == json!({}) {
                true => Step::Nothing,
                false => Step::Patch(guarded(&meta, patch)),
            };
            assert_eq!(found, want, "{name} {mark:?} {generation}");
        }
    }

    #[test]
    fn what_the_exempt_level_has_and_lends_is_the_administrators() {
        let meta = level("exempt", Some("true"), 2);
        let wanted =
            begun_with("PriorityLevelConfiguration").find(|object| object["metadata"]["name"] == "exempt");
        let wanted = wanted.unwrap();
        let mut found = wanted.clone();
        found["spec"]["exempt"] = json!({"nominalConcurrencyShares": 10, "lendablePercent": 50});
        assert_eq!(plan(Some((&meta, found.clone())), wanted), Step::Nothing);
        found["spec"]["type"] = json!("Limited");
        let back = guarded(&meta, json!({"spec": {"type": "Exempt"}}));
        assert_eq!(plan(Some((&meta, found)), wanted), Step::Patch(back));
    }

    #[test]
    fn what_an_earlier_version_made_goes() {
        for (name, mark, want) in [
            ("old", Some("true"), true),
            ("catch-all", Some("true"), false),
            ("mine", None, false),
            ("mine", Some("false"), false),
        ] {
            assert_eq!(
                is_left_over(&level(name, mark, 1), "FlowSchema"),
                want,
                "{name} {mark:?}"
            );
        }
    }

    #[test]
    fn what_every_cluster_begins_with_is_left_as_it_is() {
        for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
            let objects: Vec<&Value> = begun_with(kind).collect();
            assert!(objects.len() > 7, "{kind}");
            for object in objects {
                // As a client that knows the types has it.
                let typed = match kind {
                    "FlowSchema" => to_value(&serde_json::from_value::<FlowSchema>(object.clone()).unwrap()),
                    _ => to_value(
                        &serde_json::from_value::<PriorityLevelConfiguration>(object.clone()).unwrap(),
                    ),
                };
                let meta: ObjectMeta = serde_json::from_value(object["metadata"].clone()).unwrap();
                assert_eq!(plan(Some((&meta, typed)), object), Step::Nothing);
            }
        }
    }

    #[test]
    fn a_schema_learns_whether_its_level_exists() {
        let mut schema = FlowSchema::default();
        let told = status(&schema, "nowhere", false, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(
            told["conditions"][0],
            json!({
                "type": "Dangling", "status": "True", "reason": "NotFound", "lastTransitionTime": "2026-01-01T00:00:00Z",
                "message": "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there \
                            is no such object",
            })
        );
        schema.status = serde_json::from_value(told).unwrap();
        assert_eq!(status(&schema, "nowhere", false, "2026-01-02T00:00:00Z"), None);
        let told = status(&schema, "nowhere", true, "2026-01-02T00:00:00Z").unwrap();
        assert_eq!(told["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(told["conditions"][0]["reason"], "Found");
    }
}

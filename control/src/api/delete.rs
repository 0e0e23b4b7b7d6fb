//! `delete` and `deletecollection`.
//!
//! An object with finalizers, or one that leaves gracefully, is only marked; the update that takes the last obstacle
//! away removes it (see `write`).
use super::Call;
use super::convert;
use super::decode;
use super::list;
use super::negotiate;
use super::object::Object;
use super::permit;
use super::query::Query;
use super::render::{self, Style};
use super::status::{self, ApiError, Result};
use super::write;
use crate::admission::{Action, Notes};
use crate::auth::restrict::Operation;
use crate::kinds::conduct::{Departure, pod_grace};
use crate::kinds::{FieldError, Kind, mark_deleted};
use crate::store::{Revision, Txn, TxnOutcome};
use axum::response::Response;
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::sync::Arc;

/// How often a deletion tries again after losing a race.
const RETRIES: usize = 8;
/// Deletions of one `deletecollection` under way at once: they share commits.
const AT_ONCE: usize = 32;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Who deletes the dependents, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    Foreground,
    Background,
    Orphan,
}

/// `metav1.DeleteOptions`, from query and body.
#[derive(Clone, Debug, Default)]
struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<Propagation>,
    dry_run: bool,
}

/// What a deletion came to.
enum Outcome {
    /// Still there, marked.
    Marked(Value),
    Gone(Value),
}

pub async fn serve(call: &Call, style: Style) -> Result<Response> {
    let name = call
        .target
        .name
        .as_deref()
        .ok_or_else(ApiError::method_not_allowed)?;
    let options = options(call)?;
    let outcome = delete(call, name, &options).await?;
    let response = answer(&call.target.kind, name, style, &outcome)?;
    Ok(render::warn(response, &warnings(&call.target.kind, &options)))
}

fn answer(kind: &Kind, name: &str, style: Style, outcome: &Outcome) -> Result<Response> {
    match outcome {
        Outcome::Marked(value) => render::one(kind, style, StatusCode::OK, value),
        Outcome::Gone(value) if kind.returns_deleted() => render::one(kind, style, StatusCode::OK, value),
        Outcome::Gone(value) => {
            let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
            let told = status::deleted(kind, name, uid);
            render::respond(style.accepted.format, StatusCode::OK, &told)
        }
    }
}

fn warnings(kind: &Kind, options: &Options) -> Vec<String> {
    let unsaid = options.propagation.is_none();
    let warning = kind.orphaning_warning().filter(|_| unsaid);
    warning.map(str::to_owned).into_iter().collect()
}

/// Deletes what a list would show, and answers with that list.
pub async fn collection(call: &Call, style: Style) -> Result<Response> {
    let options = options(call)?;
    let page = list::page(call).await?;
    let names = page
        .objects
        .iter()
        .map(|object| object.key.rsplit('/').next().unwrap_or_default().to_owned());
    stream::iter(names.collect::<Vec<_>>())
        .map(|name| remove_listed(call, name, &options))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let response = list::answer(call, style, page)?;
    Ok(render::warn(response, &warnings(&call.target.kind, &options)))
}

/// What is gone by then is as good as deleted.
async fn remove_listed(call: &Call, name: String, options: &Options) -> Result<()> {
    match delete(call, &name, options).await {
        Err(error) if error.code != StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}

/// An eviction is a deletion with the options in its body.
pub async fn evict(call: &Call, name: &str, eviction: &Value) -> Result<()> {
    let mut options = Options::default();
    read_body(&eviction["deleteOptions"], &mut options)?;
    options.dry_run |= call.query.dry_run("CreateOptions")?;
    delete(call, name, &options).await.map(|_| ())
}

async fn delete(call: &Call, name: &str, options: &Options) -> Result<Outcome> {
    let mut current = call.api.read(&call.target, name).await?;
    let old = convert::value(&call.api, &call.target.kind, &current).await?;
    let review = write::review(call, options.dry_run, name, Action::Delete { old: &old });
    let mut notes = Notes::default();
    let admitted = call.api.admission.delete(&review, &mut notes).await;
    call.told.add(notes.audit);
    admitted.map_err(|denial| status::denied(&call.target.kind, name, denial))?;
    for _ in 0..RETRIES {
        match delete_once(call, name, &current, options).await? {
            Some(outcome) => return Ok(outcome),
            None => current = call.api.reread(&call.target, name).await?,
        }
    }
    Err(ApiError::modified(&call.target.kind, name))
}

/// `None` when somebody else wrote first.
async fn delete_once(
    call: &Call,
    name: &str,
    current: &Arc<Object>,
    options: &Options,
) -> Result<Option<Outcome>> {
    let kind = &call.target.kind;
    let value = convert::value(&call.api, kind, current).await?;
    permit::write(call, Operation::Delete, name, &value, &Value::Null)?;
    check(kind, name, &value, options)?;
    let step = plan(kind, &value, options, Timestamp::now());
    let (outcome, txn) = match step {
        Step::Nothing => return Ok(Some(Outcome::Marked(value))),
        Step::Mark(mut marked) if options.dry_run => {
            kind.normalise(&mut marked);
            return Ok(Some(Outcome::Marked(marked)));
        }
        Step::Remove if options.dry_run => return Ok(Some(Outcome::Gone(value))),
        Step::Remove => {
            let last = last_state(kind, &value);
            let txn = match is_held(kind, &value) {
                true => announce_and_remove(call, current, &last).await?,
                false => write::remove(call, current, &value).await?,
            };
            (Outcome::Gone(last), txn)
        }
        Step::Mark(mut marked) => {
            kind.normalise(&mut marked);
            let txn = Txn::swap(
                &*current.key,
                current.revision,
                convert::stored_form(call, &marked).await?,
            );
            (Outcome::Marked(marked), call.api.store.txn(txn).await?)
        }
    };
    Ok(match txn {
        TxnOutcome::Conflict { .. } => None,
        TxnOutcome::Committed { revision } => Some(match outcome {
            Outcome::Marked(value) => Outcome::Marked(write::at(value, revision)),
            Outcome::Gone(value) => Outcome::Gone(write::at(value, revision)),
        }),
    })
}

/// Whether somebody holds the object who has to be told that no time is left.
fn is_held(kind: &Kind, value: &Value) -> bool {
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default();
    kind.departure() == Departure::Pod
        && !text("/spec/nodeName").is_empty()
        && !matches!(text("/status/phase"), "Succeeded" | "Failed")
        && value["metadata"]["deletionGracePeriodSeconds"] != 0
}

/// Two writes, as upstream's: who watches sees how little time was given before the object is gone.
async fn announce_and_remove(call: &Call, current: &Arc<Object>, last: &Value) -> Result<TxnOutcome> {
    let mut marked = last.clone();
    call.target.kind.normalise(&mut marked);
    let bytes = convert::stored_form(call, &marked).await?;
    let told = Txn::swap(&*current.key, current.revision, bytes);
    match call.api.store.txn(told).await? {
        TxnOutcome::Committed { revision } => {
            let removed = write::remove_at(call, current, revision, &marked).await?;
            Ok(once_announced(&current.key, revision, removed))
        }
        lost @ TxnOutcome::Conflict { .. } => Ok(lost),
    }
}

/// Who was told may have removed it already: then it is gone, as was asked (upstream's `ignoreNotFound`). Pure.
fn once_announced(key: &str, revision: Revision, removed: TxnOutcome) -> TxnOutcome {
    match removed {
        TxnOutcome::Conflict {
            key: of,
            current: None,
        } if of == key => TxnOutcome::Committed { revision },
        other => other,
    }
}

/// What a deletion does to the object.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is on its way already.
    Nothing,
    Mark(Value),
    Remove,
}

/// Decides. Pure.
fn plan(kind: &Kind, value: &Value, options: &Options, now: Timestamp) -> Step {
    let mut after = value.clone();
    set_finalizers(&mut after, policy(kind, value, options));
    if kind.departure() == Departure::Definition && !value["metadata"]["deletionTimestamp"].is_string() {
        crate::kinds::custom::begin_deletion(&mut after, &rfc3339(now));
    }
    let waiting = ["metadata", "spec"]
        .iter()
        .any(|part| has_finalizers(&after[*part]));
    let marked = value["metadata"]["deletionTimestamp"].is_string();
    let left = value["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let grace = match kind.departure() {
        Departure::Pod => pod_grace(value, options.grace),
        Departure::Immediate | Departure::Namespace | Departure::Definition => 0,
    };
    if kind.departure() == Departure::Namespace && !marked {
        after["status"]["phase"] = "Terminating".into();
    }
    match marked {
        false if grace == 0 && !waiting => Step::Remove,
        false => mark(after, now, grace),
        true if grace == 0 && !waiting => Step::Remove,
        true if left.is_some_and(|left| grace < left) => Step::Mark(hurried(after, grace)),
        true if after != *value => Step::Mark(after),
        true => Step::Nothing,
    }
}

fn mark(mut value: Value, now: Timestamp, grace: i64) -> Step {
    let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    mark_deleted(&mut value, &rfc3339(end), grace);
    Step::Mark(value)
}

/// Less time for what is leaving already: the end moves, the beginning stays.
fn hurried(mut value: Value, grace: i64) -> Value {
    let meta = &mut value["metadata"];
    let left = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let end = meta["deletionTimestamp"]
        .as_str()
        .and_then(|end| end.parse::<Timestamp>().ok());
    if let Some(end) = end.and_then(|end| end.checked_add(SignedDuration::from_secs(grace - left)).ok()) {
        meta["deletionTimestamp"] = rfc3339(end).into();
    }
    meta["deletionGracePeriodSeconds"] = grace.into();
    value
}

/// What a deletion answers with: a graceful kind shows that its time was up.
fn last_state(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    match kind.departure() {
        Departure::Pod if value["metadata"]["deletionTimestamp"].is_string() => hurried(value, 0),
        Departure::Pod => {
            mark_deleted(&mut value, &rfc3339(Timestamp::now()), 0);
            value
        }
        Departure::Immediate | Departure::Namespace | Departure::Definition => value,
    }
}

fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn has_finalizers(part: &Value) -> bool {
    part["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// What was asked for, else what the object's finalizers say already, else what its kind does.
fn policy(kind: &Kind, value: &Value, options: &Options) -> Option<Propagation> {
    let says = |finalizer: &Value| finalizer == ORPHAN || finalizer == FOREGROUND;
    let said = value["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(says));
    let default = kind.orphans_by_default() && !said;
    options.propagation.or(default.then_some(Propagation::Orphan))
}

/// The garbage collector reads the policy from the finalizers.
fn set_finalizers(value: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let list = value["metadata"]["finalizers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut list: Vec<Value> = list
        .into_iter()
        .filter(|f| f != ORPHAN && f != FOREGROUND)
        .collect();
    match propagation {
        Propagation::Background => {}
        Propagation::Foreground => list.push(FOREGROUND.into()),
        Propagation::Orphan => list.push(ORPHAN.into()),
    }
    if let Some(meta) = value["metadata"].as_object_mut() {
        match list.is_empty() {
            true => drop(meta.remove("finalizers")),
            false => drop(meta.insert("finalizers".into(), list.into())),
        }
    }
}

fn check(kind: &Kind, name: &str, value: &Value, options: &Options) -> Result<()> {
    let is = |key: &str| value["metadata"][key].as_str().unwrap_or_default();
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != is("uid")) {
        let is = is("uid");
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({is}). The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::precondition(kind, name, &why));
    }
    if let Some(version) = options
        .version
        .as_deref()
        .filter(|version| *version != is("resourceVersion"))
    {
        let is = is("resourceVersion");
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({is}). \
             The object might have been modified"
        );
        return Err(ApiError::precondition(kind, name, &why));
    }
    Ok(())
}

/// From the body; from the query when there is none.
fn options(call: &Call) -> Result<Options> {
    if call.body.is_empty() {
        return from_query(&call.query);
    }
    let mut options = Options::default();
    let format = negotiate::body(&call.headers)?;
    let body = decode::object("DeleteOptions", format, &call.body)?.value;
    read_body(&body, &mut options)?;
    Ok(options)
}

fn from_query(query: &Query) -> Result<Options> {
    let policy = query.get("propagationPolicy");
    let propagation = policy.map(propagation).transpose()?;
    let orphans = query.tristate("orphanDependents").map(orphans);
    if let (Some(policy), Some(_)) = (policy, orphans) {
        return Err(said_twice(policy));
    }
    Ok(Options {
        grace: query.number("gracePeriodSeconds")?,
        propagation: propagation.or(orphans),
        dry_run: query.dry_run("DeleteOptions")?,
        ..Options::default()
    })
}

fn read_body(body: &Value, options: &mut Options) -> Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    options.grace = body["gracePeriodSeconds"].as_i64().or(options.grace);
    options.uid = text(&body["preconditions"]["uid"]).or(options.uid.take());
    options.version = text(&body["preconditions"]["resourceVersion"]).or(options.version.take());
    if let (Some(policy), Some(_)) = (
        body["propagationPolicy"].as_str(),
        body["orphanDependents"].as_bool(),
    ) {
        return Err(said_twice(policy));
    }
    if let Some(policy) = body["propagationPolicy"].as_str() {
        options.propagation = Some(propagation(policy)?);
    } else if let Some(orphan) = body["orphanDependents"].as_bool() {
        options.propagation = Some(orphans(orphan));
    }
    match &body["dryRun"] {
        Value::Array(list) if list.iter().all(|v| v == "All") => options.dry_run |= !list.is_empty(),
        Value::Null => {}
        other => {
            return Err(invalid(FieldError::not_supported(
                "dryRun",
                other.clone(),
                &["All"],
            )));
        }
    }
    Ok(())
}

fn said_twice(policy: &str) -> ApiError {
    let why = "orphanDependents and deletionPropagation cannot be both set";
    invalid(FieldError::invalid("propagationPolicy", policy, why))
}

fn orphans(orphan: bool) -> Propagation {
    if orphan {
        Propagation::Orphan
    } else {
        Propagation::Background
    }
}

fn propagation(text: &str) -> Result<Propagation> {
    match text {
        "Foreground" => Ok(Propagation::Foreground),
        "Background" => Ok(Propagation::Background),
        "Orphan" => Ok(Propagation::Orphan),
        other => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            Err(invalid(FieldError::not_supported(
                "propagationPolicy",
                other,
                &supported,
            )))
        }
    }
}

fn invalid(error: FieldError) -> ApiError {
    ApiError::invalid_options("DeleteOptions", &vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::store::KeyValue;
    use serde_json::json;

    fn kind(plural: &str) -> Arc<Kind> {
        let group = match plural {
            "jobs" => "batch",
            "replicasets" => "apps",
            _ => "",
        };
        Registry::builtin().resource(group, "v1", plural).unwrap().clone()
    }

    fn step(plural: &str, value: Value, options: Options) -> Step {
        plan(&kind(plural), &value, &options, Timestamp::UNIX_EPOCH)
    }

    fn marked(step: Step) -> Value {
        match step {
            Step::Mark(value) => value["metadata"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_object_goes_at_once() {
        assert_eq!(
            step("configmaps", json!({"metadata": {}}), Options::default()),
            Step::Remove
        );
    }

    #[test]
    fn finalizers_keep_it_marked() {
        let held = json!({"metadata": {"finalizers": ["x/y"]}});
        let meta = marked(step("configmaps", held, Options::default()));
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:00Z");
        assert_eq!(meta["deletionGracePeriodSeconds"], 0);
    }

    #[test]
    fn foreground_and_orphan_are_finalizers() {
        for (propagation, want) in [
            (Propagation::Foreground, FOREGROUND),
            (Propagation::Orphan, ORPHAN),
        ] {
            let options = Options {
                propagation: Some(propagation),
                ..Options::default()
            };
            let meta = marked(step("configmaps", json!({"metadata": {}}), options));
            assert_eq!(meta["finalizers"], json!([want]));
        }
    }

    #[test]
    fn kinds_older_than_the_garbage_collector_orphan_unless_it_is_said() {
        let background = Options {
            propagation: Some(Propagation::Background),
            ..Options::default()
        };
        let foreground = json!({"metadata": {"finalizers": [FOREGROUND]}});
        let cases = [
            (
                "replicationcontrollers",
                json!({"metadata": {}}),
                Options::default(),
                json!([ORPHAN]),
            ),
            (
                "jobs",
                json!({"metadata": {}}),
                Options::default(),
                json!([ORPHAN]),
            ),
            (
                "replicationcontrollers",
                foreground,
                Options::default(),
                json!([FOREGROUND]),
            ),
        ];
        for (plural, value, options, want) in cases {
            assert_eq!(
                marked(step(plural, value, options))["finalizers"],
                want,
                "{plural}"
            );
        }
        let object = json!({"metadata": {}});
        assert_eq!(
            step("replicationcontrollers", object.clone(), background),
            Step::Remove
        );
        assert_eq!(step("replicasets", object, Options::default()), Step::Remove);
        assert_eq!(warnings(&kind("jobs"), &Options::default()).len(), 1);
        assert_eq!(
            warnings(&kind("replicationcontrollers"), &Options::default()).len(),
            0
        );
    }

    #[test]
    fn a_pod_on_a_node_gets_its_time_and_less_when_asked_again() {
        let pod = json!({"metadata": {"generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let first = step("pods", pod.clone(), Options::default());
        let meta = marked(first);
        assert_eq!(
            (&meta["deletionGracePeriodSeconds"], &meta["generation"]),
            (&json!(20), &json!(2))
        );
        assert_eq!(meta["deletionTimestamp"], "1970-01-01T00:00:20Z");
        let going = json!({"metadata": meta, "spec": pod["spec"]});
        assert_eq!(step("pods", going.clone(), Options::default()), Step::Nothing);
        let sooner = Options {
            grace: Some(5),
            ..Options::default()
        };
        let hurried = marked(step("pods", going.clone(), sooner));
        assert_eq!(hurried["deletionGracePeriodSeconds"], 5);
        assert_eq!(hurried["deletionTimestamp"], "1970-01-01T00:00:05Z");
        assert_eq!(hurried["generation"], 2);
        let now = Options {
            grace: Some(0),
            ..Options::default()
        };
        assert_eq!(step("pods", going, now), Step::Remove);
    }

    #[test]
    fn what_is_gone_after_it_was_announced_is_deleted() {
        let conflict = |key: &str, there: bool| TxnOutcome::Conflict {
            key: key.to_owned(),
            current: there.then(|| KeyValue {
                key: key.into(),
                value: Default::default(),
                create_revision: 1,
                mod_revision: 9,
                version: 2,
            }),
        };
        for (removed, want) in [
            (TxnOutcome::Committed { revision: 8 }, Some(8)),
            (conflict("/pods/n/p", false), Some(7)),
            (conflict("/pods/n/p", true), None),
            (conflict("/resourcequotas/n/q", false), None),
        ] {
            let text = format!("{removed:?}");
            let revision = match once_announced("/pods/n/p", 7, removed) {
                TxnOutcome::Committed { revision } => Some(revision),
                TxnOutcome::Conflict { .. } => None,
            };
            assert_eq!(revision, want, "{text}");
        }
    }

    #[test]
    fn a_namespace_is_emptied_first() {
        let namespace = json!({"metadata": {}, "spec": {"finalizers": ["kubernetes"]}});
        let Step::Mark(value) = step("namespaces", namespace, Options::default()) else {
            panic!()
        };
        assert_eq!(value["status"]["phase"], "Terminating");
        assert_eq!(step("namespaces", value, Options::default()), Step::Nothing);
    }
}

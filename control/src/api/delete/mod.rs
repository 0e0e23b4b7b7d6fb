//! `delete` and `deletecollection`.
//!
//! An object with finalizers, or one that leaves gracefully, is only marked; the update that takes the last obstacle
//! away removes it (see `write`).
mod evict;
mod options;
mod plan;

use super::Call;
use super::convert;
use super::list;
use super::object::Object;
use super::permit;
use super::render::{self, Style};
use super::status::{self, ApiError, Result, success};
use super::write;
use super::written;
use crate::admission::{self, Action, Notes, Review};
use crate::auth::restrict::Operation;
use crate::kinds::Kind;
use crate::kinds::conduct::Departure;
use crate::store::{Revision, Txn, TxnOutcome};
use axum::response::Response;
pub use evict::evict;
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use options::{Options, options};
use plan::{Step, last_state, plan};
use serde_json::Value;
use std::sync::Arc;

/// How often a deletion tries again after losing a race.
const RETRIES: usize = 8;
/// Deletions of one `deletecollection` under way at once: they share commits.
const AT_ONCE: usize = 32;

/// What a deletion came to.
enum Outcome {
    /// Still there, marked.
    Marked(Value),
    Gone(Value),
}

pub async fn serve(call: &Call, style: Style) -> Result<Response> {
    let name = call.name()?;
    let options = options(call)?;
    let warnings = warnings(&call.target.kind, &options);
    let kind = &call.target.kind;
    if let Some(why) = kind.undeletable(name) {
        return Err(ApiError::forbidden(&kind.group, &kind.plural, name, why));
    }
    match delete(call, name, name, &options).await {
        Ok((outcome, told)) => {
            let response = answer(&call.target.kind, name, style, &outcome)?;
            Ok(render::warn(render::warn(response, told), warnings))
        }
        Err(error) => Err(error.after(warnings)),
    }
}

fn answer(kind: &Kind, name: &str, style: Style, outcome: &Outcome) -> Result<Response> {
    match outcome {
        Outcome::Marked(value) => render::one(kind, style, StatusCode::OK, value),
        Outcome::Gone(value) if kind.returns_deleted() => render::one(kind, style, StatusCode::OK, value),
        Outcome::Gone(value) => {
            let uid = value["metadata"]["uid"].as_str().unwrap_or_default();
            success::deleted(kind, name, uid, style.accepted.format)
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
    let told: Vec<Vec<String>> = stream::iter(names.collect::<Vec<_>>())
        .map(|name| remove_listed(call, name, &options))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let response = render::warn(list::answer(call, style, page)?, told.concat());
    Ok(render::warn(response, warnings(&call.target.kind, &options)))
}

/// What is gone by then is as good as deleted. With what admission warns of.
async fn remove_listed(call: &Call, name: String, options: &Options) -> Result<Vec<String>> {
    match delete(call, &name, "", options).await {
        Ok((_, told)) => Ok(told),
        Err(error) if error.code == StatusCode::NOT_FOUND => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// With what admission warns of. `told` is the name that the request is for: a collection has none.
async fn delete(call: &Call, name: &str, told: &str, options: &Options) -> Result<(Outcome, Vec<String>)> {
    let current = call.api.read(&call.target, name).await?;
    let old = convert::value(&call.api, &call.target.kind, &current).await?;
    let review = Review {
        options: admission::Options {
            deletion: Some(&options.said),
            ..admission::Options::default()
        },
        ..write::review(call, options.dry_run, told, Action::Delete { old: &old })
    };
    let mut notes = Notes::default();
    let admitted = call.api.admission.delete(&review, &mut notes).await;
    write::tell(call, &mut notes);
    let deleted = match admitted {
        Ok(()) => delete_admitted(call, name, current, options).await,
        Err(denial) => Err(status::denied(&call.target.kind, told, denial)),
    };
    match deleted {
        Ok(outcome) => Ok((outcome, notes.warnings)),
        Err(error) => Err(error.after(notes.warnings)),
    }
}

async fn delete_admitted(
    call: &Call,
    name: &str,
    mut current: Arc<Object>,
    options: &Options,
) -> Result<Outcome> {
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
                convert::stored_form(call, &marked, None).await?,
            );
            (Outcome::Marked(marked), call.api.store.txn(txn).await?)
        }
    };
    Ok(match txn {
        TxnOutcome::Conflict { .. } => None,
        TxnOutcome::Committed { revision } => Some(match outcome {
            Outcome::Marked(value) => Outcome::Marked(written::at(value, revision)),
            Outcome::Gone(value) => Outcome::Gone(written::at(value, revision)),
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
    let bytes = convert::stored_form(call, &marked, None).await?;
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

fn check(kind: &Kind, name: &str, value: &Value, options: &Options) -> Result<()> {
    let is = |key: &str| value["metadata"][key].as_str().unwrap_or_default();
    if matches!(kind.departure(), Departure::Namespace | Departure::Definition) {
        return check_by_itself(kind, name, value, options);
    }
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

/// Kinds whose storage looks for itself, before the others' does, have words of their own.
fn check_by_itself(kind: &Kind, name: &str, value: &Value, options: &Options) -> Result<()> {
    for (key, what, said) in [
        ("uid", "UID", &options.uid),
        ("resourceVersion", "ResourceVersion", &options.version),
    ] {
        let is = value["metadata"][key].as_str().unwrap_or_default();
        if let Some(said) = said.as_deref().filter(|said| *said != is) {
            let why =
                format!("Precondition failed: {what} in precondition: {said}, {what} in object meta: {is}");
            return Err(ApiError::conflict(kind, name, &why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::store::KeyValue;

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
    fn another_object_is_not_deleted() {
        let told = |plural: &str, options: Options| {
            let kind = Registry::builtin().resource("", "v1", plural).expect("served");
            let value = serde_json::json!({"metadata": {"uid": "u", "resourceVersion": "7"}});
            check(kind, "n", &value, &options).map_err(|error| error.message().to_owned())
        };
        let (uid, version) = (
            || Options {
                uid: Some("x".to_owned()),
                ..Options::default()
            },
            || Options {
                version: Some("6".to_owned()),
                ..Options::default()
            },
        );
        for (plural, options, want) in [
            (
                "namespaces",
                uid(),
                "on namespaces \"n\": Precondition failed: UID in precondition: x, UID in object meta: u",
            ),
            (
                "namespaces",
                version(),
                "on namespaces \"n\": Precondition failed: ResourceVersion in precondition: 6, \
                ResourceVersion in object meta: 7",
            ),
            (
                "configmaps",
                uid(),
                "on ConfigMap \"n\": the UID in the precondition (x) does not match the UID in record (u). \
                The object might have been deleted and then recreated",
            ),
        ] {
            let want = format!("Operation cannot be fulfilled {want}");
            assert_eq!(told(plural, options), Err(want));
        }
        let right = Options {
            uid: Some("u".to_owned()),
            version: Some("7".to_owned()),
            ..Options::default()
        };
        assert_eq!(told("namespaces", right), Ok(()));
    }

    #[test]
    fn who_deletes_a_job_without_a_word_is_told_what_becomes_of_its_pods() {
        let told = |group: &str, plural: &str| {
            let kind = Registry::builtin().resource(group, "v1", plural).expect("served");
            warnings(kind, &Options::default()).len()
        };
        assert_eq!(
            (told("batch", "jobs"), told("", "replicationcontrollers")),
            (1, 0)
        );
    }
}

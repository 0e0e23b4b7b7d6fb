//! What every write has in common, and `update`; a creation is in `create`. The one way an object gets into the store.
//!
//! decode → strictness → default → mutating admission → prepare → choose addresses → validate → validating admission →
//! store (compare-and-swap). Nothing here knows a kind: what differs is in `kinds` and `admission`.
use super::convert::{self, reread};
use super::decode::BODY_LIMIT;
use super::object::Object;
use super::others::settled;
use super::owners::{Moment, named_once};
use super::query::{FieldValidation, Query};
use super::status::{self, ApiError, Result};
use super::strictness::prune;
use super::written::{Left, Written, at};
use super::{Call, manage, permit, precondition, size};
use crate::admission::{self, Action, Claims, Denial, Notes, Review};
use crate::auth::restrict::Operation;
use crate::kinds::view::View;
use crate::kinds::{FieldErrors, FieldIssue};
use crate::store::{Op, Revision, Txn, TxnOutcome};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a write that does not insist on a revision tries again after losing a race (upstream's patch retries).
pub const RETRIES: usize = 8;
/// How long a Pod waits for the default account of a young namespace (upstream: ten tries, 100 to 200 ms apart).
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Options that every write has.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// The owners of fields are set already: by server-side apply.
    pub applied: bool,
    /// The object is what a patch made, which is to blame for what does not fit.
    pub patched: bool,
    /// What this does for a request was admitted as what the request is.
    pub admitted: bool,
}

impl Options {
    /// `name` is that of the options object, for errors.
    pub fn of(query: &Query, name: &str) -> Result<Self> {
        let errors = manage::check_name(query);
        if !errors.is_empty() {
            return Err(ApiError::invalid_options(name, &errors));
        }
        Ok(Options {
            applied: false,
            patched: false,
            admitted: false,
            dry_run: query.dry_run(name)?,
            validation: query.field_validation(name)?,
        })
    }
}

/// What an update makes of the object that is there: the new object, and what strict decoding says of it.
pub type Change<'c> = dyn Fn(&Value) -> Result<(Value, Vec<FieldIssue>)> + Send + Sync + 'c;

/// Replaces the named object by what `change` makes of it; a resource version in the result must be current.
pub async fn update(call: &Call, options: Options, name: &str, change: &Change<'_>) -> Result<Written> {
    let mut current = call.api.read(&call.target, name).await?;
    for _ in 0..RETRIES {
        match update_once(call, options, &current, change).await? {
            Attempt::Done(written) => return Ok(written),
            Attempt::Lost => current = call.api.reread(&call.target, name).await?,
        }
    }
    Err(ApiError::modified(&call.target.kind, name))
}

enum Attempt {
    Done(Written),
    /// Somebody else wrote first.
    Lost,
}

async fn update_once(
    call: &Call,
    options: Options,
    current: &Arc<Object>,
    change: &Change<'_>,
) -> Result<Attempt> {
    let kind = &call.target.kind;
    let old = convert::value(&call.api, kind, current).await?;
    let (mut new, issues) = settled(call, || change(&old)).await??;
    let warnings = match prune(call, options, &mut new, issues) {
        Ok(warnings) => warnings,
        // What is made is shown as it was before anything was taken from it.
        Err(misfit) if options.patched => return Err(misfit.blame(call, &change(&old)?.0)),
        Err(misfit) => return Err(misfit.refusal(kind, options)),
    };
    let mut notes = Notes {
        warnings,
        ..Notes::default()
    };
    let object = match replace(call, options, (current, &old), new, &mut notes).await {
        Ok(Replaced::Lost) => return Ok(Attempt::Lost),
        Ok(Replaced::Unchanged) => Left::Value(old),
        Ok(Replaced::Written(object)) => object,
        Err(error) => return Err(error.after(notes.warnings)),
    };
    Ok(Attempt::Done(Written {
        object,
        warnings: notes.warnings,
        created: false,
    }))
}

/// What became of an object that was to be replaced.
enum Replaced {
    /// Somebody else wrote first.
    Lost,
    /// It was that already.
    Unchanged,
    Written(Left),
}

async fn replace(
    call: &Call,
    options: Options,
    (current, old): (&Object, &Value),
    mut new: Value,
    notes: &mut Notes,
) -> Result<Replaced> {
    let name = name_of(old);
    let review = review(call, options.dry_run, name, Action::Update { old });
    tell_sent(call, &new);
    let said = fit_in(call, options, &mut new, old)?;
    default(call, options, &mut new)?;
    permit::write(call, Operation::Update, name, old, &new)?;
    if !options.applied {
        if !options.patched {
            notes.warnings.extend(named_once(&mut new, Moment::AsSent));
        }
        manage::note(call, Some(old), &mut new).await;
    }
    if !options.admitted {
        // Shown as it was sent, and below as it is about to be.
        precondition::recall_version(&mut new, said);
        mutate(call, &review, &mut new, notes).await?;
        place(call, &mut new)?;
        precondition::forget_version(&mut new);
        notes.warnings.extend(named_once(&mut new, Moment::AsAdmitted));
    }
    let mut claims = prepare(call, &review, &mut new, (old, notes)).await?;
    call.target.kind.normalise(&mut new);
    manage::settle(old, &mut new);
    if !options.admitted {
        let version = old.at("metadata.resourceVersion").clone();
        precondition::recall_version(&mut new, Some(version));
        judge(call, &review, &new, &mut claims, notes).await?;
        precondition::forget_version(&mut new);
    }
    store_over(call, options, (current, old), new, &claims).await
}

/// Fills in what the object leaves out.
pub fn default(call: &Call, options: Options, value: &mut Value) -> Result<()> {
    let kind = &call.target.kind;
    let whole = match options.applied {
        true => kind.default_merged(value),
        false => kind.default(value),
    };
    match whole {
        true => Ok(()),
        false => Err(ApiError::body_too_large(BODY_LIMIT)),
    }
}

/// Makes sure that it is this object that is to be replaced, as it is. Answers with the version that was said.
fn fit_in(call: &Call, options: Options, new: &mut Value, old: &Value) -> Result<Option<Value>> {
    place(call, new)?;
    check_name(name_of(new), name_of(old))?;
    precondition::check(&call.target.kind, options, new, old)?;
    Ok(precondition::forget_version(new))
}

/// Keeps what a client may not change, chooses what it leaves open, and judges the result; in upstream's order, so that what
/// cannot be had is told before what is wrong.
async fn prepare(
    call: &Call,
    review: &Review<'_>,
    new: &mut Value,
    (old, notes): (&Value, &mut Notes),
) -> Result<Claims> {
    let (kind, subresource) = (&call.target.kind, call.target.subresource.as_deref());
    kind.prepare_update(subresource, new, old);
    let claims = allocate(call, review, new).await?;
    notes.warnings.extend(judge_update(call, review, new, old).await?);
    if subresource.is_none() {
        notes.warnings.extend(kind.warnings(new, Some(old)));
    }
    Ok(claims)
}

/// Writes the object in the place of the current one, and with it what is claimed for it; one that is finished goes.
async fn store_over(
    call: &Call,
    options: Options,
    (current, old): (&Object, &Value),
    mut new: Value,
    claims: &Claims,
) -> Result<Replaced> {
    let bytes = size::fitted(call, &mut new, None, current.line.len(), options.applied).await?;
    // A write that changes nothing is no write: no revision, no event.
    if claims.is_empty() && current.is_stored_as(&bytes) {
        return Ok(Replaced::Unchanged);
    }
    if options.dry_run {
        let new = reread(call, &bytes, new).await?;
        return Ok(Replaced::Written(Left::Value(at(new, current.revision))));
    }
    let outcome = match is_finished(&new) {
        true => remove(call, current, old).await?,
        false => {
            let mut txn = Txn::swap(&*current.key, current.revision, bytes.clone());
            claims.join(&current.key, &mut txn);
            call.api.store.txn(txn).await?
        }
    };
    Ok(match outcome {
        TxnOutcome::Committed { revision } => {
            let new = reread(call, &bytes, new).await?;
            Replaced::Written(Left::of(&call.target.kind, &bytes, Some(new), revision))
        }
        TxnOutcome::Conflict { .. } => Replaced::Lost,
    })
}

/// What to warn of; fails with everything that is wrong.
async fn judge_update(call: &Call, review: &Review<'_>, new: &Value, old: &Value) -> Result<Vec<String>> {
    let kind = &call.target.kind;
    let mut errors = misplaced(call, review, new).await?;
    let (wrong, kept) = kind.judge_update(call.target.subresource.as_deref(), new, old);
    errors.extend(wrong);
    match errors.is_empty() {
        true => Ok(kept),
        false => Err(ApiError::invalid(&kind.kind, &kind.group, review.name, &errors).after(kept)),
    }
}

/// What is wrong with the object where it is and by whom it is written. The namespace counts as it is now, which the cache
/// may not know yet.
pub async fn misplaced(call: &Call, review: &Review<'_>, value: &Value) -> Result<FieldErrors> {
    let admission = &call.api.admission;
    let mut errors = FieldErrors::new();
    if let Some(field) = admission.asks_of_namespace(review, value) {
        call.api.cache.fresh().await?;
        errors.extend(admission.misplaced(review, &field));
    }
    errors.extend(admission.unauthorized(review, value));
    Ok(errors)
}

/// An object that was only waiting for its finalizers goes with the last of them.
pub fn is_finished(value: &Value) -> bool {
    let meta = &value["metadata"];
    let waiting = meta["finalizers"].as_array().is_some_and(|f| !f.is_empty())
        || value["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    meta["deletionTimestamp"].is_string()
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !waiting
}

/// Takes the object out of the store, with what it held.
pub async fn remove(call: &Call, current: &Object, value: &Value) -> Result<TxnOutcome> {
    remove_at(call, current, current.revision, value).await
}

/// The same, of a later revision of the object.
pub async fn remove_at(
    call: &Call,
    current: &Object,
    revision: Revision,
    value: &Value,
) -> Result<TxnOutcome> {
    let mut txn = Txn {
        compare: Txn::remove(&*current.key, revision).compare,
        ops: Vec::new(),
    };
    txn.ops.push(Op::Delete {
        key: current.key.to_string(),
    });
    let (kind, store) = (&call.target.kind, call.api.store.as_ref());
    let released = call.api.admission.releases(store, kind, value).await;
    let released = released.map_err(|denial| status::denied(kind, name_of(value), denial))?;
    released.join(&current.key, &mut txn);
    Ok(store.txn(txn).await?)
}

/// Completes the object. A denial may come of a cache that is behind what was answered already, so that it is asked
/// once more; what is on its way is waited for.
pub async fn mutate(call: &Call, review: &Review<'_>, value: &mut Value, notes: &mut Notes) -> Result<()> {
    let cache = &call.api.cache;
    let deadline = Instant::now() + ON_ITS_WAY;
    let mut behind = true;
    loop {
        let seen = cache.revision();
        let Err(denial) = call.api.admission.mutate(review, value, notes).await else {
            tell(call, notes);
            return Ok(());
        };
        // Webhooks are not asked twice for one answer.
        let own = !matches!(denial, Denial::Refused { .. } | Denial::Failed(_));
        if own && std::mem::take(&mut behind) && cache.fresh().await? > seen {
            continue;
        }
        let retry = matches!(denial, Denial::NotYet(_)) && cache.passes(seen, deadline).await;
        if !retry {
            let name = match review.name {
                "" => value.text("metadata.generateName"),
                name => name,
            };
            tell(call, notes);
            return Err(status::denied(review.kind, name, denial));
        }
    }
}

/// What was sent as it was understood, for the request's event.
pub fn tell_sent(call: &Call, value: &Value) {
    call.told.sent(|| {
        let mut shown = value.clone();
        call.target.kind.default(&mut shown);
        call.target.kind.normalise(&mut shown);
        shown
    });
}

/// What admission has to say is in the request's event, whatever it comes to.
pub fn tell(call: &Call, notes: &mut Notes) {
    call.told.add(notes.audit.drain(..));
    call.told.add_bodies(notes.patches.drain(..));
    call.waited.add(std::mem::take(&mut notes.waited));
}

/// Gives the object what it needs of what there is once.
pub async fn allocate(call: &Call, review: &Review<'_>, value: &mut Value) -> Result<Claims> {
    let store = call.api.store.as_ref();
    let claims = call.api.admission.allocate(store, review, value).await;
    claims.map_err(|denial| status::denied(review.kind, review.name, denial))
}

/// The last word before an object is stored.
pub async fn judge(
    call: &Call,
    review: &Review<'_>,
    value: &Value,
    claims: &mut Claims,
    notes: &mut Notes,
) -> Result<()> {
    let store = call.api.store.as_ref();
    let admitted = call
        .api
        .admission
        .validate(store, review, value, claims, notes)
        .await;
    tell(call, notes);
    admitted.map_err(|denial| status::denied(review.kind, review.name, denial))
}

pub fn review<'a>(call: &'a Call, dry_run: bool, name: &'a str, action: Action<'a>) -> Review<'a> {
    Review {
        verb: call.verb,
        kind: &call.target.kind,
        namespace: call.target.namespace.as_deref(),
        name,
        subresource: call.target.subresource.as_deref(),
        action,
        dry_run,
        options: admission::Options {
            manager: call.query.get("fieldManager"),
            validation: call.query.get("fieldValidation"),
            deletion: None,
        },
        who: &call.who,
        authorizer: Some(&call.api.authorizer),
    }
}

/// Puts the object into the namespace of the path, or into none.
pub fn place(call: &Call, value: &mut Value) -> Result<()> {
    let Some(object) = value.as_object_mut() else {
        return Err(ApiError::bad_request("the body is not an object"));
    };
    let meta = object.entry("metadata").or_insert_with(|| json!({}));
    if meta.is_null() {
        *meta = json!({});
    }
    if !meta.is_object() {
        return Err(ApiError::bad_request("the metadata of the body is not an object"));
    }
    let said = meta["namespace"].as_str().unwrap_or_default().to_owned();
    let wanted = call.target.namespace.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        // What is in no namespace may be sent with one (upstream's `EnsureObjectNamespaceMatchesRequestNamespace`).
        if let Some(meta) = meta.as_object_mut().filter(|_| !said.is_empty()) {
            meta.remove("namespace");
        }
    } else if said.is_empty() {
        meta["namespace"] = wanted.into();
    } else if said != wanted {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(why));
    }
    Ok(())
}

pub fn name_of(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

/// The name in the body must be that of the path (upstream's `checkName`).
pub fn check_name(said: &str, wanted: &str) -> Result<()> {
    let why = match said {
        _ if said == wanted => return Ok(()),
        "" => {
            format!(
                "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
            )
        }
        _ => format!("the name of the object ({said}) does not match the name on the URL ({wanted})"),
    };
    Err(ApiError::bad_request(why))
}

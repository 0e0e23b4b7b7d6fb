//! `create` and `update`: the one way an object gets into the store.
//!
//! decode → strictness → default → mutating admission → prepare → validate → validating admission → store
//! (compare-and-swap). Nothing here knows a kind:
//! what differs is in `kinds` and `admission`.
use super::convert::{self, stored_form};
use super::object::Object;
use super::others::settled;
use super::query::{FieldValidation, Query};
use super::status::{self, ApiError, Result};
use super::strictness::prune;
use super::written::{Left, Written, at};
use super::{Call, decode, manage, permit, precondition, random_id, render};
use crate::admission::{self, Action, Claims, Denial, Notes, Review};
use crate::auth::restrict::Operation;
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, time};
use crate::store::{Op, Revision, Txn, TxnOutcome};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a write that does not insist on a revision tries again after losing a race (upstream's patch retries).
const RETRIES: usize = 8;
/// How long a Pod waits for the default account of a young namespace (upstream: ten tries, 100 to 200 ms apart).
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// Characters of a generated suffix, and how many: no vowels, so no words.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Generated names are cut to leave room for the suffix within a label.
const GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;

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

/// Creates an object from a decoded body.
pub async fn create(
    call: &Call,
    options: Options,
    mut body: Value,
    issues: Vec<FieldIssue>,
) -> Result<Written> {
    let kind = &call.target.kind;
    decode::check_kind(kind, &body)?;
    let warnings = prune(call, options, &mut body, issues).map_err(|misfit| misfit.refusal(kind, options))?;
    match create_pruned(call, options, body).await {
        Ok(created) => Ok(created.after(warnings)),
        Err(error) => Err(error.after(warnings)),
    }
}

async fn create_pruned(call: &Call, options: Options, mut body: Value) -> Result<Written> {
    let kind = &call.target.kind;
    place(call, &mut body)?;
    if !matches!(
        body["metadata"]["resourceVersion"].as_str(),
        None | Some("" | "0")
    ) {
        return Err(ApiError::version_on_create());
    }
    let name = name_of(&body).to_owned();
    if !generates(&body) {
        return match create_noted(call, options, body).await? {
            Ok(created) => Ok(created),
            Err(warnings) => Err(taken(call, &name).await.after(warnings)),
        };
    }
    for _ in 0..=RETRIES {
        if let Ok(created) = create_noted(call, options, body.clone()).await? {
            return Ok(created);
        }
    }
    Err(ApiError::already_exists(kind, &name))
}

/// Why there is no place for an object of this name.
async fn taken(call: &Call, name: &str) -> ApiError {
    let error = ApiError::already_exists(&call.target.kind, name);
    let there = call.api.reread(&call.target, name).await;
    let leaving = there.is_ok_and(|object| {
        render::value(&call.target.kind, &object).is_ok_and(|value| value.has("metadata.deletionTimestamp"))
    });
    match leaving {
        true => error.below("object is being deleted"),
        false => error,
    }
}

/// As below, with what was to be warned of on the way; that alone when the name is taken.
async fn create_noted(
    call: &Call,
    options: Options,
    value: Value,
) -> Result<std::result::Result<Written, Vec<String>>> {
    let mut notes = Notes::default();
    match create_once(call, options, value, &mut notes).await {
        Ok(Some(created)) => Ok(Ok(created.after(notes.warnings))),
        Ok(None) => Ok(Err(notes.warnings)),
        Err(error) => Err(error.after(notes.warnings)),
    }
}

/// `None` when the name is taken.
async fn create_once(
    call: &Call,
    options: Options,
    mut value: Value,
    notes: &mut Notes,
) -> Result<Option<Written>> {
    let kind = &call.target.kind;
    let said = name_of(&value).to_owned();
    let completing = review(call, options.dry_run, &said, Action::Create);
    kind.default(&mut value);
    permit::write(call, Operation::Create, &said, &Value::Null, &value)?;
    permit::sign(call, &mut value);
    let mut owners = None;
    if !options.applied {
        match is_unseen(call, options) {
            true => owners = manage::note_unseen(call, &mut value).await,
            false => manage::note(call, None, &mut value).await,
        }
    }
    mutate(call, &completing, &mut value, notes).await?;
    // Who completes an object that has the beginning of a name only may still name it.
    if generates(&value) {
        make_up_name(&mut value);
    }
    let name = name_of(&value).to_owned();
    let review = Review {
        name: &name,
        ..completing
    };
    stamp(&mut value);
    kind.prepare_create(&mut value);
    // What is allocated to it is chosen anew when somebody else was faster.
    let unallocated = call.api.admission.allocates(&review).then(|| value.clone());
    let told = notes.warnings.len();
    for _ in 0..RETRIES {
        match attempt_create(call, &review, &mut value, owners.as_deref(), notes).await? {
            Creation::Done(written) => return Ok(Some(written)),
            Creation::NameTaken => return Ok(None),
            Creation::Lost => notes.warnings.truncate(told),
        }
        if let Some(unallocated) = &unallocated {
            value.clone_from(unallocated);
        }
    }
    Err(ApiError::internal(
        "what the object needs beside itself was taken by others, again and again",
    ))
}

/// How an attempt to create an object ended.
enum Creation {
    Done(Written),
    NameTaken,
    /// Somebody else took meanwhile what it needs beside itself.
    Lost,
}

/// The last steps of a creation, from what is allocated to the object until it is stored. `owners` are its `managedFields`
/// where these are not part of it yet.
async fn attempt_create(
    call: &Call,
    review: &Review<'_>,
    value: &mut Value,
    owners: Option<&str>,
    notes: &mut Notes,
) -> Result<Creation> {
    let kind = &call.target.kind;
    let mut claims = allocate(call, review, value).await?;
    let errors = kind.validate_create(value);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&kind.kind, &kind.group, review.name, &errors));
    }
    notes.warnings.extend(kind.warnings(value, None));
    kind.normalise(value);
    judge(call, review, value, &mut claims, notes).await?;
    let done = |object| {
        Creation::Done(Written {
            object,
            warnings: Vec::new(),
            created: true,
        })
    };
    let key = call.target.key(review.name);
    if review.dry_run {
        let is_taken = call.api.store.get(&key).await?.is_some();
        return Ok(match is_taken {
            true => Creation::NameTaken,
            false => done(Left::Value(value.take())),
        });
    }
    let bytes = stored_form(call, value, owners).await?;
    let mut txn = Txn::create(key.clone(), bytes.clone());
    claims.join(&key, &mut txn);
    // Nobody will ask for the tree again: it goes while this processor has it at hand, not after the disk.
    if owners.is_some() && claims.is_empty() {
        value.take();
    }
    Ok(match call.api.store.txn(txn).await? {
        TxnOutcome::Committed { revision } => {
            let seen = owners.is_none().then(|| value.take());
            done(Left::of(kind, &bytes, seen, revision))
        }
        TxnOutcome::Conflict { key: lost, .. } if lost == key => Creation::NameTaken,
        TxnOutcome::Conflict { .. } => Creation::Lost,
    })
}

/// Whether the object is nobody's to see before it is stored, neither others' nor, in another form, ours.
fn is_unseen(call: &Call, options: Options) -> bool {
    !options.dry_run && call.target.kind.stored_as_served() && !call.api.admission.shows()
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
    let kind = &call.target.kind;
    place(call, &mut new)?;
    let name = name_of(old).to_owned();
    check_name(name_of(&new), &name)?;
    precondition::check(kind, options, &new, old)?;
    let said = precondition::forget_version(&mut new);
    let review = review(call, options.dry_run, &name, Action::Update { old });
    kind.default(&mut new);
    permit::write(call, Operation::Update, &name, old, &new)?;
    if !options.applied {
        manage::note(call, Some(old), &mut new).await;
    }
    if !options.admitted {
        // Shown as it was sent, and below as it is about to be.
        precondition::recall_version(&mut new, said);
        mutate(call, &review, &mut new, notes).await?;
        precondition::forget_version(&mut new);
    }
    kind.prepare_update(call.target.subresource.as_deref(), &mut new, old);
    validate_update(call, &name, &new, old)?;
    if call.target.subresource.is_none() {
        notes.warnings.extend(kind.warnings(&new, Some(old)));
    }
    let mut claims = allocate(call, &review, &mut new).await?;
    kind.normalise(&mut new);
    manage::settle(old, &mut new);
    if !options.admitted {
        let version = old.at("metadata.resourceVersion").clone();
        precondition::recall_version(&mut new, Some(version));
        judge(call, &review, &new, &mut claims, notes).await?;
        precondition::forget_version(&mut new);
    }
    let bytes = stored_form(call, &new, None).await?;
    // A write that changes nothing is no write: no revision, no event.
    if claims.is_empty() && current.is_stored_as(&bytes) {
        return Ok(Replaced::Unchanged);
    }
    if options.dry_run {
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
        TxnOutcome::Committed { revision } => Replaced::Written(Left::of(kind, &bytes, Some(new), revision)),
        TxnOutcome::Conflict { .. } => Replaced::Lost,
    })
}

fn validate_update(call: &Call, name: &str, new: &Value, old: &Value) -> Result<()> {
    let kind = &call.target.kind;
    let errors = kind.validate_update(call.target.subresource.as_deref(), new, old);
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&kind.kind, &kind.group, name, &errors))
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
    call.api
        .admission
        .releases(&call.target.kind, value)
        .join(&current.key, &mut txn);
    Ok(call.api.store.txn(txn).await?)
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
            return Err(status::denied(review.kind, name, denial));
        }
    }
}

async fn allocate(call: &Call, review: &Review<'_>, value: &mut Value) -> Result<Claims> {
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
    call.told.add(notes.audit.drain(..));
    admitted.map_err(|denial| status::denied(review.kind, review.name, denial))
}

pub fn review<'a>(call: &'a Call, dry_run: bool, name: &'a str, action: Action<'a>) -> Review<'a> {
    Review {
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

fn generates(value: &Value) -> bool {
    name_of(value).is_empty()
        && value["metadata"]["generateName"]
            .as_str()
            .is_some_and(|base| !base.is_empty())
}

/// Makes up the name of an object that has only the beginning of one.
fn make_up_name(value: &mut Value) {
    let base = value["metadata"]["generateName"].as_str().unwrap_or_default();
    let base: String = base.chars().take(GENERATED_BASE).collect();
    value["metadata"]["name"] = format!("{base}{}", suffix()).into();
}

fn suffix() -> String {
    (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX[rand::random_range(0..SUFFIX.len())]))
        .collect()
}

/// Identity and birth of a new object.
fn stamp(value: &mut Value) {
    let meta = &mut value["metadata"];
    meta["uid"] = random_id().into();
    meta["creationTimestamp"] = time::now().into();
    precondition::forget_version(value);
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

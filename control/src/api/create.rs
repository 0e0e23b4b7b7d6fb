//! How an object comes to be: its name, its place, what is allocated to it, and the write.
//!
//! The steps are those of `write`. Refuses to know a kind.
use super::convert::reread;
use super::owners::{Moment, named_once};
use super::status::{ApiError, Result};
use super::strictness::prune;
use super::write::{
    Options, RETRIES, allocate, default, judge, misplaced, mutate, name_of, place, review, tell_sent,
};
use super::written::{Left, Written};
use super::{Call, decode, manage, permit, precondition, random_id, render, size};
use crate::admission::{Action, Claims, Notes, Review};
use crate::auth::restrict::Operation;
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, time};
use crate::store::{Txn, TxnOutcome};
use serde_json::Value;

/// Characters of a generated suffix, and how many: no vowels, so no words.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Generated names are cut to leave room for the suffix within a label.
const GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;

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
    call.told.object(&body);
    // Upstream's storage passes over one that is no number (`etcd3.store.Create`).
    let version = body.text("metadata.resourceVersion").parse::<u64>();
    if version.is_ok_and(|version| version != 0) {
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
    let said = name_of(&value).to_owned();
    let completing = review(call, options.dry_run, &said, Action::Create);
    default(call, options, &mut value)?;
    tell_sent(call, &value);
    permit::write(call, Operation::Create, &said, &Value::Null, &value)?;
    permit::sign(call, &mut value);
    if !options.applied {
        notes.warnings.extend(named_once(&mut value, Moment::AsSent));
    }
    let owners = note_owners(call, options, &mut value).await;
    mutate(call, &completing, &mut value, notes).await?;
    place(call, &mut value)?;
    notes.warnings.extend(named_once(&mut value, Moment::AsAdmitted));
    // Who completes an object that has the beginning of a name only may still name it.
    if generates(&value) {
        make_up_name(&mut value);
        call.told.named(name_of(&value));
    } else if name_of(&value).is_empty() && call.target.kind.names_itself() {
        value["metadata"]["name"] = random_id().into();
        call.told.named(name_of(&value));
    }
    let name = name_of(&value).to_owned();
    let review = Review {
        name: &name,
        ..completing
    };
    stamp(&mut value);
    notes.warnings.extend(call.target.kind.warnings_of_sent(&value));
    call.target.kind.prepare_create(&mut value);
    create_prepared(call, &review, value, owners.as_deref(), notes).await
}

/// Writes down who owns the fields of the new object: in it, or as what is answered, for when it is stored.
async fn note_owners(call: &Call, options: Options, value: &mut Value) -> Option<String> {
    if options.applied {
        return None;
    }
    if is_unseen(call, options) {
        return manage::note_unseen(call, value).await;
    }
    manage::note(call, None, value).await;
    None
}

/// Tries until nobody is faster: what is allocated to the object is chosen anew then. `None` when the name is taken.
async fn create_prepared(
    call: &Call,
    review: &Review<'_>,
    mut value: Value,
    owners: Option<&str>,
    notes: &mut Notes,
) -> Result<Option<Written>> {
    let unallocated = call.api.admission.allocates(review).then(|| value.clone());
    let told = notes.warnings.len();
    for _ in 0..RETRIES {
        match attempt_create(call, review, &mut value, owners, notes).await? {
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

impl Creation {
    fn done(object: Left) -> Self {
        Creation::Done(Written {
            object,
            warnings: Vec::new(),
            created: true,
        })
    }
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
    let mut claims = allocate(call, review, value).await?;
    validate(call, review, value).await?;
    notes.warnings.extend(call.target.kind.warnings(value, None));
    call.target.kind.normalise(value);
    judge(call, review, value, &mut claims, notes).await?;
    match review.dry_run {
        true => rehearse(call, review.name, value, owners).await,
        false => store(call, review.name, value, owners, &claims).await,
    }
}

async fn validate(call: &Call, review: &Review<'_>, value: &Value) -> Result<()> {
    let kind = &call.target.kind;
    let mut errors = misplaced(call, review, value).await?;
    errors.extend(kind.validate_create(value));
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid(&kind.kind, &kind.group, review.name, &errors)),
    }
}

/// The end of a creation of which nothing is to be stored.
async fn rehearse(call: &Call, name: &str, value: &mut Value, owners: Option<&str>) -> Result<Creation> {
    if call.api.store.get(&call.target.key(name)).await?.is_some() {
        return Ok(Creation::NameTaken);
    }
    let applied = size::is_applied(value);
    let bytes = size::fitted(call, value, owners, 0, applied).await?;
    let object = reread(call, &bytes, value.take()).await?;
    Ok(Creation::done(Left::Value(object)))
}

/// Writes the new object, and with it what is claimed for it.
async fn store(
    call: &Call,
    name: &str,
    value: &mut Value,
    owners: Option<&str>,
    claims: &Claims,
) -> Result<Creation> {
    let key = call.target.key(name);
    let applied = size::is_applied(value);
    let bytes = size::fitted(call, value, owners, 0, applied).await?;
    let mut txn = Txn::create(key.clone(), bytes.clone());
    claims.join(&key, &mut txn);
    // Nobody will ask for the tree again: it goes while this processor has it at hand, not after the disk.
    if owners.is_some() && claims.is_empty() {
        value.take();
    }
    Ok(match call.api.store.txn(txn).await? {
        TxnOutcome::Committed { revision } => {
            let seen = match owners {
                Some(_) => None,
                None => Some(reread(call, &bytes, value.take()).await?),
            };
            Creation::done(Left::of(&call.target.kind, &bytes, seen, revision))
        }
        TxnOutcome::Conflict { key: lost, .. } if lost == key => Creation::NameTaken,
        TxnOutcome::Conflict { .. } => Creation::Lost,
    })
}

/// Whether the object is nobody's to see before it is stored, neither others' nor, in another form, ours.
fn is_unseen(call: &Call, options: Options) -> bool {
    !options.dry_run && call.target.kind.stored_as_served() && !call.api.admission.shows()
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

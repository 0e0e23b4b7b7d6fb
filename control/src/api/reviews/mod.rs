//! Kinds that are questions: who am I, may I, may he. Created to be answered in the same breath, and never stored.
mod access;
mod rules;
mod selected;
mod token;

use super::render::{self, Style};
use super::status::{ApiError, Result};
use super::write::{self, Options};
use super::{Call, decode, manage, negotiate, strictness};
use crate::admission::{Action, Claims, Notes};
use crate::kinds::time;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

/// The answer to a question; none when the request is about something else.
pub(super) async fn answer(call: &Call, verb: &str, style: Style) -> Result<Option<Response>> {
    let kind = &call.target.kind;
    let status: fn(&Call, &Value) -> Result<Value> = match (kind.group.as_str(), kind.plural.as_str()) {
        ("authentication.k8s.io", "selfsubjectreviews") => {
            |call, _| Ok(json!({ "userInfo": call.who.user_info() }))
        }
        ("authentication.k8s.io", "tokenreviews") => token::review,
        ("authorization.k8s.io", "subjectaccessreviews") => access::of_subject,
        ("authorization.k8s.io", "localsubjectaccessreviews") => access::of_subject_here,
        ("authorization.k8s.io", "selfsubjectaccessreviews") => access::of_self,
        ("authorization.k8s.io", "selfsubjectrulesreviews") => rules::of_self,
        _ => return Ok(None),
    };
    if verb != "create" {
        return Err(ApiError::method_not_allowed());
    }
    let style = Style {
        accepted: negotiate::accept_whole(&call.headers, true)?,
        ..style
    };
    let (mut question, warnings) = read(call).await?;
    let mut notes = Notes {
        warnings,
        ..Notes::default()
    };
    let answered = admitted(call, &mut question, &mut notes, status).await;
    let warnings = notes.warnings;
    question["status"] = answered.map_err(|error| error.after(warnings.clone()))?;
    match kind.plural.as_str() {
        // Upstream answers both with a new object, which repeats nothing of the question.
        "selfsubjectreviews" => question["metadata"] = json!({"creationTimestamp": time::now()}),
        "selfsubjectrulesreviews" => (question["metadata"], question["spec"]) = (json!({}), json!({})),
        _ => {}
    }
    kind.normalise(&mut question);
    let response = render::one(kind, style, StatusCode::CREATED, &question)?;
    Ok(Some(render::warn(response, warnings)))
}

/// The answer to what admission makes of the question, which judges that before anybody is told.
async fn admitted(
    call: &Call,
    question: &mut Value,
    notes: &mut Notes,
    status: fn(&Call, &Value) -> Result<Value>,
) -> Result<Value> {
    let dry_run = Options::of(&call.query, "CreateOptions")?.dry_run;
    let review = write::review(call, dry_run, "", Action::Create);
    write::mutate(call, &review, question, notes).await?;
    let answer = status(call, question)?;
    write::judge(call, &review, question, &mut Claims::default(), notes).await?;
    Ok(answer)
}

/// The body, as its kind.
async fn read(call: &Call) -> Result<(Value, Vec<String>)> {
    let kind = &call.target.kind;
    let options = Options::of(&call.query, "CreateOptions")?;
    let body = decode::object(&kind.kind, negotiate::body(&call.headers)?, &call.body)?;
    let mut value = body.value;
    decode::check_kind(kind, &value)?;
    let warnings = strictness::prune(call, options, &mut value, body.issues)
        .map_err(|misfit| misfit.refusal(kind, options))?;
    // A namespace means nothing to what has none.
    if !kind.namespaced
        && let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut)
    {
        meta.remove("namespace");
    }
    write::tell_sent(call, &value);
    write::place(call, &mut value)?;
    manage::note(call, None, &mut value).await;
    Ok((value, warnings))
}

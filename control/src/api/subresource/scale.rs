//! `scale`: the number of replicas, as `autoscaling/v1` Scale.
use super::super::negotiate::Shape;
use super::super::patch::{self, Prepared};
use super::super::posted::Form;
use super::super::query::FieldValidation;
use super::super::render::{self, Style};
use super::super::status::{ApiError, Result};
use super::super::strictness::{self, Misfit};
use super::super::write::{self, Options, name_of};
use super::super::{Call, convert, decode, manage, negotiate, precondition};
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, Kind, posted, scale};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What is put; versions of it that are served no more are known, to be told from other kinds.
const FORM: Form = Form {
    kind: &posted::SCALE,
    versions: &["autoscaling/v1"],
    hub: "autoscaling.Scale",
};
const OLD_VERSIONS: [&str; 3] = ["apps/v1beta1", "apps/v1beta2", "extensions/v1beta1"];

pub(super) async fn serve(call: &Call, name: &str, verb: &str, style: Style) -> Result<Response> {
    let kind = &call.target.kind;
    let (object, warnings) = match verb {
        "get" => {
            let object = call.api.read(&call.target, name).await?;
            let object = convert::value(&call.api, kind, &object).await?;
            // None is not zero: what scales by itself leaves that alone.
            if let Some(path) = scale::absent(&object, kind.scale_paths()) {
                let why = format!("the spec replicas field {path:?} does not exist");
                return Err(ApiError::internal(why));
            }
            (object, Vec::new())
        }
        "update" => by_put(call, name).await?,
        "patch" => by_patch(call, name).await?,
        _ => return Err(ApiError::method_not_allowed()),
    };
    let shown = shown(call, style, scale::get(&object, kind.scale_paths()))?;
    let response = render::respond(style.accepted.format, StatusCode::OK, &shown)?;
    Ok(render::warn(response, warnings))
}

/// The object with the replicas of the Scale that was sent, and what to warn of.
async fn by_put(call: &Call, name: &str) -> Result<(Value, Vec<String>)> {
    let options = Options::of(&call.query, "UpdateOptions")?;
    let body = decode::object("Scale", negotiate::body(&call.headers)?, &call.body)?;
    check_version(&body.value)?;
    let (mut wanted, mut warnings) = FORM.judged(call, options.validation, body)?;
    write::place(call, &mut wanted)?;
    let change = |current: &Value| Ok((rescale(&call.target.kind, name, current, &wanted)?, Vec::new()));
    match write::update(call, options, name, &change).await {
        Ok(written) => {
            warnings.extend(written.warnings);
            Ok((written.object.value()?, warnings))
        }
        Err(error) => Err(error.after(warnings)),
    }
}

fn check_version(scale: &Value) -> Result<()> {
    let version = scale.text("apiVersion");
    match scale.text("kind") == "Scale" && OLD_VERSIONS.contains(&version) {
        true => Err(decode::other_version(version, FORM.versions[0])),
        false => Ok(()),
    }
}

/// The object with the replicas of its Scale when that is patched, and what to warn of.
async fn by_patch(call: &Call, name: &str) -> Result<(Value, Vec<String>)> {
    let options = Options::of(&call.query, "PatchOptions")?;
    let (patch, issues) = patch::prepare(call)?;
    let change = |current: &Value| {
        let (wanted, issues) = patched(call, options, (&patch, &issues), current)?;
        check_uid(&call.target.kind, &wanted, current)?;
        Ok((rescale(&call.target.kind, name, current, &wanted)?, issues))
    };
    let written = write::update(call, options, name, &change).await?;
    Ok((written.object.value()?, written.warnings))
}

/// In the shape that was asked for.
fn shown(call: &Call, style: Style, scale: Value) -> Result<Value> {
    let shaped = match style.accepted.shape {
        Shape::Object => scale,
        Shape::Metadata => render::metadata_only(&scale),
        Shape::MetadataList => return Err(ApiError::is_no_list(&call.target.kind)),
        Shape::Table => {
            let metadata = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
            let cells = scale::cells(&scale, Timestamp::now());
            let rows = vec![render::row_of(cells, style.include, &scale)];
            render::table_of(scale::columns(), &metadata, rows)
        }
    };
    Ok(render::versioned(style.accepted, shaped))
}

/// The Scale that a patch makes of the object's, and what is odd about it.
fn patched(
    call: &Call,
    options: Options,
    (patch, odd): (&Prepared, &[FieldIssue]),
    current: &Value,
) -> Result<(Value, Vec<FieldIssue>)> {
    let kind = &call.target.kind;
    let given_up = match patch {
        Prepared::Apply(config) => manage::check_scale(call, current, config)?,
        _ => false,
    };
    let mut current = scale::patchable(current, kind.scale_paths());
    if given_up {
        scale::forget(&mut current);
    }
    let made = merged(kind, patch, &current)?;
    let decoded = decoded(made.clone(), odd, options.validation);
    let (mut wanted, issues) = decoded.map_err(|misfit| match patch {
        Prepared::Apply(_) => misfit.refusal_of_applied(&posted::SCALE),
        _ => misfit.blame(call, &made),
    })?;
    write::place(call, &mut wanted)?;
    Ok((wanted, issues))
}

/// What was made as the Scale that it is, and what is odd about it, of which some was known.
fn decoded(
    mut scale: Value,
    odd: &[FieldIssue],
    validation: FieldValidation,
) -> std::result::Result<(Value, Vec<FieldIssue>), Misfit> {
    let unknown = posted::SCALE.prune(&mut scale).map_err(Misfit::Undecodable)?;
    let issues = [odd, &unknown].concat();
    strictness::judged(validation, issues.clone()).map_err(Misfit::Strict)?;
    Ok((scale, issues))
}

/// A Scale has no lists, so that a strategic merge is a merge.
fn merged(kind: &Kind, patch: &Prepared, current: &Value) -> Result<Value> {
    let made = match patch {
        Prepared::Strategic(patch) => patch::apply(kind, &Prepared::Merge(patch.clone()), current),
        other => patch::apply(kind, other, current),
    }?;
    patch::check_kept(patch, &made, current)?;
    Ok(made)
}

/// A patch is for the object that it names.
fn check_uid(kind: &Kind, wanted: &Value, current: &Value) -> Result<()> {
    let (wanted, is) = (wanted.text("metadata.uid"), current.text("metadata.uid"));
    if wanted.is_empty() || wanted == is {
        return Ok(());
    }
    let why = precondition::failed(wanted, is);
    Err(ApiError::conflict_at(kind, "scale", name_of(current), &why))
}

/// The object with the replicas, and the resource version, of the Scale.
fn rescale(kind: &Kind, name: &str, current: &Value, wanted: &Value) -> Result<Value> {
    let paths = kind.scale_paths();
    write::check_name(name_of(wanted), name)?;
    if let Some(path) = scale::unsaid(wanted, paths) {
        let why = format!("the spec replicas field {path:?} cannot be empty");
        return Err(ApiError::bad_request(why));
    }
    // What is wrong with a custom resource's number is told of the custom resource.
    let errors = scale::validate(wanted);
    if paths.is_none() && !errors.is_empty() {
        return Err(ApiError::invalid("Scale", "autoscaling", name, &errors));
    }
    let mut object = current.clone();
    scale::set(&mut object, wanted, paths);
    let said = |key: &str| wanted["metadata"][key].as_str().unwrap_or_default();
    // A custom resource is written as it was read, so that it may be scaled without saying which version of it.
    if paths.is_none() || !said("resourceVersion").is_empty() {
        object["metadata"]["resourceVersion"] = said("resourceVersion").into();
    }
    if !said("uid").is_empty() {
        object["metadata"]["uid"] = said("uid").into();
    }
    Ok(object)
}

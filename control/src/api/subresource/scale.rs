//! `scale`: the number of replicas, as `autoscaling/v1` Scale.
use super::super::negotiate::Shape;
use super::super::patch::{self, Prepared};
use super::super::render::{self, Style};
use super::super::status::{ApiError, Result};
use super::super::write::{self, Options, name_of};
use super::super::{Call, convert, decode, manage, negotiate, precondition};
use crate::kinds::custom::ScalePaths;
use crate::kinds::view::View;
use crate::kinds::{FieldIssue, Kind, scale};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

pub(super) async fn serve(call: &Call, name: &str, verb: &str, style: Style) -> Result<Response> {
    let paths = call.target.kind.scale_paths();
    let object = match verb {
        "get" => {
            let object = call.api.read(&call.target, name).await?;
            convert::value(&call.api, &call.target.kind, &object).await?
        }
        "update" => {
            let body = decode::object("Scale", negotiate::body(&call.headers)?, &call.body)?.value;
            let change = |current: &Value| rescale(name, current, body.clone(), paths);
            write::update(call, Options::of(&call.query, "UpdateOptions")?, name, &change)
                .await?
                .object
                .value()?
        }
        "patch" => {
            let (prepared, _) = patch::prepare(call)?;
            let change = |current: &Value| {
                if let Prepared::Apply(config) = &prepared {
                    manage::check_scale(call, current, config)?;
                }
                let wanted = patched(&call.target.kind, &prepared, current)?;
                check_uid(&call.target.kind, &wanted, current)?;
                rescale(name, current, wanted, paths)
            };
            write::update(call, Options::of(&call.query, "PatchOptions")?, name, &change)
                .await?
                .object
                .value()?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let shown = shown(call, style, scale::get(&object, paths))?;
    render::respond(style.accepted.format, StatusCode::OK, &shown)
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

/// A Scale has no lists, so that a strategic merge is a merge.
fn patched(kind: &Kind, prepared: &Prepared, current: &Value) -> Result<Value> {
    let current = scale::get(current, kind.scale_paths());
    let made = match prepared {
        Prepared::Strategic(patch) => patch::apply(kind, &Prepared::Merge(patch.clone()), &current),
        other => patch::apply(kind, other, &current),
    }?;
    patch::check_kept(prepared, &made, &current)?;
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
fn rescale(
    name: &str,
    current: &Value,
    wanted: Value,
    paths: Option<&ScalePaths>,
) -> Result<(Value, Vec<FieldIssue>)> {
    write::check_name(name_of(&wanted), name)?;
    // What is wrong with a custom resource's number is told of the custom resource.
    let errors = scale::validate(&wanted);
    if paths.is_none() && !errors.is_empty() {
        return Err(ApiError::invalid("Scale", "autoscaling", name, &errors));
    }
    let mut object = current.clone();
    scale::set(&mut object, &wanted, paths);
    let said = |key: &str| wanted["metadata"][key].as_str().unwrap_or_default();
    // A custom resource is written as it was read, so that it may be scaled without saying which version of it.
    if paths.is_none() || !said("resourceVersion").is_empty() {
        object["metadata"]["resourceVersion"] = said("resourceVersion").into();
    }
    if !said("uid").is_empty() {
        object["metadata"]["uid"] = said("uid").into();
    }
    Ok((object, Vec::new()))
}

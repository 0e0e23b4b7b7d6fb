//! What a request is about, as its audit event says it: by what the path names, or by the path alone. Pure.
use super::asked::{Asked, selected_name};
use super::permit;
use super::query::Query;
use super::route::Target;
use crate::audit::ObjectRef;

/// Of what the path names.
pub(super) fn target(target: &Target, verb: &str, query: &Query) -> ObjectRef {
    let what = permit::attributes(target);
    let owned = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    ObjectRef {
        group: what.group.to_owned(),
        version: target.kind.version.clone(),
        resource: what.resource.to_owned(),
        subresource: owned(what.subresource),
        namespace: owned(what.namespace),
        name: owned(what.name).or_else(|| selected_name(verb, query)),
        ..ObjectRef::default()
    }
}

/// Of a path by its form, of whatever kind.
pub(super) fn asked(asked: Asked) -> ObjectRef {
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    ObjectRef {
        group: asked.group,
        version: asked.version,
        resource: asked.resource,
        subresource: said(asked.subresource),
        namespace: said(asked.namespace),
        name: said(asked.name),
        ..ObjectRef::default()
    }
}

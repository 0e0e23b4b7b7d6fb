//! The volumes of a Pod: each has a name of its own and exactly one source.
use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use serde_json::Value;

use super::pod::Holder;
use super::{complain, volume_sources};
use crate::kinds::error::{FieldError, FieldErrors};
use crate::kinds::names;
use crate::kinds::view::View;

/// The volumes nothing is wrong with, by name: containers can mount no others.
pub(super) type Good<'a> = HashMap<&'a str, &'a Value>;

const FROM_TEMPLATE: &str = "must not reference a PVC that gets created for an ephemeral volume";

pub(super) fn volumes<'a>(
    volumes: &'a [Value],
    holder: Holder<'_>,
    path: impl Display + Copy,
) -> (Good<'a>, FieldErrors) {
    let created = created_claims(volumes, holder.name);
    let (mut errors, mut good) = (Vec::new(), Good::new());
    for (i, volume) in volumes.iter().enumerate() {
        let at = format_args!("{path}[{i}]");
        let (name, name_at) = (volume.text("name"), format_args!("{at}.name"));
        let mut found = volume_sources::of_pod(volume, holder, at);
        match name {
            "" => found.push(FieldError::required(name_at, "")),
            name => found.extend(complain(name_at, name, names::label(name))),
        }
        if good.contains_key(name) {
            found.push(FieldError::duplicate(name_at, name));
        }
        if found.is_empty() {
            good.insert(name, volume);
        }
        errors.extend(found);
        let claim = volume.text("persistentVolumeClaim.claimName");
        if created.contains(claim) {
            let at = format_args!("{at}.persistentVolumeClaim.claimName");
            errors.push(FieldError::invalid(at, claim, FROM_TEMPLATE));
        }
    }
    (good, errors)
}

/// Claims that come into being with the Pod.
fn created_claims(volumes: &[Value], pod: &str) -> HashSet<String> {
    let ephemeral = volumes.iter().filter(|v| !pod.is_empty() && v.has("ephemeral"));
    ephemeral.map(|v| format!("{pod}-{}", v.text("name"))).collect()
}

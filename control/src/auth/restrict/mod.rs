//! What a user may not write although he may write the object: rights he does not hold, and for nodes other nodes'
//! business (NodeRestriction).
//!
//! Looks at the object before and after; refuses to know how it got here.
mod audiences;
mod certificates;
mod labels;
mod node;
mod roles;

use super::attributes::{Attributes, Resource};
use super::identity::MASTERS;
use super::{Authorizer, Identity, Reader};
use serde_json::Value;

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// A write on its way.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    pub who: &'a Identity,
    pub operation: Operation,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: Option<&'a str>,
    pub namespace: Option<&'a str>,
    /// Empty when it is to be generated.
    pub name: &'a str,
    /// The object that is there; null at a creation.
    pub old: &'a Value,
    /// What is to be there; null at a deletion.
    pub new: &'a Value,
}

/// Why not, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    Forbidden(String),
    /// A binding refers to a role that is not there: its plural and name.
    NoRole(&'static str, String),
    /// Another object that this is about is not there: its plural and name.
    NotFound(&'static str, String),
}

fn forbidden(why: impl Into<String>) -> Result<(), Refused> {
    Err(Refused::Forbidden(why.into()))
}

/// Judges. Reads memory only.
pub fn check(authorizer: &Authorizer, reader: &dyn Reader, write: &Write<'_>) -> Result<(), Refused> {
    if let Some(node) = write.who.node() {
        node::check(authorizer, reader, node, write)?;
    }
    if write.group == certificates::GROUP && write.resource == "certificatesigningrequests" {
        return certificates::check(authorizer, write);
    }
    if write.group != super::rbac::GROUP || write.who.is_in(MASTERS) || write.operation == Operation::Delete {
        return Ok(());
    }
    match write.resource {
        "roles" | "clusterroles" => roles::role(authorizer, write),
        "rolebindings" | "clusterrolebindings" => roles::binding(authorizer, write),
        _ => Ok(()),
    }
}

/// The request for a special right on the object written.
fn special<'a>(verb: &'a str, write: &Write<'a>) -> Attributes<'a> {
    let resource = Resource {
        group: write.group,
        resource: write.resource,
        namespace: write.namespace,
        name: Some(write.name).filter(|name| !name.is_empty() && write.operation != Operation::Create),
        ..Resource::default()
    };
    Attributes::resource(verb, resource)
}

//! Impersonation: a request that is made in another's name by one who may (`Impersonate-*` headers).
use super::permit;
use super::status::{ApiError, Result};
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::identity::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, account_groups, account_of};
use crate::auth::{Authorizer, Identity};
use http::HeaderMap;
use std::collections::BTreeMap;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Who the request counts as coming from.
pub fn acting(authorizer: &Authorizer, who: Identity, headers: &HeaderMap) -> Result<Identity> {
    let wanted = Wanted::read(headers);
    if wanted.is_nothing() {
        return Ok(who);
    }
    let Some(user) = wanted.user else {
        let why = "requested groups, uid or extra without impersonating a user";
        return Err(ApiError::bad_request(why));
    };
    let may = |resource: Resource<'_>| {
        permit::demand(authorizer, &who, &Attributes::resource("impersonate", resource))
    };
    let groups = match account_of(&user) {
        Some((namespace, name)) => {
            may(Resource {
                resource: "serviceaccounts",
                namespace: Some(namespace),
                name: Some(name),
                ..Resource::default()
            })?;
            account_groups(namespace)
        }
        None => {
            may(core("users", &user))?;
            Vec::new()
        }
    };
    for group in &wanted.groups {
        may(core("groups", group))?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            may(Resource {
                subresource: Some(key),
                ..authentication("userextras", value)
            })?;
        }
    }
    if let Some(uid) = &wanted.uid {
        may(authentication("uids", uid))?;
    }
    let groups = if wanted.groups.is_empty() {
        groups
    } else {
        wanted.groups
    };
    Ok(Identity {
        groups: complete(&user, groups).into(),
        user: user.into(),
        uid: wanted.uid.unwrap_or_default(),
        extra: wanted.extra.into(),
    })
}

fn core<'a>(resource: &'a str, name: &'a str) -> Resource<'a> {
    Resource {
        resource,
        name: Some(name),
        ..Resource::default()
    }
}

fn authentication<'a>(resource: &'a str, name: &'a str) -> Resource<'a> {
    Resource {
        group: "authentication.k8s.io",
        ..core(resource, name)
    }
}

/// Adds the group of the known, or of the unknown.
fn complete(user: &str, mut groups: Vec<String>) -> Vec<String> {
    let has = |group: &str| groups.iter().any(|g| g == group);
    let missing = match user {
        ANONYMOUS if !has(UNAUTHENTICATED) => Some(UNAUTHENTICATED),
        ANONYMOUS => None,
        _ if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) => Some(AUTHENTICATED),
        _ => None,
    };
    groups.extend(missing.map(str::to_owned));
    groups
}

/// What the headers ask for.
#[derive(Default)]
struct Wanted {
    user: Option<String>,
    groups: Vec<String>,
    uid: Option<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Self {
        let mut wanted = Wanted::default();
        for (name, value) in headers {
            let Some(kind) = name.as_str().strip_prefix("impersonate-") else {
                continue;
            };
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            match (name.as_str(), kind) {
                (USER, _) if !value.is_empty() => wanted.user = wanted.user.or(Some(value)),
                (GROUP, _) => wanted.groups.push(value),
                (UID, _) if !value.is_empty() => wanted.uid = wanted.uid.or(Some(value)),
                (other, _) => {
                    if let Some(key) = other.strip_prefix(EXTRA) {
                        wanted.extra.entry(unescape(key)).or_default().push(value);
                    }
                }
            }
        }
        wanted
    }

    fn is_nothing(&self) -> bool {
        self.user.is_none() && self.groups.is_empty() && self.uid.is_none() && self.extra.is_empty()
    }
}

/// Percent-decodes; what cannot be decoded stays as it is.
fn unescape(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &tail[2..];
            }
            (b'%', None) => return key.to_owned(),
            (byte, _) => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_completed_as_upstreams() {
        let complete = |user: &str, groups: &[&str]| {
            complete(user, groups.iter().map(ToString::to_string).collect()).join(",")
        };
        assert_eq!(complete("bob", &[]), "system:authenticated");
        assert_eq!(
            complete("bob", &["a", "system:authenticated"]),
            "a,system:authenticated"
        );
        assert_eq!(
            complete("bob", &["system:unauthenticated"]),
            "system:unauthenticated"
        );
        assert_eq!(complete(ANONYMOUS, &[]), "system:unauthenticated");
    }

    #[test]
    fn keys_are_unescaped() {
        assert_eq!(unescape("acme.com%2fproject"), "acme.com/project");
        assert_eq!(unescape("100%"), "100%");
    }
}

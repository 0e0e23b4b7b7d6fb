//! One question after the other, whether somebody may act as whom he names: for each name, group, uid and extra value a right of its
//! own. Owns which rights those are; refuses to know in which order ways are tried.
use super::super::permit;
use super::super::status::Result;
use super::mode::{Mode, node_of};
use super::wanted::Wanted;
use crate::auth::attributes::{Attributes, Resource};
use crate::auth::identity::{
    ANONYMOUS, AUTHENTICATED, MASTERS, NODES, UNAUTHENTICATED, account_groups, account_of,
};
use crate::auth::{Authorizer, Identity};
use crate::kinds::{domain_path, join};

const GROUP: &str = "authentication.k8s.io";
/// From so many on, one right to all of them is asked for first, as upstream.
const MANY: usize = 4;

/// Somebody who wants to do something as somebody else.
pub struct Attempt<'a> {
    pub authorizer: &'a Authorizer,
    pub who: &'a Identity,
    pub user: &'a str,
    pub wanted: &'a Wanted,
    pub doing: Attributes<'a>,
}

impl Attempt<'_> {
    /// By the right to do this as such users, and that to be this user for it.
    pub fn constrained(&self, mode: Mode) -> Result<Identity> {
        let on = mode.verb_on(self.doing.verb);
        let what = self.doing.what;
        permit::demand(self.authorizer, self.who, &Attributes { verb: &on, what })?;
        let verb = mode.verb();
        let groups = match (node_of(self.user), account_of(self.user)) {
            (Some(node), _) => {
                let all = mode == Mode::AssociatedNode;
                self.may(verb, of(GROUP, "nodes", if all { "*" } else { node }))?;
                vec![NODES.to_owned()]
            }
            (None, Some(account)) => self.account(verb, GROUP, account)?,
            (None, None) => self.other(verb, GROUP)?,
        };
        self.uid(verb)?;
        self.few_or_all_groups(verb)?;
        self.few_or_all_extra(verb)?;
        Ok(self.identity(groups))
    }

    /// By the right to be this user for whatever.
    pub fn unconstrained(&self) -> Result<Identity> {
        let verb = "impersonate";
        let groups = match account_of(self.user) {
            Some(account) => self.account(verb, "", account)?,
            None => self.other(verb, "")?,
        };
        self.uid(verb)?;
        self.groups(verb, "")?;
        self.extra(verb)?;
        Ok(self.identity(groups))
    }

    fn may(&self, verb: &str, resource: Resource<'_>) -> Result<()> {
        permit::demand(self.authorizer, self.who, &Attributes::resource(verb, resource))
    }

    fn account(&self, verb: &str, group: &str, (namespace, name): (&str, &str)) -> Result<Vec<String>> {
        let account = of(group, "serviceaccounts", name);
        let namespace_of = Some(namespace);
        self.may(
            verb,
            Resource {
                namespace: namespace_of,
                ..account
            },
        )?;
        Ok(account_groups(namespace))
    }

    fn other(&self, verb: &str, group: &str) -> Result<Vec<String>> {
        self.may(verb, of(group, "users", self.user))?;
        Ok(Vec::new())
    }

    fn uid(&self, verb: &str) -> Result<()> {
        let uid = self.wanted.uid.as_deref();
        uid.map_or(Ok(()), |uid| self.may(verb, of(GROUP, "uids", uid)))
    }

    fn groups(&self, verb: &str, group: &str) -> Result<()> {
        let mut names = self.wanted.groups.iter();
        names.try_for_each(|name| self.may(verb, of(group, "groups", name)))
    }

    fn few_or_all_groups(&self, verb: &str) -> Result<()> {
        let names = &self.wanted.groups;
        let refused = |name: &str, why: &str| {
            let what = Attributes::resource(verb, of(GROUP, "groups", name));
            Err(permit::forbidden(self.who, &what, why))
        };
        if names.iter().any(String::is_empty) {
            return refused("", "impersonating the empty string group is not allowed");
        }
        if names.iter().any(|name| name == MASTERS) {
            return refused(MASTERS, "impersonating the system:masters group is not allowed");
        }
        if names.len() >= MANY && self.may(verb, of(GROUP, "groups", "*")).is_ok() {
            return Ok(());
        }
        self.groups(verb, GROUP)
    }

    fn extra(&self, verb: &str) -> Result<()> {
        let mut all = self.wanted.extra.iter();
        all.try_for_each(|(key, values)| {
            values
                .iter()
                .try_for_each(|value| self.may(verb, extra(key, value)))
        })
    }

    fn few_or_all_extra(&self, verb: &str) -> Result<()> {
        let all = &self.wanted.extra;
        if let Some(why) = all.iter().find_map(|(key, values)| bad_extra(key, values)) {
            let what = Attributes::resource(verb, of(GROUP, "userextras", ""));
            return Err(permit::forbidden(self.who, &what, &why));
        }
        let count: usize = all.values().map(Vec::len).sum();
        if count >= MANY && self.may(verb, extra("*", "*")).is_ok() {
            return Ok(());
        }
        self.extra(verb)
    }

    /// Whom the request counts as, with the groups that the name implies where none are asked for.
    fn identity(&self, implied: Vec<String>) -> Identity {
        let asked = &self.wanted.groups;
        let groups = if asked.is_empty() { implied } else { asked.clone() };
        Identity {
            groups: complete(self.user, groups).into(),
            user: self.user.into(),
            uid: self.wanted.uid.clone().unwrap_or_default(),
            extra: self.wanted.extra.clone().into(),
        }
    }
}

fn of<'a>(group: &'a str, resource: &'a str, name: &'a str) -> Resource<'a> {
    Resource {
        group,
        resource,
        name: Some(name),
        ..Resource::default()
    }
}

fn extra<'a>(key: &'a str, value: &'a str) -> Resource<'a> {
    Resource {
        subresource: Some(key),
        ..of(GROUP, "userextras", value)
    }
}

/// What is wrong with an extra that is asked for, if anything.
fn bad_extra(key: &str, values: &[String]) -> Option<String> {
    if key.is_empty() {
        return Some("impersonating the empty string key in extra is not allowed".to_owned());
    }
    let errors = domain_path("extra.key", key);
    if !errors.is_empty() {
        let why = join(&errors);
        return Some(format!(
            "impersonating an invalid key in extra is not allowed: {why}"
        ));
    }
    if key.contains(char::is_uppercase) {
        return Some(format!(
            "impersonating a non-lowercase key in extra is not allowed: {key:?}"
        ));
    }
    let empty = values.iter().any(String::is_empty);
    empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
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
    fn extras_have_keys_and_values() {
        for (key, values, good) in [
            ("acme.com/project", &["a"][..], true),
            ("acme.com/project", &["a", ""], false),
            ("", &["a"], false),
            ("project", &["a"], false),
            ("acme.com/", &["a"], false),
            ("acme.com/Project", &["a"], false),
            ("acme.com/a/b%2fc;d=1", &["a"], true),
            ("acme.com/a b", &["a"], false),
            ("acme.com/ä", &["a"], false),
            ("acme.com/a?b", &["a"], false),
        ] {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            assert_eq!(bad_extra(key, &values).is_none(), good, "{key}: {values:?}");
        }
    }
}

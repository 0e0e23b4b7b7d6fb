//! What a shim without root says when it begins: what none of its containers will have. What of cgroups there is each
//! container is told for itself: the shim may yet be moved to where more is delegated.

use amphipod_shim_api::Standing;

use super::subordinate::Facts;
use crate::guard::GuardedProgram;

/// One line for everything that root's containers have and ours will not. Nothing for root.
pub fn outlook(standing: Standing) -> Vec<String> {
    let guarded = || GuardedProgram::runs_already().unwrap_or(false);
    match standing {
        Standing::Root => Vec::new(),
        Standing::NamespaceRoot => told(None, guarded()),
        // Who is in a user namespace cannot look at what was executed outside of it.
        Standing::User => told(Some(&Facts::of_this_user()), true),
    }
}

fn told(user: Option<&Facts>, guarded: bool) -> Vec<String> {
    let mut said = vec![
        "without root: containers have no device of their own, and no rules of devices; those that share their \
         processes are refused"
            .to_owned(),
    ];
    if user.is_some_and(|user| !user.may_map_many()) {
        said.push(
            "without subordinate ids and the helpers for them (Debian package uidmap) a container has one user and \
             one group"
                .to_owned(),
        );
    }
    if !guarded {
        said.push("the shim's program is not guarded: a container that may trace could reach it".to_owned());
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_and_nothing_else() {
        let user = Facts {
            users: vec![(100_000, 65_536)],
            groups: vec![(100_000, 65_536)],
            helpers: true,
            ..Facts::default()
        };
        assert_eq!(told(Some(&user), true).len(), 1);
        let said = told(Some(&Facts::default()), false).join("; ");
        for words in ["subordinate ids", "not guarded"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert!(outlook(Standing::Root).is_empty());
    }
}

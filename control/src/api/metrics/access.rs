//! Who was let in, and what was allowed, under upstream's names. Users are told apart as upstream does: few of them, and nobody
//! by a name that he chose.
use super::super::status::ApiError;
use crate::auth::{Identity, Verdict};
use crate::measures::Exposition;
use std::sync::atomic::{AtomicU64, Ordering};

/// Users with a count of their own; then those whose name is an address of mail, and everybody else.
const USERS: [&str; 7] = [
    "admin",
    "client",
    "kube_proxy",
    "kubelet",
    "system:serviceaccount:kube-system:default",
    "email_id",
    "other",
];
const MAIL: usize = 5;
const OTHER: usize = 6;

#[derive(Debug, Default)]
pub(in super::super) struct Access {
    known: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    users: [AtomicU64; USERS.len()],
    allowed: AtomicU64,
    /// Nobody allowed it.
    forbidden: AtomicU64,
    /// As above, and something was amiss in what would tell.
    amiss: AtomicU64,
}

impl Access {
    /// A request came from somebody, from nobody, or with credentials that are no good.
    pub fn came(&self, from: Result<Option<&Identity>, &ApiError>) {
        let count = match from {
            Ok(Some(who)) => {
                self.users[user(&who.user)].fetch_add(1, Ordering::Relaxed);
                &self.known
            }
            Ok(None) => &self.unknown,
            Err(_) => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn decided(&self, verdict: &Verdict) {
        let count = match verdict {
            Verdict::Allowed { .. } => &self.allowed,
            Verdict::Refused { error, .. } if error.is_empty() => &self.forbidden,
            Verdict::Refused { .. } => &self.amiss,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn write(&self, out: &mut Exposition) {
        let name = "authentication_attempts";
        out.begin(
            name,
            "counter",
            "Requests by what was found of who they come from.",
        );
        for (result, count) in [
            ("error", &self.refused),
            ("failure", &self.unknown),
            ("success", &self.known),
        ] {
            write(name, ("result", result), count, out);
        }
        let name = "authenticated_user_requests";
        out.begin(
            name,
            "counter",
            "Requests by user, as far as users are told apart.",
        );
        for (user, count) in USERS.iter().zip(&self.users) {
            write(name, ("username", user), count, out);
        }
        let name = "authorization_attempts_total";
        out.begin(name, "counter", "Requests by whether they were allowed.");
        for (result, count) in [
            ("allowed", &self.allowed),
            ("error", &self.amiss),
            ("no-opinion", &self.forbidden),
        ] {
            write(name, ("result", result), count, out);
        }
    }
}

fn write(name: &str, (label, value): (&'static str, &str), count: &AtomicU64, out: &mut Exposition) {
    match count.load(Ordering::Relaxed) {
        0 => {}
        count => out.sample(name, &[(label, value.to_owned())], count),
    }
}

/// Where a user is among [`USERS`].
fn user(name: &str) -> usize {
    let known = USERS[..MAIL].iter().position(|known| *known == name);
    known.unwrap_or(if name.contains('@') { MAIL } else { OTHER })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_makes_a_series_by_his_name() {
        for (name, told) in [
            ("admin", "admin"),
            (
                "system:serviceaccount:kube-system:default",
                "system:serviceaccount:kube-system:default",
            ),
            ("system:serviceaccount:default:default", "other"),
            ("email_id", "other"),
            ("al@example.com", "email_id"),
        ] {
            assert_eq!(USERS[user(name)], told, "{name}");
        }
    }
}

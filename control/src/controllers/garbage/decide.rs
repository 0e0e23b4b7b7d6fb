//! What becomes of an object, given the state of each of its owners. Pure.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PropagationPolicy;

use super::graph::{FOREGROUND, ORPHAN};

/// What is known of one owner.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// There, and staying.
    Solid,
    /// Does not exist, or not where the reference says.
    Absent,
    /// Being deleted in the foreground: waits for this object if it blocks.
    Waiting,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Keep,
    /// It has other owners: only these references go.
    Drop(Vec<String>),
    Delete(PropagationPolicy),
    /// As `Delete` in the foreground, but first stop blocking its owners: a circle would never end.
    Unblock,
}

/// Decides for an object that is not being deleted. `has_dependents` and `circular` (one of them is itself being deleted
/// in the foreground) are read from the graph.
pub fn decide(
    meta: &ObjectMeta,
    owners: &[(OwnerReference, Owner)],
    has_dependents: bool,
    circular: bool,
) -> Verdict {
    let is = |wanted: Owner| owners.iter().any(|(_, state)| *state == wanted);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if is(Owner::Solid) {
        let lost: Vec<String> = owners
            .iter()
            .filter(|(_, state)| *state != Owner::Solid)
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if lost.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Drop(lost)
        };
    }
    if is(Owner::Waiting) && has_dependents {
        return if circular {
            Verdict::Unblock
        } else {
            Verdict::Delete(PropagationPolicy::Foreground)
        };
    }
    Verdict::Delete(policy(meta))
}

/// The way its own finalizers ask for.
fn policy(meta: &ObjectMeta) -> PropagationPolicy {
    let has = |name: &str| {
        meta.finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == name)
    };
    if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PropagationPolicy::{Background, Foreground, Orphan};

    #[test]
    fn owners_decide() {
        use Owner::{Absent, Solid, Waiting};
        let cases: [(&[Owner], Option<&str>, bool, bool, Verdict); 11] = [
            (&[], None, false, false, Verdict::Keep),
            (&[Solid], None, false, false, Verdict::Keep),
            (&[Absent], None, false, false, Verdict::Delete(Background)),
            (&[Absent], Some(ORPHAN), false, false, Verdict::Delete(Orphan)),
            (
                &[Absent],
                Some(FOREGROUND),
                false,
                false,
                Verdict::Delete(Foreground),
            ),
            (
                &[Solid, Absent],
                None,
                false,
                false,
                Verdict::Drop(vec!["1".into()]),
            ),
            (
                &[Solid, Waiting],
                None,
                true,
                false,
                Verdict::Drop(vec!["1".into()]),
            ),
            (&[Waiting], None, true, false, Verdict::Delete(Foreground)),
            (&[Waiting], None, true, true, Verdict::Unblock),
            (&[Waiting], None, false, false, Verdict::Delete(Background)),
            (&[Absent, Absent], None, true, false, Verdict::Delete(Background)),
        ];
        for (states, finalizer, has_dependents, circular, expected) in cases {
            let meta = ObjectMeta {
                finalizers: finalizer.map(|name| vec![name.into()]),
                ..Default::default()
            };
            let owners: Vec<(OwnerReference, Owner)> = states
                .iter()
                .enumerate()
                .map(|(index, state)| {
                    (
                        OwnerReference {
                            uid: index.to_string(),
                            ..Default::default()
                        },
                        *state,
                    )
                })
                .collect();
            let got = decide(&meta, &owners, has_dependents, circular);
            assert_eq!(
                got, expected,
                "{states:?} {finalizer:?} {has_dependents} {circular}"
            );
        }
    }
}

//! Nobody grants what he does not hold.
use super::policy::Policy;
use super::rule::{Rule, compacted, missing, quoted_list};
use crate::auth::Identity;
use std::collections::BTreeSet;

/// Fails with upstream's words when `wanted` allows something that the user may not do in the namespace (or, without
/// one, in the cluster).
pub fn confirm_no_escalation(
    policy: &Policy,
    who: &Identity,
    namespace: Option<&str>,
    wanted: &[Rule],
) -> Result<(), String> {
    let (held, gone) = policy.rules_of(who, namespace);
    let parts = missing(&held, wanted);
    if parts.is_empty() {
        return Ok(());
    }
    let told: BTreeSet<String> = compacted(parts).iter().map(Rule::compact).collect();
    let told: Vec<String> = told.into_iter().collect();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        who.user,
        quoted_list(&who.groups),
        told.join("\n")
    );
    if !gone.is_empty() {
        let gone = super::policy::aggregate(gone.iter().map(ToString::to_string).collect());
        message.push_str(&format!("; resolution errors: [{gone}]"));
    }
    Err(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_held_cannot_be_given() {
        let wanted = Rule::read(&json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["secrets"]}));
        let bob = Identity::new("bob", []);
        let why = confirm_no_escalation(&Policy::default(), &bob, None, &[wanted]).unwrap_err();
        assert_eq!(
            why,
            "user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
             held:\n{APIGroups:[\"*\"], Resources:[\"secrets\"], Verbs:[\"*\"]}"
        );
        assert_eq!(confirm_no_escalation(&Policy::default(), &bob, None, &[]), Ok(()));
    }
}

//! Whether a user may do something: superusers, then nodes by what runs on them, then RBAC (upstream's order).
//!
//! Nobody is ever denied outright; what no authorizer allows is refused.
use super::attributes::Attributes;
use super::identity::{Identity, MASTERS};
use super::node::NodeAuthorizer;
use super::rbac::{Policy, Rbac};
use super::reader::Reader;
use std::sync::Arc;

/// What the authorizers say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed {
        reason: String,
    },
    /// Nobody allows it.
    Refused {
        reason: String,
        error: String,
    },
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Verdict::Allowed { .. })
    }
}

/// All authorizers, over one view of the cluster.
pub struct Authorizer {
    rbac: Rbac,
    node: NodeAuthorizer,
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorizer").finish_non_exhaustive()
    }
}

impl Authorizer {
    pub fn new(reader: Arc<dyn Reader>) -> Self {
        Authorizer {
            rbac: Rbac::new(reader.clone()),
            node: NodeAuthorizer::new(reader),
        }
    }

    /// The roles and bindings of now.
    pub fn policy(&self) -> Arc<Policy> {
        self.rbac.policy()
    }

    /// Decides. Reads memory only.
    pub fn authorize(&self, who: &Identity, what: &Attributes<'_>) -> Verdict {
        if who.is_in(MASTERS) {
            let reason = String::new();
            return Verdict::Allowed { reason };
        }
        let Err(of_node) = self.node.authorize(who, what) else {
            let reason = String::new();
            return Verdict::Allowed { reason };
        };
        match self.rbac.policy().authorize(who, what) {
            Verdict::Refused { reason, error } => {
                let reasons = [of_node, reason];
                let said: Vec<String> = reasons.into_iter().filter(|r| !r.is_empty()).collect();
                Verdict::Refused {
                    reason: said.join("\n"),
                    error,
                }
            }
            allowed => allowed,
        }
    }

    pub fn allows(&self, who: &Identity, what: &Attributes<'_>) -> bool {
        self.authorize(who, what).is_allowed()
    }
}

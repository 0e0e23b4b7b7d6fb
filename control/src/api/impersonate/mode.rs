//! The ways in which somebody may act as others for some requests only (KEP-5284), and whom each is for. Pure.
use super::attempt::Attempt;
use crate::auth::identity::account_of;
use crate::kinds::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A service account as the node its Pod is on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// As anybody who is neither node nor service account, groups and all.
    UserInfo,
}

impl Mode {
    /// In upstream's order.
    pub const CONSTRAINED: [Mode; 4] = [
        Mode::AssociatedNode,
        Mode::ArbitraryNode,
        Mode::ServiceAccount,
        Mode::UserInfo,
    ];

    /// Of the right to be somebody this way.
    pub fn verb(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "impersonate:associated-node",
            Mode::ArbitraryNode => "impersonate:arbitrary-node",
            Mode::ServiceAccount => "impersonate:serviceaccount",
            Mode::UserInfo => "impersonate:user-info",
        }
    }

    /// Of the right to do `doing` this way: `impersonate-on:MODE:get`.
    pub fn verb_on(self, doing: &str) -> String {
        self.verb().replacen(':', "-on:", 1) + ":" + doing
    }

    /// Whether it is for who asks and whom he wants to be. What nodes and service accounts are besides their names is not theirs
    /// to choose who acts as them.
    pub fn fits(self, attempt: &Attempt<'_>) -> bool {
        let (node, account) = (node_of(attempt.user), account_of(attempt.user));
        let name_only = attempt.wanted.is_name_only();
        match self {
            Mode::AssociatedNode => name_only && node.is_some() && node == attempt.who.own_node(),
            Mode::ArbitraryNode => name_only && node.is_some(),
            Mode::ServiceAccount => name_only && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
        }
    }
}

/// The node that a user name means.
pub fn node_of(user: &str) -> Option<&str> {
    let name = user.strip_prefix("system:node:")?;
    names::subdomain(name).is_empty().then_some(name)
}

//! nf_tables over netlink: just the messages this program sends, in one transaction, without the `nft` program;
//! and the flows connection tracking remembers.
//!
//! The wire format is the kernel's include/uapi/linux/netfilter/nf_tables.h. Knows tables, chains, sets
//! and rules; nothing of Services or Pods.

mod batch;
pub mod conntrack;
mod expr;
mod socket;
mod wire;

pub use batch::{Base, Batch, ChainKind, Element, Hook, SetKind, Value, add_table};
pub use expr::{Expression, Meta, Register, Verdict, join, matches};
pub use socket::{Existing, ForwardPolicy, NftError, apply, existing, forward_drops};

/// Removes a table and all in it; one that is not there is no error.
pub fn delete_table(table: &str) -> Result<(), NftError> {
    let mut batch = add_table(table);
    batch.delete_table();
    apply(batch)
}

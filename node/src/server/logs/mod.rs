//! Container logs: what is asked for, which attempt it means, and the bytes of the answer.

mod choose;
mod cri;
mod follow;
mod query;
mod tail;

pub use choose::{choose, has_container};
pub use follow::open;
pub use query::{LogQuery, QueryError};

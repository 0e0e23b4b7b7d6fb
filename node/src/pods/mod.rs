//! Pods on this node: one worker each, a pure plan, a thin executor. Owns what a Pod's life is; refuses
//! to know how a container is run (shims), how images are stored, how packets flow.

pub mod backoff;
pub mod conditions;
pub mod observed;
pub mod plan;
pub mod qos;
pub mod record;
pub mod status;
pub mod view;

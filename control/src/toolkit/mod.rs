//! What the scheduler and every controller share: a cache fed by a watch, a work queue, events, ownership and
//! selector arithmetic. It refuses to know any one controller, and talks to the API only through `kube`.
pub mod catalog;
pub mod claims;
pub mod conditions;
pub mod error;
pub mod events;
pub mod informer;
pub mod key;
pub mod lock;
pub mod meta;
pub mod names;
pub mod node_selector;
pub mod nodes;
pub mod owners;
pub mod patch;
pub mod pod;
pub mod pods;
pub mod quantity;
pub mod queue;
pub mod raw;
pub mod selectors;
pub mod taints;
pub mod worker;

pub use error::{StepError, Steps};
pub use events::{EventSink, Recorder};
pub use informer::{Change, Informer};
pub use key::ObjectKey;
pub use pod::Pod;
pub use queue::Queue;
pub use raw::{Kind, Objects};
pub use worker::{Outcome, work};

//! The Task API over this process's containers.

pub mod container;
pub mod create;
pub mod exec;
pub mod life;
pub mod phase;
mod room;
pub mod service;

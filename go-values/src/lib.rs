//! Values as Go reads them, where Rust's crates are stricter. Refuses to know whose they are.

pub mod duration;
pub mod object;

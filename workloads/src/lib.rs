//! What the demo programs share: an HTTP server's answers, written once for native processes and for Wasm components.
//!
//! `site` decides (request in, response out) and knows no transport. A native process puts it behind a TCP
//! listener (`tcp`), a component behind `wasi:http/incoming-handler` (`component`).

pub mod site;

#[cfg(not(target_os = "wasi"))]
pub mod tcp;

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod component;

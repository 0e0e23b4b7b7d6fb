//! The real shim binary, driven through the Task API over its socket, with containers of Debian's static busybox.
//!
//! Needs root; without it, or without `/bin/busybox`, every test says so and passes.

mod harness;
mod lifecycle;

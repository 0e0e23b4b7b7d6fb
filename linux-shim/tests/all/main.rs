//! The real shim binary, driven through the Task API over its socket, with containers of Debian's static busybox.
//!
//! Needs root; without it, or without `/bin/busybox`, every test says so and passes.

mod callers;
mod escape_races;
mod escapes;
mod exec;
#[cfg(test)]
mod harness;
mod identity;
mod leftovers;
mod lifecycle;
#[cfg(test)]
mod limits;
mod mounts;
mod oci;
mod oci_cgroups;
mod oci_handed;
mod oci_harness;
mod oci_more;
mod oci_process;
mod oci_words;
mod rootless;
mod rootless_podman;
mod rootless_shim;
mod sharing;
mod streams;
mod systemd;
mod user_systemd;

//! Runs native Linux containers under the containerd Task API: one process serves all containers of a Pod.
//!
//! The shim is one thread. Each container's first process is forked from it with `clone3`, straight into its
//! namespaces and cgroup, and sets itself up with ordinary code: a copy of a single-threaded process has a whole
//! heap. That is faster and smaller than executing a second stage of a large program, and safe as long as the one
//! thread is one, which `sys::clone` checks. What the container could reach of the shim's program through
//! `/proc/self/exe` is a read-only mount of it (see `guard`).
//!
//! Refuses to know Pods and Kubernetes.

mod cleanup;
mod confine;
mod container;
mod device_filter;
mod exec;
mod guard;
mod hooks;
mod id_map;
mod init;
mod keeper;
mod launch;
mod log;
mod mount_plan;
mod net_devices;
mod null;
mod oci;
mod out_of_memory;
mod overseer;
mod planned;
mod process;
mod process_spec;
mod processes;
mod reaper;
mod rootfs_plan;
mod rootless;
mod route;
mod runc_options;
mod same_build;
mod scope;
mod seccomp;
mod serve;
mod service;
mod spec;
mod streams;
mod sys;
mod sysctl;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use amphipod_shim_api::start::{Action, Invocation};

pub use same_build::is_same_build;
pub use sys::names::ask_built_in_services_only;

/// Says which sources this is built from; answered to `-v`. The same for two programs exactly if they are of one build.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("AMPHIPOD_SOURCES"));

/// Runs the shim as its arguments (without the program's name) say; what fails is said on standard error.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    if let Some((first, words)) = args.split_first()
        && first == "oci"
    {
        return oci(words.iter().cloned());
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the OCI command line as its arguments (without the program's name) say.
pub fn oci(args: impl Iterator<Item = OsString>) -> ExitCode {
    oci::main(args)
}

fn run(args: Vec<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    // containerd's way to ask a shim for its version.
    if args.first().is_some_and(|word| word == "-v") {
        return Ok(writeln!(std::io::stdout(), "{BUILD}")?);
    }
    let words = args.len();
    let call = Invocation::parse(args)?;
    match call.action {
        Action::Start => {
            let address = serve::start(&call, words)?;
            std::io::stdout().write_all(address.as_bytes())?;
        }
        Action::Serve => serve::serve(&call)?,
        Action::Delete => {
            let answer = cleanup::delete(&call)?;
            std::io::stdout().write_all(&answer)?;
        }
    }
    Ok(())
}

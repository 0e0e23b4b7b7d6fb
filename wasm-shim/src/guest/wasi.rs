//! The WASI world of one instance, made from what its container was granted.
//!
//! Owns the grants. Nothing is ambient: no host environment, no files but the preopens, no standard input, and
//! sockets only because the thread is inside the Pod's network namespace.

use super::output::Output;
use crate::bundle::Container;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx};

/// Random bytes one call may ask for; they are made outside of the container's budget.
const MAX_RANDOM: u64 = 16 << 20;

/// Builds the world of a new instance. Each instance has descriptors of its own.
///
/// # Errors
/// When a preopened directory cannot be opened (descriptors are used up, say).
pub fn world(container: &Container, stdout: &Output, stderr: &Output) -> wasmtime::Result<WasiP1Ctx> {
    let mut builder = WasiCtx::builder();
    builder
        .args(&container.args)
        .envs(&container.env)
        .stdout(stdout.clone())
        .stderr(stderr.clone());
    if let Some(cwd) = &container.cwd {
        builder.initial_cwd(cwd);
    }
    for preopen in &container.preopens {
        let permissions = if preopen.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        builder.preopened_dir(preopen.host_path(), &preopen.guest_path, permissions)?;
    }
    builder
        .inherit_network()
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .max_random_size(MAX_RANDOM);
    Ok(builder.build_p1())
}

//! The WASI world of one instance, made from what its container was granted.
//!
//! Owns the grants. Nothing is ambient: no host environment, no files but the preopens, no standard input unless it was
//! connected, and sockets only because the thread is inside the Pod's network namespace, as far as its rules allow.

use super::blobs::Containers;
use super::bucket::Buckets;
use super::debug::Profile;
use super::input::Input;
use super::narrowing::Narrowing;
use super::output::Output;
use crate::bundle::{Command, Grants};
use crate::names::Names;
use std::future::ready;
use std::sync::Arc;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtx};

/// Random bytes one call may ask for; they are made outside of the container's budget.
const MAX_RANDOM: u64 = 16 << 20;

/// The standard streams of a guest.
pub struct Stdio {
    pub stdin: Option<Input>,
    pub stdout: Output,
    pub stderr: Output,
}

/// What a store is made from.
pub struct World {
    pub wasi: WasiP1Ctx,
    pub command: Arc<Command>,
    pub buckets: Option<Arc<Buckets>>,
    pub containers: Option<Arc<Containers>>,
    pub names: Arc<Names>,
    pub narrowing: Arc<Narrowing>,
    pub log: Output,
    /// Where its guest is noted at each epoch.
    pub profile: Option<Arc<Profile>>,
}

/// Builds the world of a new instance, on a thread of its Pod. Each instance has descriptors of its own.
///
/// # Errors
/// When a preopened directory cannot be opened (descriptors are used up, say).
pub fn world(command: &Arc<Command>, grants: &Grants, stdio: Stdio) -> wasmtime::Result<World> {
    let log = stdio.stderr.clone();
    let mut builder = WasiCtx::builder();
    builder
        .args(&command.args)
        .envs(&command.env)
        .stdout(stdio.stdout)
        .stderr(stdio.stderr);
    if let Some(input) = stdio.stdin {
        builder.stdin(input.into_stream());
    }
    if let Some(cwd) = &command.cwd {
        builder.initial_cwd(cwd);
    }
    // In the root it is there already.
    for preopen in grants.preopens.iter().filter(|preopen| !preopen.is_in_root) {
        let permissions = if preopen.read_only {
            FsPerms::ReadOnly
        } else {
            FsPerms::ReadWrite
        };
        builder.preopened_dir(preopen.host_path(), &preopen.guest_path, permissions)?;
    }
    let narrowing = Arc::clone(&grants.narrowing);
    builder
        .socket_addr_check(move |address, how| Box::pin(ready(narrowing.permits(address, how))))
        .allow_tcp(true)
        .allow_udp(true)
        .allow_ip_name_lookup(true)
        .max_random_size(MAX_RANDOM);
    Ok(World {
        wasi: builder.build_p1(),
        command: Arc::clone(command),
        buckets: grants.buckets.clone(),
        containers: grants.containers.clone(),
        names: Arc::clone(&grants.names),
        narrowing: Arc::clone(&grants.narrowing),
        log,
        profile: None,
    })
}

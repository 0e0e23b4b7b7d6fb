//! The process that serves a group: found or started by `start`, ended by Shutdown or by having nothing to do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::events::Publisher;
use amphipod_shim_api::start::{Invocation, ServeError, Served, ensure_server, forget_server, take_listener};
use amphipod_shim_api::{Standing, TaskError, annotations, service};
use oci_spec::runtime::Spec;

use crate::guard::GuardedProgram;
use crate::log;
use crate::reaper::{self, Reaper};
use crate::rootless::outlook;
use crate::runc_options;
use crate::service::{Service, Shim};
use crate::spec::{self, SpecError};

/// How long a server asked to leave waits for a Create of somebody who has just been given its address.
const LINGER: Duration = Duration::from_secs(1);

/// Why the shim could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    #[error("cannot tell the bundle: {0}")]
    Directory(io::Error),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("cannot guard the shim's program (root and Linux 5.12 are needed): {0}")]
    Guard(io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot start the event loop: {0}")]
    Runtime(io::Error),
    #[error("cannot become the parent of orphans: {0}")]
    Subreaper(nix::Error),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// `start`: answers the address of the process that serves this bundle's group.
pub fn start(call: &Invocation, words: usize) -> Result<String, ShimError> {
    let spec = spec::load(&bundle(call)?)?;
    let group = group(&spec, &call.id);
    let guarded = guarded()?;
    let mut served = Served::this_program(words);
    if let Some(program) = &guarded {
        served.program = program.path();
    }
    if !call.address.is_empty() {
        // containerd writes them to the end, or there is nothing to read.
        served.cgroup = Some(runc_options::read(io::stdin())?.shim_cgroup).filter(|path| !path.is_empty());
    }
    Ok(ensure_server(call, &group, &served)?)
}

/// What the server is to run from: nothing else than it is for who cannot have it, of whom `outlook` says so.
fn guarded() -> Result<Option<GuardedProgram>, ShimError> {
    match (Standing::of_this_process(), GuardedProgram::this()) {
        (_, Ok(program)) => Ok(Some(program)),
        (Standing::Root, Err(error)) => Err(ShimError::Guard(error)),
        (Standing::NamespaceRoot | Standing::User, Err(_)) => Ok(None),
    }
}

/// The bundle is given by flag, or it is the working directory (containerd's way).
pub fn bundle(call: &Invocation) -> Result<PathBuf, ShimError> {
    if call.bundle.as_os_str().is_empty() {
        return std::env::current_dir().map_err(ShimError::Directory);
    }
    Ok(call.bundle.clone())
}

/// All containers of a Pod share a process; a container of no Pod has one to itself.
fn group(spec: &Spec, id: &str) -> String {
    let annotations = spec.annotations().as_ref();
    annotations
        .and_then(|a| a.get(annotations::SANDBOX_ID))
        .cloned()
        .unwrap_or_else(|| id.to_owned())
}

/// `serve`: the server itself, on one thread.
pub fn serve(call: &Invocation) -> Result<(), ShimError> {
    let listener = take_listener()?;
    let standing = Standing::of_this_process();
    log::begin(call.debug, standing);
    for text in outlook(standing) {
        tracing::info!("{text}");
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(ShimError::Subreaper)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ShimError::Runtime)?;
    let served = runtime.block_on(run(call, listener));
    forget_server(call, log::of_course);
    served
}

async fn run(call: &Invocation, listener: std::os::unix::net::UnixListener) -> Result<(), ShimError> {
    let reaper = Arc::new(Reaper::default());
    let children = reaper::children().map_err(ShimError::Runtime)?;
    let collector = Arc::clone(&reaper);
    tokio::spawn(async move { collector.run(children).await });
    let (publisher, delivery) = Publisher::of_this_process(&call.namespace);
    let shim = Arc::new(Shim::new(call.namespace.clone(), reaper, publisher));
    let leaving = Arc::clone(&shim);
    let shutdown = async move { leaving.containers.left(LINGER).await };
    let served = service::serve(listener, Arc::new(Service(shim)), shutdown).await;
    delivery.finish().await;
    Ok(served?)
}

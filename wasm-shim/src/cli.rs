//! The command line: containerd's shim actions, and `compile`.
//!
//! Owns parsing, exit codes, and the process around the service. Refuses to know containers.

use crate::bundle::{annotations_of, read_spec};
use crate::cgroup::NamespaceCgroup;
use crate::engine::commons::Commons;
use crate::engine::pace::{self, Pace};
use crate::engine::turns::Turns;
use crate::engine::{EngineError, Engines};
use crate::guest::Ending;
use crate::guest::workers::Spare;
use crate::program::compile::{CompileError, DEADLINE, Job, bound_this_process};
use crate::program::digest::{BadDigest, Digest};
use crate::program::load::{CompileCommand, Programs};
use crate::sandbox::{self, Nursery, Sandbox};
use crate::task::container::Container;
use crate::task::create::Host;
use crate::task::service::Service;
use amphipod_shim_api::annotations::{SANDBOX_ID, SANDBOX_NAMESPACE, WASM_ISOLATION, WASM_ISOLATION_POD};
use amphipod_shim_api::api::DeleteResponse;
use amphipod_shim_api::api::protobuf::Message as _;
use amphipod_shim_api::events::Publisher;
use amphipod_shim_api::start::{
    Action, ArgsError, Invocation, ServeError, Served, ensure_server, forget_server, take_listener,
};
use amphipod_shim_api::stdio::Turner;
use amphipod_shim_api::{Table, TaskError, service};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// It goes when it is asked to: the agent waits with that itself.
const LINGER: Duration = Duration::ZERO;

/// Threads that answer the Task API; guests run on threads of their Pods.
const SERVICE_THREADS: usize = 2;

/// Threads that read bundles and map code.
const SERVICE_BLOCKING_THREADS: usize = 4;

/// Descriptors of a process whose host lets it have them: as many as the kubelet gives itself (`maxOpenFiles`).
const MANY_FILES: u64 = 1_000_000;

/// Why the program ended badly.
#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("compile: expected --cache DIR --digest sha256:… FILE")]
    CompileArgs,
    #[error(transparent)]
    Digest(#[from] BadDigest),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("finding the bundle: {0}")]
    Bundle(io::Error),
    #[error(transparent)]
    Start(#[from] ServeError),
    #[error("writing the answer: {0}")]
    Answer(io::Error),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("preparing what this host offers: {0:#}")]
    World(wasmtime::Error),
    #[error("starting the service's threads: {0}")]
    Threads(io::Error),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Runs one invocation: the words after the program's name and `wasm-shim`.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Whoever started this program reads its reason from stderr; if nobody does, nothing is lost.
fn say(message: &str) {
    drop(writeln!(io::stderr(), "{message}"));
}

fn dispatch(args: &[OsString]) -> Result<(), MainError> {
    if args.first().is_some_and(|word| word == "compile") {
        return compile(&args[1..]);
    }
    let call = Invocation::parse(args.iter().cloned())?;
    match call.action {
        Action::Start => start(&call, args.len()),
        Action::Delete => delete(),
        Action::Serve => serve(&call, args.len()),
    }
}

fn compile(args: &[OsString]) -> Result<(), MainError> {
    let job = parse_job(args)?;
    job.fence_this_process()?;
    bound_this_process(|| {
        say(&format!("compiling took longer than {} s", DEADLINE.as_secs()));
        std::process::exit(1);
    })?;
    let path = job.run()?;
    writeln!(io::stdout(), "{}", path.display()).map_err(MainError::Answer)
}

fn parse_job(args: &[OsString]) -> Result<Job, MainError> {
    let (mut cache, mut digest, mut file) = (None, None, None);
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let slot = match word.to_str() {
            Some("--cache") => &mut cache,
            Some("--digest") => &mut digest,
            _ if file.is_none() => {
                file = Some(PathBuf::from(word));
                continue;
            }
            _ => return Err(MainError::CompileArgs),
        };
        *slot = words.next();
    }
    let (Some(cache), Some(digest), Some(file)) = (cache, digest, file) else {
        return Err(MainError::CompileArgs);
    };
    let digest: Digest = digest.to_string_lossy().parse()?;
    Ok(Job {
        cache: cache.into(),
        digest,
        file,
    })
}

/// Finds or starts the process of the bundle's Kubernetes namespace, or of its Pod; prints its address.
fn start(call: &Invocation, words: usize) -> Result<(), MainError> {
    let bundle = std::env::current_dir().map_err(MainError::Bundle)?;
    let group = group(&bundle, &call.id);
    let address = ensure_server(call, &group, &Served::this_program(words))?;
    write!(io::stdout(), "{address}").map_err(MainError::Answer)
}

/// Whose containers share a process; without annotations (containerd's `ctr`) every container has one of its own. linux-shim's
/// groups are Pods as well, and a namespace may have a Pod's name: no name of ours is one of theirs.
fn group(bundle: &Path, id: &str) -> String {
    let notes = read_spec(bundle)
        .map(|spec| annotations_of(&spec))
        .unwrap_or_default();
    let is_isolated = notes
        .get(WASM_ISOLATION)
        .is_some_and(|of| of == WASM_ISOLATION_POD);
    let namespace = notes.get(SANDBOX_NAMESPACE).filter(|_| !is_isolated);
    match (namespace, notes.get(SANDBOX_ID)) {
        (Some(namespace), _) => format!("wasm namespace {namespace}"),
        (None, Some(pod)) => format!("wasm pod {pod}"),
        (None, None) => format!("wasm container {id}"),
    }
}

/// A guest ends with its process and leaves nothing on the host, so there is nothing to clean up.
fn delete() -> Result<(), MainError> {
    let now = jiff::Timestamp::now();
    let response = DeleteResponse {
        exit_status: Ending::Signalled(libc::SIGKILL as u8).status(),
        exited_at: crate::task::service::wire_time(now),
        ..DeleteResponse::default()
    };
    let bytes = response
        .write_to_bytes()
        .map_err(|error| MainError::Answer(io::Error::other(error)))?;
    io::stdout().write_all(&bytes).map_err(MainError::Answer)
}

fn serve(call: &Invocation, words: usize) -> Result<(), MainError> {
    let listener = take_listener()?;
    allow_many_files();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    tell_of_fences();
    // Every thread is started behind it, guests' by the nursery. What a kernel cannot do is left out.
    if let Err(error) = Sandbox::for_service().enter() {
        tracing::warn!(%error, "the threads that serve lack a fence");
    }
    let nursery = Nursery::start().map_err(MainError::Threads)?;
    if let Err(error) = sandbox::stay_who_they_are() {
        tracing::warn!(%error, "the threads that serve may become other users");
    }
    let engines = Engines::start()?;
    let Served { program, words, .. } = Served::this_program(words);
    let programs = Programs::new(&engines, CompileCommand { program, words }).map_err(MainError::World)?;
    let host = Host {
        programs,
        ticker: engines.ticker.clone(),
        turns: Turns::of_this_machine(),
        nursery,
        spare: Spare::of_this_machine(),
        commons: Commons::default(),
        turner: Turner::start().map_err(MainError::Threads)?,
    };
    let cgroup = Arc::new(NamespaceCgroup::new(&call.namespace));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVICE_THREADS)
        .max_blocking_threads(SERVICE_BLOCKING_THREADS)
        .thread_name("service")
        .on_thread_start(|| pace::set(Pace::Answering))
        .enable_all()
        .build()
        .map_err(MainError::Threads)?;
    let served = runtime.block_on(answer(call, listener, host, cgroup.clone()));
    cgroup.leave();
    forget_server(call, |_| 0);
    Ok(served?)
}

/// Answers calls until there is nobody left to answer for, and has containerd hear the rest.
async fn answer(
    call: &Invocation,
    listener: UnixListener,
    host: Host,
    cgroup: Arc<NamespaceCgroup>,
) -> Result<(), TaskError> {
    let containers = Arc::<Table<Container>>::default();
    let (publisher, delivery) = Publisher::of_this_process(&call.namespace);
    let task = Arc::new(Service::new(
        call.address.as_ref(),
        host,
        cgroup,
        containers.clone(),
        publisher,
    ));
    let served = service::serve(listener, task, async move { containers.left(LINGER).await }).await;
    delivery.finish().await;
    served
}

/// Says what this kernel lacks.
fn tell_of_fences() {
    match sandbox::landlock_version() {
        0 => tracing::warn!(
            "this kernel has no Landlock: guests are kept from the host's files by wasmtime alone"
        ),
        version => tracing::debug!(version, "guests are kept from the host's files by Landlock too"),
    }
}

/// A container at rest holds its listener and its directories, one that is asked a few more. Where these cannot be had there
/// is room for fewer containers, and others get a further process.
fn allow_many_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| {
        let allow = |most| setrlimit(Resource::RLIMIT_NOFILE, most, most);
        allow(hard.max(MANY_FILES)).or_else(|_| allow(hard))
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn compile_jobs() {
        let digest = Digest::of(b"x");
        let job = parse_job(&words(&format!("--cache /c --digest {digest} /f.wasm"))).unwrap();
        assert_eq!(
            job,
            Job {
                cache: "/c".into(),
                digest: digest.clone(),
                file: "/f.wasm".into()
            }
        );
        for bad in [
            "--cache /c /f",
            "/f",
            "--cache",
            &format!("--cache /c --digest {digest} /f /g"),
        ] {
            assert!(
                matches!(parse_job(&words(bad)), Err(MainError::CompileArgs)),
                "{bad}"
            );
        }
        assert!(matches!(
            parse_job(&words("--cache /c --digest x /f")),
            Err(MainError::Digest(_))
        ));
    }

    #[test]
    fn groups_are_namespaces_pods_or_containers() {
        let bundle = tempfile::tempdir().unwrap();
        for (notes, expected) in [
            (serde_json::json!({}), "wasm container c1"),
            (serde_json::json!({SANDBOX_ID: "u"}), "wasm pod u"),
            (
                serde_json::json!({SANDBOX_ID: "u", SANDBOX_NAMESPACE: "n"}),
                "wasm namespace n",
            ),
            (
                serde_json::json!({SANDBOX_ID: "u", SANDBOX_NAMESPACE: "n", WASM_ISOLATION: WASM_ISOLATION_POD}),
                "wasm pod u",
            ),
        ] {
            let config = serde_json::json!({"ociVersion": "1.2.0", "annotations": notes});
            std::fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
            assert_eq!(group(bundle.path(), "c1"), expected);
        }
        assert_eq!(group(Path::new("/nonexistent"), "c1"), "wasm container c1");
    }
}

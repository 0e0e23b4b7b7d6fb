//! From a CreateTaskRequest to a container that can start: bundle, program, Pod, outputs.
//!
//! Everything that can be wrong with a container is found here, before it is called created.

use super::container::{Container, ExecRefused, Made, StdioAddresses};
use super::exec::{self, Exec, Home, Named, PROCESSES, TOOLBOX, named};
use crate::bundle::{
    self, BundleError, Command, Container as Granted, ProgramRef, open_by_guest_path, read_spec,
};
use crate::engine::commons::{Common, Commons};
use crate::engine::meter::Meter;
use crate::engine::ticker::{TICK, Ticker};
use crate::engine::turns::Turns;
use crate::guest::debug::Profile;
use crate::guest::input::Input;
use crate::guest::output::Output;
use crate::guest::pod::{Fences, Plan, Pod, PodError};
use crate::guest::terminal::Terminal;
use crate::guest::wasi::Stdio;
use crate::guest::workers::{Spare, workers};
use crate::program::compile::{CompileError, read_bounded};
use crate::program::digest::Digest;
use crate::program::load::{LoadError, Program, Programs, Source, Use, default_cache};
use crate::sandbox::{Access, Nursery, Sandbox, SandboxError};
use crate::tree::{Tree, TreeError, assemble};
use amphipod_shim_api::api::{CreateTaskRequest, ExecProcessRequest};
use amphipod_shim_api::events::Story;
use amphipod_shim_api::stdio::{LogStream, Sinks, StdioError, Turner, open_input, readers};
use amphipod_shim_api::watchers::Watchers;
use amphipod_shim_api::{TaskError, annotations};
use oci_spec::runtime::{Process, Spec};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why a container cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Root(#[from] TreeError),
    #[error(transparent)]
    Read(#[from] CompileError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error("reading the process of Exec: {0}")]
    Process(serde_json::Error),
    #[error("Exec names no command")]
    NoCommand,
    #[error("{path} answers HTTP requests; it is no command")]
    NotACommand { path: String },
    #[error("opening a terminal: {0}")]
    Terminal(io::Error),
    #[error("writing {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Refused(#[from] ExecRefused),
    #[error("preparing the container's profile: {0:#}")]
    Profile(wasmtime::Error),
    #[error("a task of this host was ended")]
    Cancelled,
}

impl From<CreateError> for TaskError {
    fn from(error: CreateError) -> Self {
        let message = error.to_string();
        match error {
            CreateError::Bundle(_)
            | CreateError::Read(_)
            | CreateError::Load(_)
            | CreateError::Stdio(_)
            | CreateError::Process(_)
            | CreateError::NoCommand
            | CreateError::NotACommand { .. } => Self::InvalidArgument(message),
            CreateError::Refused(ExecRefused::Exists(_)) => Self::AlreadyExists(message),
            CreateError::Refused(_) => Self::FailedPrecondition(message),
            CreateError::Root(_)
            | CreateError::Pod(_)
            | CreateError::Terminal(_)
            | CreateError::Write { .. }
            | CreateError::Profile(_)
            | CreateError::Cancelled => Self::Internal(message),
        }
    }
}

/// What containers share.
pub struct Host {
    pub programs: Programs,
    pub ticker: Ticker,
    pub turns: Arc<Turns>,
    pub nursery: Nursery,
    pub spare: Spare,
    pub commons: Commons,
    /// Who turns logs over: guests' threads may not.
    pub turner: Turner,
}

impl Host {
    /// Creates a container, of which containerd hears by its story.
    ///
    /// # Errors
    /// When anything it needs is missing or refused; the message is for its status.
    pub async fn create(
        &self,
        request: &CreateTaskRequest,
        story: Story,
    ) -> Result<Arc<Container>, CreateError> {
        let bundle = PathBuf::from(&request.bundle);
        let mut granted = blocking({
            let (bundle, rootfs) = (bundle.clone(), request.rootfs.clone());
            move || understand(&bundle, rootfs)
        })
        .await?;
        let program = self.program(&mut granted, &bundle).await?;
        let entry = program.linked.check_entry(granted.invoke.as_ref());
        let is_invoked = entry.map_err(LoadError::Link)?;
        granted.invoke.take_if(|_| !is_invoked);
        let serves = program.linked.http(granted.serving.port.is_some()).is_some();
        if let Some(mount) = granted.message.take_if(|_| serves) {
            // Every instance would open it, and an idle server hold it.
            granted.grants.without(&mount);
        }
        let addresses = StdioAddresses {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let granted = Arc::new(granted);
        let plan = Plan {
            fences: fences(&granted),
            workers: if serves { workers(granted.limits.quota) } else { 1 },
            shares: granted.limits.shares,
        };
        let pod = self.pod(granted.netns.clone(), plan).await?;
        let profile = profile(&granted, &program)?;
        let close_stdin = CancellationToken::new();
        let watchers = granted.attach.as_deref().map(Watchers::absent);
        let (stdio, terminal) = open_stdio(
            &self.turner,
            &addresses,
            request.terminal,
            &close_stdin,
            watchers.as_ref(),
        )
        .await?;
        let common = self.common(&granted);
        Ok(Container::new(Made {
            id: request.id.clone(),
            bundle,
            story,
            stdio,
            terminal,
            watchers,
            addresses,
            close_stdin,
            meter: Meter::new(
                self.ticker.clone(),
                Arc::clone(&self.turns),
                granted.limits.quota,
                granted.limits.shares,
                Arc::clone(&common.time),
            ),
            common,
            granted,
            program,
            pod,
            profile,
        }))
    }

    /// What the container shares with others of its Pod, bounded as it says: it is the latest to know.
    fn common(&self, granted: &Granted) -> Arc<Common> {
        let common = self.commons.of(granted.pod.as_deref());
        let bound = granted.bounds.map_or(Ok(()), |bounds| common.bound(bounds));
        if let Err(used) = bound {
            // The others have yet to give something back, and are told so by their own Update.
            tracing::info!(pod = granted.pod, used, "the Pod keeps its limit of memory");
        }
        common
    }

    /// Makes a command in a container.
    ///
    /// # Errors
    /// When what it names is not there or cannot run here; the message is for whoever asked.
    pub async fn exec(&self, container: &Container, request: &ExecProcessRequest) -> Result<(), CreateError> {
        let process: Process = serde_json::from_slice(&request.spec.value).map_err(CreateError::Process)?;
        let mut command = Command::from_process(&process)?;
        let home = container.home();
        let program = self.commands_program(container, &home, &mut command).await?;
        let addresses = StdioAddresses {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        };
        let close_stdin = CancellationToken::new();
        let (stdio, terminal) =
            open_stdio(&self.turner, &addresses, request.terminal, &close_stdin, None).await?;
        let exec = Exec::new(exec::Made {
            home,
            story: container.story.beside(&request.exec_id),
            stdio,
            terminal,
            addresses,
            command: Arc::new(command),
            program,
            close_stdin,
        });
        Ok(container.add_exec(&request.exec_id, exec)?)
    }

    /// The program that a command line names. One of the toolbox is told its own words, and `ps` what it asks for.
    async fn commands_program(
        &self,
        container: &Container,
        home: &Home,
        command: &mut Command,
    ) -> Result<Arc<Program>, CreateError> {
        let cache = cache(&home.granted.program, &container.bundle);
        let path = match named(command).ok_or(CreateError::NoCommand)? {
            Named::Toolbox(args) => {
                if args.get(1).is_some_and(|word| word == "ps") {
                    command.env.push((PROCESSES.to_owned(), container.listed()));
                }
                command.args = args;
                return self.toolbox(container, cache).await;
            }
            Named::File(path) => path,
        };
        let file = open_as_guest(home, path.clone()).await?;
        let source = copy_out(file, container.bundle.join("exec.wasm"), cache).await?;
        let program = self.programs.load(&source, Use::Ordinary).await?;
        if !program.linked.is_command() {
            return Err(CreateError::NotACommand { path });
        }
        program.linked.check_entry(None).map_err(LoadError::Link)?;
        Ok(program)
    }

    async fn pod(&self, netns: Option<PathBuf>, plan: Plan) -> Result<Arc<Pod>, CreateError> {
        let (nursery, spare) = (self.nursery.clone(), self.spare.clone());
        Ok(Pod::new(netns.as_deref(), plan, nursery, spare).await?)
    }

    async fn toolbox(&self, container: &Container, cache: PathBuf) -> Result<Arc<Program>, CreateError> {
        let source = Source {
            file: container.bundle.join("toolbox.wasm"),
            digest: Digest::of(TOOLBOX),
            cache,
        };
        if let Some(program) = self.programs.in_memory(&source.digest, Use::Ordinary) {
            return Ok(program);
        }
        write(source.file.clone(), TOOLBOX.to_vec()).await?;
        Ok(self.programs.load(&source, Use::Ordinary).await?)
    }

    async fn program(&self, granted: &mut Granted, bundle: &Path) -> Result<Arc<Program>, CreateError> {
        let cache = cache(&granted.program, bundle);
        let source = match &mut granted.program {
            ProgramRef::Stored { file, digest, .. } => Source {
                file: file.clone(),
                digest: digest.clone(),
                cache,
            },
            ProgramRef::InImage { file, .. } => {
                let file = file.take().ok_or(BundleError::NoProgram)?;
                copy_out(file, bundle.join("module.wasm"), cache).await?
            }
        };
        let how = if granted.debugging.wanted() {
            Use::Debugging
        } else {
            Use::Ordinary
        };
        Ok(self.programs.load(&source, how).await?)
    }
}

/// The profile that a container asks for.
fn profile(granted: &Granted, program: &Program) -> Result<Option<Arc<Profile>>, CreateError> {
    let Some(files) = granted.debugging.profiles.clone() else {
        return Ok(None);
    };
    let name = granted.command.args.first().map_or("guest", String::as_str);
    let profiler = program.linked.profiler(program.engine(), name, TICK);
    let profiler = profiler.map_err(CreateError::Profile)?;
    Ok(Some(Arc::new(Profile::new(profiler, files))))
}

/// Where compiled code of a container is kept.
fn cache(program: &ProgramRef, bundle: &Path) -> PathBuf {
    match program {
        ProgramRef::Stored { cache, .. } | ProgramRef::InImage { cache, .. } => {
            cache.clone().unwrap_or_else(|| default_cache(bundle))
        }
    }
}

/// Opens a file that the container can see, as its user.
async fn open_as_guest(home: &Home, program: String) -> Result<OwnedFd, CreateError> {
    let granted = Arc::clone(&home.granted);
    let open = move || {
        let opened = open_by_guest_path(&granted.grants.preopens, Path::new(&program));
        opened.map_err(|error| BundleError::Program { program, error })
    };
    let threads = home.pod.threads().await?;
    let opened = threads.spawn_blocking(open).await;
    Ok(opened.map_err(|_| CreateError::Cancelled)??)
}

/// A file the container can see is copied out, so that what is compiled is what was digested.
async fn copy_out(file: OwnedFd, copy: PathBuf, cache: PathBuf) -> Result<Source, CreateError> {
    let bytes = blocking(move || {
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(read_bounded(&path)?)
    })
    .await?;
    let digest = Digest::of(&bytes);
    write(copy.clone(), bytes).await?;
    Ok(Source {
        file: copy,
        digest,
        cache,
    })
}

async fn write(path: PathBuf, bytes: Vec<u8>) -> Result<(), CreateError> {
    blocking(move || std::fs::write(&path, bytes).map_err(|source| CreateError::Write { path, source })).await
}

/// The container's threads are its user and reach its directories.
fn fences(granted: &Arc<Granted>) -> Fences {
    let granted = Arc::clone(granted);
    Arc::new(move || sandbox(&granted))
}

fn sandbox(granted: &Granted) -> Result<Sandbox, SandboxError> {
    let preopens = granted.grants.preopens.iter();
    let files: Vec<_> = preopens
        .map(|preopen| {
            let access = if preopen.read_only {
                Access::Read
            } else {
                Access::Write
            };
            (preopen.directory.as_fd(), access)
        })
        .collect();
    Sandbox::for_guests(granted.identity.clone(), &files)
}

async fn open_stdio(
    turner: &Turner,
    addresses: &StdioAddresses,
    terminal: bool,
    close_stdin: &CancellationToken,
    watchers: Option<&Watchers>,
) -> Result<(Stdio, Option<Terminal>), CreateError> {
    let _readers = readers([&addresses.stdout, &addresses.stderr]).await?;
    let sinks = Sinks::open_turned_by(Some(turner), &addresses.stdout, &addresses.stderr)?;
    let input = open_input(&addresses.stdin)?;
    if terminal {
        let opened = Terminal::open(input, sinks.stdout, watchers.cloned());
        let (terminal, stdio) = opened.map_err(CreateError::Terminal)?;
        return Ok((stdio, Some(terminal)));
    }
    let told = |stream| watchers.cloned().map(|watchers| (stream, watchers));
    let stdio = Stdio {
        stdin: input.map(|pipe| Input::new(pipe, close_stdin.clone())),
        stdout: Output::new(sinks.stdout, told(LogStream::Stdout)),
        stderr: Output::new(sinks.stderr, told(LogStream::Stderr)),
    };
    Ok((stdio, None))
}

fn understand(bundle: &Path, rootfs: Vec<amphipod_shim_api::api::Mount>) -> Result<Granted, CreateError> {
    let spec = read_spec(bundle)?;
    let root = root(&spec, bundle, rootfs)?;
    Ok(bundle::Container::from_spec(&spec, root)?)
}

/// The image's filesystem, with the bundle's bind mounts in it: mounted now, or a directory that is there already; a
/// stored artifact has none.
fn root(
    spec: &Spec,
    bundle: &Path,
    mounts: Vec<amphipod_shim_api::api::Mount>,
) -> Result<Option<OwnedFd>, CreateError> {
    let Some(root) = spec.root().as_ref() else {
        return Ok(None);
    };
    let path = bundle.join(root.path());
    let is_artifact = bundle::annotations_of(spec).contains_key(annotations::WASM_MODULE);
    if mounts.is_empty() && (is_artifact || !path.is_dir()) {
        return Ok(None);
    }
    let tree = Tree {
        root: path,
        mounts,
        binds: bundle::binds(spec.mounts().as_deref().unwrap_or_default()),
        read_only: root.readonly() == Some(true),
        follows: false,
    };
    Ok(Some(assemble(tree)?))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CreateError> + Send + 'static,
) -> Result<T, CreateError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CreateError::Cancelled))
}

//! Ahead-of-time compilation, in a process of its own that is bounded in time and memory.
//!
//! Owns the `compile` action and how a shim calls it. Refuses to know images. A module comes from anybody, and
//! compiling it is the most work this host does on behalf of a stranger: the process that does it has an end.

use super::binary::{Kind, SniffError, sniff};
use super::cache::{Cache, WriteError};
use super::census::{MAX_FUNCTIONS, functions, later_wasi};
use super::digest::Digest;
use super::world::{LinkError, World};
use crate::engine::{EngineError, compatibility, compiler};
use crate::sandbox::{Access, Sandbox, SandboxError};
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use wasmtime::Module;
use wasmtime::component::Component;

/// Largest binary: Python and JavaScript engines with their application are 20 to 40 MiB.
pub const MAX_BINARY: u64 = 128 << 20;

/// Longest compilation, on the clock and on the CPU of one core. A 40 MiB component takes about ten seconds on two.
pub const DEADLINE: Duration = Duration::from_secs(110);

/// Most private memory of the compiling process: some forty times the largest ordinary binary.
const MEMORY: u64 = 3 << 30;

/// Why a binary was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("reading {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {MAX_BINARY} bytes, the most this host compiles")]
    TooLarge { path: PathBuf },
    #[error("{path} has the digest {found}, not {expected}")]
    Digest {
        path: PathBuf,
        found: Digest,
        expected: Digest,
    },
    #[error(transparent)]
    Sniff(#[from] SniffError),
    #[error("it has {0} functions; this host compiles at most {MAX_FUNCTIONS}")]
    TooManyFunctions(u64),
    #[error("the component is for {0:?}; this host offers WASI 0.2: build it for that")]
    LaterWasi(String),
    #[error("invalid WebAssembly: {0:#}")]
    Invalid(wasmtime::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("preparing what this host offers: {0:#}")]
    World(wasmtime::Error),
    #[error("fencing the compiling process in: {0}")]
    Sandbox(#[from] SandboxError),
    #[error("opening {path}: {error}")]
    Open { path: PathBuf, error: nix::Error },
    #[error("limiting the compiling process: {0}")]
    Limit(nix::Error),
}

/// What to compile, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub cache: PathBuf,
    pub digest: Digest,
    pub file: PathBuf,
}

impl Job {
    /// Leaves this process what compiling takes: the binary, the cache, memory and time. Before any thread is made.
    ///
    /// # Errors
    /// When one of the two is not there, or the kernel refuses.
    pub fn fence_this_process(&self) -> Result<(), CompileError> {
        Cache::new(&self.cache, &compatibility(&compiler()?)).make_directory()?;
        let (cache, file) = (open_path(&self.cache)?, open_path(&self.file)?);
        let files = [(cache.as_fd(), Access::Write), (file.as_fd(), Access::ReadFile)];
        Ok(Sandbox::for_compiler(&files)?.enter()?)
    }

    /// Compiles in this process. Answers the path of the artifact, which may have been there already.
    ///
    /// # Errors
    /// When the file is not what it claims, cannot run here, or the cache cannot be written.
    pub fn run(&self) -> Result<PathBuf, CompileError> {
        let engine = compiler()?;
        let cache = Cache::new(&self.cache, &compatibility(&engine));
        if cache.open(&self.digest).is_ok() {
            return Ok(cache.path(&self.digest));
        }
        let bytes = self.read()?;
        let world = World::new(&engine).map_err(CompileError::World)?;
        let code = compile(&world, &bytes)?;
        Ok(cache.write(&self.digest, &code)?)
    }

    fn read(&self) -> Result<Vec<u8>, CompileError> {
        let bytes = read_bounded(&self.file)?;
        let found = Digest::of(&bytes);
        if found == self.digest {
            Ok(bytes)
        } else {
            Err(CompileError::Digest {
                path: self.file.clone(),
                found,
                expected: self.digest.clone(),
            })
        }
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, CompileError> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| CompileError::Open {
        path: path.to_owned(),
        error,
    })
}

/// Reads a binary of at most [`MAX_BINARY`] bytes.
///
/// # Errors
/// When it is larger or cannot be read.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, CompileError> {
    let failed = |source| CompileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_BINARY + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BINARY {
        return Err(CompileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

/// Validates, compiles and links (without running anything); answers machine code.
fn compile(world: &World, bytes: &[u8]) -> Result<Vec<u8>, CompileError> {
    let kind = sniff(bytes)?;
    let functions = functions(bytes);
    if functions > MAX_FUNCTIONS {
        return Err(CompileError::TooManyFunctions(functions));
    }
    match kind {
        Kind::Module => {
            let module = Module::new(world.engine(), bytes).map_err(CompileError::Invalid)?;
            world.link_module(&module)?;
            module.serialize().map_err(CompileError::Invalid)
        }
        Kind::Component => {
            if let Some(interface) = later_wasi(bytes) {
                return Err(CompileError::LaterWasi(interface));
            }
            let component = Component::new(world.engine(), bytes).map_err(CompileError::Invalid)?;
            world.link_component(&component)?;
            component.serialize().map_err(CompileError::Invalid)
        }
    }
}

/// Gives this process an end: memory and CPU limits by the kernel, and a thread that watches the clock.
///
/// # Errors
/// When a limit cannot be set.
pub fn bound_this_process(on_deadline: impl FnOnce() + Send + 'static) -> Result<(), CompileError> {
    limit(Resource::RLIMIT_DATA, MEMORY)?;
    limit(Resource::RLIMIT_CORE, 0)?;
    limit(Resource::RLIMIT_CPU, cpu_seconds())?;
    std::thread::spawn(move || {
        let start = std::time::Instant::now();
        while let Some(left) = DEADLINE.checked_sub(start.elapsed()) {
            std::thread::park_timeout(left);
        }
        on_deadline();
    });
    Ok(())
}

/// CPU time of all threads: the deadline on every core of this machine.
fn cpu_seconds() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    DEADLINE.as_secs().saturating_mul(cores)
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, most: u64) -> Result<(), CompileError> {
    let (soft, hard) = getrlimit(resource).map_err(CompileError::Limit)?;
    setrlimit(resource, soft.min(most), hard.min(most)).map_err(CompileError::Limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(directory: &Path, bytes: &[u8]) -> Job {
        let file = directory.join("module.wasm");
        std::fs::write(&file, bytes).unwrap();
        Job {
            cache: directory.join("cache"),
            digest: Digest::of(bytes),
            file,
        }
    }

    #[test]
    fn a_command_is_compiled_once() {
        let directory = tempfile::tempdir().unwrap();
        let wasm = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
        let job = job(directory.path(), &wasm);
        let path = job.run().unwrap();
        std::fs::remove_file(&job.file).unwrap();
        assert_eq!(job.run().unwrap(), path);
    }

    #[test]
    fn refusals_say_why() {
        for (bytes, reason) in [
            (b"\x7fELF....".to_vec(), "not a WebAssembly binary"),
            (b"\0asm\x01\0\0\0\xff\xff".to_vec(), "invalid WebAssembly: "),
            (wat::parse_str("(module)").unwrap(), "nothing to run"),
            (wat::parse_str("(component)").unwrap(), "nothing to run"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let message = job(directory.path(), &bytes).run().unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
            assert!(!directory.path().join("cache").exists());
        }
    }

    #[test]
    fn another_file_than_promised_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let job = Job {
            digest: Digest::of(b"other"),
            ..job(directory.path(), b"\0asm\x01\0\0\0")
        };
        assert!(matches!(job.run(), Err(CompileError::Digest { .. })));
    }
}

//! Loading: compiled code mapped, linked, and shared by every container of the same binary.
//!
//! Owns which engine a binary gets and the miss path (compile in a child process, then load). Refuses to know
//! containers.

use super::cache::{Cache, OpenError, TrustedArtifact};
use super::compile::DEADLINE;
use super::digest::Digest;
use super::world::{LinkError, Linked, World};
use crate::engine::budget::TABLE_ELEMENT_BYTES;
use crate::engine::{Engines, compatibility};
use crate::sys::{self, Mapped};
use amphipod_shim_api::compiler::complaint;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::process::Command;
use wasmtime::{Engine, ResourcesRequired};

/// How much longer than its own deadline a compiling child is waited for before it is killed.
const CHILD_GRACE: Duration = Duration::from_secs(5);

/// Most of what a child said that is kept for the error message.
const MAX_REASON: usize = 4 << 10;

/// Bytes in a page of linear memory.
const WASM_PAGE: u64 = 64 << 10;

/// Why a program cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    NotCompilable(String),
    #[error("starting the compiler {program:?}: {source}")]
    Spawn {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("compiling took longer than {} s", DEADLINE.as_secs())]
    TooSlow,
    #[error("loading compiled code: {0:#}")]
    Map(wasmtime::Error),
    #[error("compiled code is not there after compiling it: {0}")]
    Vanished(OpenError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A program ready to run.
pub struct Program {
    pub linked: Linked,
    /// Bytes of linear memory and tables one fresh instance takes.
    pub initial_bytes: u64,
    engine: Engine,
}

impl Program {
    /// The engine it was loaded for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

/// Where a binary and its compiled code are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub file: PathBuf,
    pub digest: Digest,
    pub cache: PathBuf,
}

/// How a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    Ordinary,
    /// It is to leave core dumps or a profile.
    Debugging,
}

/// How to run the `compile` action: this very program.
#[derive(Debug, Clone)]
pub struct CompileCommand {
    pub program: PathBuf,
    pub words: Vec<OsString>,
}

/// What is in memory, as long as a container has it.
#[derive(Default)]
struct Loaded {
    all: HashMap<(Digest, Use), Weak<Program>>,
    /// The last one stays for the next container: what ends is often started again, by a restart or under another name.
    last: Option<Arc<Program>>,
}

/// All programs of this process.
pub struct Programs {
    pooled: World,
    on_demand: World,
    /// Made for the first container that asks for it.
    debugging: (Engine, OnceLock<wasmtime::Result<World>>),
    compatibility: String,
    compiler: CompileCommand,
    loaded: Mutex<Loaded>,
    loading: tokio::sync::Mutex<()>,
}

impl Programs {
    /// # Errors
    /// When what the host offers cannot be defined.
    pub fn new(engines: &Engines, compiler: CompileCommand) -> wasmtime::Result<Self> {
        Ok(Self {
            pooled: World::new(&engines.pooled)?,
            on_demand: World::new(&engines.on_demand)?,
            debugging: (engines.debugging.clone(), OnceLock::new()),
            compatibility: compatibility(&engines.pooled),
            compiler,
            loaded: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        })
    }

    /// The program of `source`, from memory, from the cache, or compiled now. One is loaded at a time: ten
    /// containers of one image created together compile it once.
    ///
    /// # Errors
    /// When it cannot run here; the message is for the container's status.
    pub async fn load(&self, source: &Source, how: Use) -> Result<Arc<Program>, LoadError> {
        if let Some(program) = self.in_memory(&source.digest, how) {
            return Ok(program);
        }
        let _turn = self.loading.lock().await;
        if let Some(program) = self.in_memory(&source.digest, how) {
            return Ok(program);
        }
        let program = Arc::new(self.load_from_cache(source, how).await?);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if how == Use::Ordinary {
            loaded.last = Some(program.clone());
        }
        loaded.all.retain(|_, program| program.strong_count() > 0);
        let key = (source.digest.clone(), how);
        loaded.all.insert(key, Arc::downgrade(&program));
        Ok(program)
    }

    /// The program of this digest, if a container of this process has it.
    pub fn in_memory(&self, digest: &Digest, how: Use) -> Option<Arc<Program>> {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all
            .get(&(digest.clone(), how))?
            .upgrade()
    }

    async fn load_from_cache(&self, source: &Source, how: Use) -> Result<Program, LoadError> {
        let cache = Cache::new(&source.cache, &self.compatibility);
        match cache.open(&source.digest) {
            Ok(artifact) => match self.map(&artifact, how) {
                Ok(program) => return Ok(program),
                Err(LoadError::Map(error)) => {
                    tracing::warn!(digest = %source.digest, error = format!("{error:#}"), "compiled code is unusable; compiling again");
                    drop(std::fs::remove_file(cache.path(&source.digest)));
                }
                Err(error) => return Err(error),
            },
            Err(OpenError::Missing) => {}
            Err(reason) => tracing::warn!(digest = %source.digest, %reason, "compiled code is not used"),
        }
        self.compile(source).await?;
        self.map(&cache.open(&source.digest).map_err(LoadError::Vanished)?, how)
    }

    /// Maps into the pool, or on demand when the program needs more than a pool's slot has.
    fn map(&self, artifact: &TrustedArtifact, how: Use) -> Result<Program, LoadError> {
        if how == Use::Debugging {
            return link(self.debugging()?, artifact);
        }
        link(&self.pooled, artifact).or_else(|error| match error {
            LoadError::Map(_) => link(&self.on_demand, artifact),
            other => Err(other),
        })
    }

    fn debugging(&self) -> Result<&World, LoadError> {
        let (engine, world) = &self.debugging;
        world
            .get_or_init(|| World::new(engine))
            .as_ref()
            .map_err(|error| LoadError::Map(wasmtime::format_err!("{error:#}")))
    }

    async fn compile(&self, source: &Source) -> Result<(), LoadError> {
        let spawn_failed = |error| LoadError::Spawn {
            program: self.compiler.program.clone(),
            source: error,
        };
        let child = Command::new(&self.compiler.program)
            .args(&self.compiler.words)
            .args(["compile", "--cache"])
            .arg(&source.cache)
            .arg("--digest")
            .arg(source.digest.to_string())
            .arg(&source.file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(spawn_failed)?;
        let output = tokio::time::timeout(DEADLINE + CHILD_GRACE, child.wait_with_output())
            .await
            .map_err(|_| LoadError::TooSlow)?
            .map_err(spawn_failed)?;
        if output.status.success() {
            Ok(())
        } else {
            let said = &output.stderr[..output.stderr.len().min(MAX_REASON)];
            Err(LoadError::NotCompilable(complaint(output.status, said)))
        }
    }
}

fn link(world: &World, artifact: &TrustedArtifact) -> Result<Program, LoadError> {
    let (linked, resources) = match sys::map(world.engine(), artifact).map_err(LoadError::Map)? {
        Mapped::Module(module) => (world.link_module(&module)?, Some(module.resources_required())),
        Mapped::Component(component) => (world.link_component(&component)?, component.resources_required()),
    };
    Ok(Program {
        linked,
        initial_bytes: initial_bytes(resources),
        engine: world.engine().clone(),
    })
}

/// An upper bound: wasmtime tells the largest memory (in pages) and table (in elements), and how many there are.
fn initial_bytes(resources: Option<ResourcesRequired>) -> u64 {
    resources.map_or(0, |needs| {
        let memories = u64::from(needs.num_memories)
            .saturating_mul(needs.max_initial_memory_size.unwrap_or(0))
            .saturating_mul(WASM_PAGE);
        let tables = u64::from(needs.num_tables).saturating_mul(needs.max_initial_table_size.unwrap_or(0));
        memories.saturating_add(tables.saturating_mul(TABLE_ELEMENT_BYTES))
    })
}

/// The cache directory for a bundle that names none.
pub fn default_cache(bundle: &Path) -> PathBuf {
    bundle.join("compiled")
}

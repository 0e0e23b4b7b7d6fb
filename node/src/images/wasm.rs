//! Wasm modules: taking them out of images that carry them as a file, and compiling them ahead of time by the
//! Wasm shim's own command, bounded in time.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use amphipod_shim_api::compiler::complaint;
use amphipod_shim_api::program::{WASM_MAGIC, places};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::Inner;
use super::content::{Layout, write_atomically};
use super::digest::{Algorithm, Digest};
use super::error::{PullFailure, StoreError};
use super::image::ImageConfig;
use super::merged;

/// A module that compiles longer than this is refused; a 10 MiB component takes a few seconds on one slow core.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(180);
/// What is kept of the compiler's complaint: the place it is shown in takes a few kilobytes.
const MAX_COMPLAINT_BYTES: u64 = 8 << 10;

/// Why a module is not ready to run.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("cannot start the Wasm compiler {program:?}: {source}")]
    Start { program: String, source: io::Error },
    #[error("Wasm module {module} does not run here: {complaint}")]
    Refused { module: Digest, complaint: String },
    #[error("Wasm module {module} was not compiled within {} s", COMPILE_TIMEOUT.as_secs())]
    Timeout { module: Digest },
    #[error("the image is marked as Wasm, but its entrypoint {entrypoint:?} is no Wasm module in its layers")]
    NoModule { entrypoint: String },
    #[error("Wasm module is larger than the limit of {0} bytes")]
    TooLarge(u64),
}

/// Copies the module an image's entrypoint names from its unpacked layers into the content store.
pub fn extract(
    layout: &Layout,
    diff_ids: &[Digest],
    config: &ImageConfig,
    limit: u64,
) -> Result<Digest, PullFailure> {
    let entrypoint = config
        .entrypoint
        .first()
        .or(config.cmd.first())
        .cloned()
        .unwrap_or_default();
    let missing = || CompileError::NoModule {
        entrypoint: entrypoint.clone(),
    };
    let path = config.env.iter().find_map(|word| word.strip_prefix("PATH="));
    let places = places(&entrypoint, Path::new(&config.working_dir), path);
    let file = first(layout, diff_ids, &places).ok_or_else(missing)?;
    let mut bytes = Vec::new();
    let path = layout.layers();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", &path))?;
    if bytes.len() as u64 > limit {
        return Err(CompileError::TooLarge(limit).into());
    }
    if !bytes.starts_with(WASM_MAGIC) {
        return Err(missing().into());
    }
    let digest = Digest::of(&bytes);
    let path = layout.blob(&digest);
    write_atomically(&path, &bytes).map_err(StoreError::io("write", &path))?;
    Ok(digest)
}

/// The module's digest by SHA-256, the only one shims know; one that came under another is kept under both.
pub fn by_its_usual_name(layout: &Layout, module: &Digest) -> Result<Digest, StoreError> {
    if module.algorithm() == Algorithm::Sha256 {
        return Ok(module.clone());
    }
    let path = layout.blob(module);
    let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    let digest = Digest::of(&bytes);
    let path = layout.blob(&digest);
    write_atomically(&path, &bytes).map_err(StoreError::io("write", &path))?;
    Ok(digest)
}

/// The first of `places` where the layers have a file.
fn first(layout: &Layout, diff_ids: &[Digest], places: &[PathBuf]) -> Option<File> {
    // What cannot be opened is not what the container will run either.
    let open = |place: &PathBuf| merged::open(layout, diff_ids, place).ok().flatten();
    places.iter().find_map(open)
}

/// Whether that file is WebAssembly.
pub fn is_first(layout: &Layout, diff_ids: &[Digest], places: &[PathBuf]) -> bool {
    let mut head = [0; WASM_MAGIC.len()];
    let file = first(layout, diff_ids, places);
    file.is_some_and(|mut file| file.read_exact(&mut head).is_ok() && head == WASM_MAGIC)
}

/// Runs the shim's `compile`; it does nothing when the cache holds the module already. Answers how long its turn was
/// waited for.
pub async fn compile(inner: &Arc<Inner>, module: &Digest) -> Result<Duration, CompileError> {
    let [program, words @ ..] = &inner.options.wasm_shim[..] else {
        return Ok(Duration::ZERO);
    };
    let start = |source| CompileError::Start {
        program: program.to_string_lossy().into_owned(),
        source,
    };
    let size = std::fs::metadata(inner.layout.blob(module)).map_err(start)?.len();
    let turn = inner.compilers.turn(size).await;
    let turn = turn.map_err(|error| start(io::Error::other(error)))?;
    let mut child = Command::new(program)
        .args(words)
        .arg("compile")
        .arg("--cache")
        .arg(inner.layout.wasm_cache())
        .arg("--digest")
        .arg(module.to_string())
        .arg(inner.layout.blob(module))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let mut stderr = child.stderr.take();
    let run = async {
        let mut said = Vec::new();
        if let Some(stderr) = &mut stderr {
            stderr.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said).await?;
            tokio::io::copy(stderr, &mut tokio::io::sink()).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, said))
    };
    let (status, said) = tokio::time::timeout(COMPILE_TIMEOUT, run)
        .await
        .map_err(|_| CompileError::Timeout {
            module: module.clone(),
        })?
        .map_err(start)?;
    if status.success() {
        return Ok(turn.waited);
    }
    Err(CompileError::Refused {
        module: module.clone(),
        complaint: complaint(status, &said),
    })
}

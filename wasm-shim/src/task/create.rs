//! From a CreateTaskRequest to a container that can start: bundle, program, Pod, outputs.
//!
//! Everything that can be wrong with a container is found here, before it is called created.

use super::container::{Container, Made, StdioAddresses};
use crate::bundle::{self, BundleError, Container as Granted, ProgramRef, open_root, read_spec};
use crate::engine::meter::Meter;
use crate::engine::ticker::Ticker;
use crate::guest::output::Output;
use crate::guest::pod::{PodError, Pods};
use crate::program::compile::{CompileError, read_bounded};
use crate::program::digest::Digest;
use crate::program::load::{LoadError, Program, Programs, Source, default_cache};
use crate::rootfs::{RootfsError, mount_private};
use amphipod_shim_api::api::CreateTaskRequest;
use amphipod_shim_api::stdio::{Sinks, StdioError};
use amphipod_shim_api::{TaskError, annotations};
use oci_spec::runtime::Spec;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a container cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Read(#[from] CompileError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error("a task of this host was ended")]
    Cancelled,
}

impl From<CreateError> for TaskError {
    fn from(error: CreateError) -> Self {
        let message = error.to_string();
        match error {
            CreateError::Bundle(_) | CreateError::Read(_) | CreateError::Load(_) | CreateError::Stdio(_) => {
                Self::InvalidArgument(message)
            }
            CreateError::Rootfs(_) | CreateError::Pod(_) | CreateError::Cancelled => Self::Internal(message),
        }
    }
}

/// What containers share.
pub struct Host {
    pub programs: Programs,
    pub pods: Pods,
    pub ticker: Ticker,
}

impl Host {
    /// Creates a container.
    ///
    /// # Errors
    /// When anything it needs is missing or refused; the message is for its status.
    pub async fn create(&self, request: &CreateTaskRequest) -> Result<Arc<Container>, CreateError> {
        let bundle = PathBuf::from(&request.bundle);
        let granted = blocking({
            let (bundle, rootfs, id) = (bundle.clone(), request.rootfs.clone(), request.id.clone());
            move || understand(&bundle, rootfs, &id)
        })
        .await?;
        let program = self.program(&granted, &bundle).await?;
        let pod = self.pods.get(&granted.sandbox, granted.netns.as_deref())?;
        let sinks = Sinks::open(&request.stdout, &request.stderr)?;
        Ok(Container::new(Made {
            id: request.id.clone(),
            bundle,
            addresses: StdioAddresses {
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
            },
            meter: Meter::new(self.ticker.clone(), granted.quota),
            granted,
            program,
            pod,
            stdout: Output::new(sinks.stdout),
            stderr: Output::new(sinks.stderr),
        }))
    }

    async fn program(&self, granted: &Granted, bundle: &Path) -> Result<Arc<Program>, CreateError> {
        let source = match &granted.program {
            ProgramRef::Stored { file, digest, cache } => Source {
                file: file.clone(),
                digest: digest.clone(),
                cache: cache.clone().unwrap_or_else(|| default_cache(bundle)),
            },
            ProgramRef::InImage(file) => self.source_in_image(file, bundle).await?,
        };
        Ok(self.programs.load(&source).await?)
    }

    /// A file of the image is copied out, so that what is compiled is what was digested.
    async fn source_in_image(&self, file: &OwnedFd, bundle: &Path) -> Result<Source, CreateError> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let copy = bundle.join("module.wasm");
        let cache = default_cache(bundle);
        blocking(move || {
            let bytes = read_bounded(&path)?;
            std::fs::write(&copy, &bytes).map_err(|source| CompileError::Read {
                path: copy.clone(),
                source,
            })?;
            Ok(Source {
                file: copy,
                digest: Digest::of(&bytes),
                cache,
            })
        })
        .await
    }
}

fn understand(
    bundle: &Path,
    rootfs: Vec<amphipod_shim_api::api::Mount>,
    id: &str,
) -> Result<Granted, CreateError> {
    let spec = read_spec(bundle)?;
    let root = root(&spec, bundle, rootfs)?;
    Ok(bundle::Container::from_spec(&spec, root, id)?)
}

/// The image's filesystem: mounted now, or a directory that is there already; a stored artifact has none.
fn root(
    spec: &Spec,
    bundle: &Path,
    mounts: Vec<amphipod_shim_api::api::Mount>,
) -> Result<Option<OwnedFd>, CreateError> {
    let Some(path) = spec.root().as_ref().map(|root| bundle.join(root.path())) else {
        return Ok(None);
    };
    if !mounts.is_empty() {
        return Ok(Some(mount_private(mounts, path)?));
    }
    let is_artifact = bundle::annotations_of(spec).contains_key(annotations::WASM_MODULE);
    if is_artifact || !path.is_dir() {
        Ok(None)
    } else {
        Ok(Some(open_root(&path)?))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CreateError> + Send + 'static,
) -> Result<T, CreateError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(CreateError::Cancelled))
}

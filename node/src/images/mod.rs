//! The node's images: references, pulls, the content store, unpacked layers, container snapshots, Wasm modules.
//!
//! Flow: `pull` resolves a reference, fetches what the store lacks (every byte hashed on its way in), unpacks layers
//! once per diffID or compiles the module, and records the image last; `prepare` gives a container its root.
//! Guarantees: a recorded image is complete and durable; what a failed pull leaves of a blob is gone on with or removed;
//! concurrent pulls of one image are one pull. It refuses to know Pods, and mounts nothing that
//! anybody else sees.

mod access;
mod collect;
mod compiled;
mod compilers;
mod content;
mod digest;
pub mod distribution;
mod error;
mod flight;
mod grammar;
mod image;
mod implied;
mod ingest;
mod layers;
mod manifest;
pub mod media;
mod merged;
mod pull;
mod reference;
mod snapshot;
mod sweep;
mod unpack;
mod user;
mod volumes;
mod wasm;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::FlockOperation;
use tokio::sync::{RwLock, broadcast};

pub use self::access::{Access, Holder};
pub use self::digest::{Digest, DigestError};
pub use self::distribution::{Distribution, Endpoints, RegistryAuth, RegistryError};
pub use self::error::{PullError, PullFailure, StoreError};
pub use self::image::{
    Image, ImageConfig, ImageKind, ImageVolume, Mount, PullProgress, PullStep, Pulled, Rootfs, StoredModule,
};
pub use self::manifest::native_arch;
pub use self::reference::{ImageReference, ReferenceError};
pub use self::unpack::{UnpackError, UnpackLimits};
pub use self::user::{ContainerUser, UserError};

use self::collect::Uses;
use self::compilers::Compilers;
use self::content::{Layout, write_atomically};
use self::flight::Flights;
pub use self::flight::KeyedLocks;
use crate::removal;

/// Progress events kept for a slow listener before it misses some.
const PROGRESS_BACKLOG: usize = 1024;

/// How a store is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImagesOptions {
    /// Registry name → endpoint URL, such as `amphipod.local` → `http://127.0.0.1:5050`.
    pub mirrors: BTreeMap<String, String>,
    /// Registry name → URLs that pulls ask before the registry itself.
    pub pull_mirrors: BTreeMap<String, Vec<String>>,
    /// The registry of names that give none; `docker.io` when not set.
    pub default_registry: Option<String>,
    /// `host[:port]` of registries spoken to over plain HTTP.
    pub insecure_registries: BTreeSet<String>,
    /// The Wasm shim's command words; `compile --cache DIR --digest D FILE` is appended. Without one, modules
    /// are compiled when first started.
    pub wasm_shim: Vec<OsString>,
    /// Whether who pulled an image decides who may use it. What is pulled by hand is everyone's.
    pub keeps_access: bool,
    pub limits: ImageLimits,
}

/// What one image may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of one compressed layer.
    pub blob_bytes: u64,
    /// Bytes of one Wasm module: beyond it compilation takes longer than its time limit.
    pub module_bytes: u64,
    /// Layers of one image fetched at a time, as containerd does by default.
    pub parallel_layers: usize,
    pub unpack: UnpackLimits,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            blob_bytes: 32 << 30,
            module_bytes: 256 << 20,
            parallel_layers: 3,
            unpack: UnpackLimits::default(),
        }
    }
}

/// A handle on the node's image store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    options: ImagesOptions,
    client: Distribution,
    flights: Flights,
    /// One download of a blob, one unpacking of a layer at a time.
    locks: KeyedLocks,
    compilers: Compilers,
    progress: broadcast::Sender<PullProgress>,
    /// Shared by pulls, whose content no record names yet; a collection takes it alone.
    pulling: Arc<RwLock<()>>,
    uses: Uses,
    /// One writer of whose images are.
    access: Mutex<()>,
    /// Held shared while the store is open, so that nobody sweeps it.
    _lock: File,
}

impl Images {
    /// Opens the store in `dir`, making it when it is not there. When nobody else has it open, what an earlier
    /// run left unfinished or unused is removed.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, options: ImagesOptions) -> Result<Self, StoreError> {
        let layout = Layout::create(dir)?;
        let lock = lock_and_sweep(&layout)?;
        let endpoints = Endpoints {
            mirrors: options.mirrors.clone(),
            pull_mirrors: options.pull_mirrors.clone(),
            insecure: options.insecure_registries.clone(),
        };
        let client = Distribution::new(endpoints).map_err(|error| StoreError::Client(error.to_string()))?;
        let inner = Inner {
            layout,
            options,
            client,
            flights: Flights::default(),
            locks: KeyedLocks::default(),
            compilers: Compilers::of_this_machine(),
            progress: broadcast::channel(PROGRESS_BACKLOG).0,
            pulling: Arc::default(),
            uses: Uses::default(),
            access: Mutex::default(),
            _lock: lock,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Events of all pulls from now on.
    pub fn progress(&self) -> broadcast::Receiver<PullProgress> {
        self.inner.progress.subscribe()
    }

    /// Makes the image `name` complete in the store, asking the registry what it is now. Pulls of the same image
    /// with the same credentials at the same time are one pull.
    ///
    /// # Errors
    /// See [`PullError`]; its `reason` and text are what `waiting` shows.
    pub async fn pull(&self, name: &str, auth: &RegistryAuth) -> Result<Image, PullError> {
        Ok(self.pull_told(name, auth, ImageKind::Native).await?.image)
    }

    /// The same for those who tell how long it took, and which kind they want where an index has both.
    ///
    /// # Errors
    /// As [`Self::pull`].
    pub async fn pull_told(
        &self,
        name: &str,
        auth: &RegistryAuth,
        wanted: ImageKind,
    ) -> Result<Pulled, PullError> {
        let reference = self.reference(name)?;
        let key = (reference.to_string(), format!("{:?} {wanted:?}", SecretKey(auth)));
        let inner = self.inner.clone();
        let auth = auth.clone();
        let flight = self
            .inner
            .flights
            .join(key, || Box::pin(pull::run(inner, reference, auth, wanted)));
        flight.await
    }

    /// What `name` means here.
    ///
    /// # Errors
    /// It is no reference.
    pub fn reference(&self, name: &str) -> Result<ImageReference, PullError> {
        let default = self.inner.options.default_registry.as_deref();
        ImageReference::parse(name, default).map_err(|source| PullError::InvalidName {
            name: name.to_owned(),
            source,
        })
    }

    /// The image recorded under `name`, if it is in the store. A reference with a digest is also found under any
    /// other name of the same repository. One that was taken from an index of both kinds is there only for who wants its kind.
    ///
    /// # Errors
    /// `name` is no reference (as [`PullError::InvalidName`]), or the store cannot be read.
    pub fn find(&self, name: &str, wanted: ImageKind) -> Result<Option<Image>, PullError> {
        let reference = self.reference(name)?;
        let found = self
            .inner
            .find(&reference, wanted)
            .map_err(|error| PullError::Failed {
                reference: reference.to_string(),
                cause: Arc::new(error.into()),
            })?;
        found.iter().for_each(|image| self.inner.uses.note(image));
        Ok(found)
    }

    /// Every image in the store, by reference.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = self.inner.layout.images()?;
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Forgets the image under `name`; its content goes at the next opening, unless others use it. False when there
    /// was none.
    ///
    /// # Errors
    /// The record cannot be removed.
    pub fn forget(&self, name: &str) -> Result<bool, PullError> {
        let reference = self.reference(name)?;
        let reference = reference.to_string();
        let paths = [None, Some(ImageKind::Wasm)].map(|choice| self.inner.record_path(&reference, choice));
        let mut was_there = false;
        for path in paths {
            was_there |= remove_record(&path).map_err(|error| PullError::Failed {
                reference: reference.clone(),
                cause: Arc::new(error.into()),
            })?;
        }
        Ok(was_there)
    }

    /// Removes what pulls left behind that nobody repeats, and compiled code that is no image's and nobody uses.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn expire(&self) -> Result<(), StoreError> {
        ingest::expire(&self.inner.layout, ingest::KEPT)?;
        compiled::expire(&self.inner.layout, ingest::KEPT)
    }

    /// A client with this store's endpoints, for pushing and listing.
    pub fn distribution(&self) -> &Distribution {
        &self.inner.client
    }

    /// What the container `key` starts from: an overlay of its image's layers with a writable layer of the container's own,
    /// and the module of a Wasm image. Asking again gives the same.
    ///
    /// # Errors
    /// The image is no longer complete, or the disk fails.
    pub fn prepare(&self, image: &Image, key: &str, owner: Option<u32>) -> Result<Rootfs, StoreError> {
        let layout = &self.inner.layout;
        let mounts = match image.is_artifact() {
            true => Vec::new(),
            false => vec![snapshot::prepare(layout, image, key, owner)?],
        };
        let stored = |digest: &Digest| StoredModule {
            file: layout.blob(digest),
            digest: digest.clone(),
        };
        Ok(match image.kind {
            ImageKind::Wasm => Rootfs::Wasm {
                module: image.module.as_ref().map(stored),
                cache: layout.wasm_cache(),
                mounts,
            },
            ImageKind::Native => Rootfs::Native { mounts },
        })
    }

    /// Directories that show the files of `image` when they are laid on each other, the first on top; for a volume that the store
    /// knows by `key`, until it is released. A Wasm artifact has none.
    ///
    /// # Errors
    /// As for `prepare`.
    pub fn show(&self, image: &Image, key: &str) -> Result<Vec<PathBuf>, StoreError> {
        match image.is_artifact() {
            true => Ok(Vec::new()),
            false => snapshot::show(&self.inner.layout, image, key),
        }
    }

    /// Whether the file that `image` has at the first of `places` where it has one is WebAssembly.
    pub fn is_wasm(&self, image: &Image, places: &[PathBuf]) -> bool {
        wasm::is_first(&self.inner.layout, &image.layers, places)
    }

    /// Directories for what `image` declares as volumes, for the container `key` that was prepared, but for those whose place is
    /// `taken`. They go when it is released.
    ///
    /// # Errors
    /// The image has something else there, or the disk fails.
    pub fn volumes(
        &self,
        image: &Image,
        key: &str,
        taken: &[std::path::PathBuf],
    ) -> Result<Vec<ImageVolume>, StoreError> {
        volumes::make(&self.inner.layout, image, key, taken)
    }

    /// Directory of what the container `key` wrote into its root; none for a key `prepare` would refuse.
    pub fn writable_layer(&self, key: &str) -> Option<std::path::PathBuf> {
        snapshot::writable(&self.inner.layout, key)
    }

    /// Removes what `prepare` made for `key`; that there is nothing is success.
    ///
    /// # Errors
    /// The disk fails.
    pub fn release(&self, key: &str) -> Result<(), StoreError> {
        snapshot::release(&self.inner.layout, key)
    }

    /// The keys `prepare` made snapshots for and nobody released.
    ///
    /// # Errors
    /// The disk fails.
    pub fn snapshots(&self) -> Result<Vec<String>, StoreError> {
        snapshot::keys(&self.inner.layout)
    }

    /// Who `spec` (`user`, `uid`, `user:group`, …) is inside the image, by its own `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// Nobody has that name, or a number is out of range: never root by accident.
    pub fn user(&self, image: &Image, spec: &str) -> Result<ContainerUser, UserError> {
        user::resolve(&self.inner.layout, &image.layers, spec)
    }
}

/// Removes every container's writable layer below `dir`; images stay.
///
/// # Errors
/// The disk fails.
pub fn down(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("snapshots");
    removal::remove(&path).map_err(StoreError::io("remove", &path))
}

impl Inner {
    /// Where the image of that name is recorded; what was taken as Wasm from an index of both kinds is beside it.
    fn record_path(&self, reference: &str, choice: Option<ImageKind>) -> std::path::PathBuf {
        let key = match choice {
            Some(ImageKind::Wasm) => format!("{reference} for Wasm"),
            Some(ImageKind::Native) | None => reference.to_owned(),
        };
        let name = format!("{}.json", Digest::of(key.as_bytes()).hex());
        self.layout.records().join(name)
    }

    fn find(&self, reference: &ImageReference, wanted: ImageKind) -> Result<Option<Image>, StoreError> {
        let suits = |image: &Image| image.choice.is_none_or(|choice| choice == wanted);
        let name = reference.to_string();
        for choice in [Some(wanted), None] {
            let recorded = read_record(&self.record_path(&name, choice))?;
            if let Some(image) = recorded.filter(suits) {
                return Ok(Some(image));
            }
        }
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        let pinned = reference.pinned(digest);
        let mut images = self.layout.images()?.into_iter();
        Ok(images.find(|image| image.repo_digest == pinned && suits(image)))
    }

    fn record(&self, image: &Image) -> Result<(), StoreError> {
        if image.choice.is_none() {
            // The name had a choice before, and has none any more.
            remove_record(&self.record_path(&image.reference, Some(ImageKind::Wasm)))?;
        }
        let path = self.record_path(&image.reference, image.choice);
        // Most pulls that were asked for once more find nothing new; the disk is then not waited for.
        if read_record(&path).is_ok_and(|known| known.as_ref() == Some(image)) {
            return Ok(());
        }
        let damaged = |source| StoreError::Record {
            path: path.clone(),
            source,
        };
        let bytes = serde_json::to_vec_pretty(image).map_err(damaged)?;
        write_atomically(&path, &bytes).map_err(StoreError::io("write", &path))
    }

    /// Nobody listening is fine.
    fn report(&self, reference: &ImageReference, step: PullStep) {
        let _ = self.progress.send(PullProgress {
            reference: reference.to_string(),
            step,
        });
    }
}

impl Layout {
    /// All recorded images; a damaged record is logged and left out.
    fn images(&self) -> Result<Vec<Image>, StoreError> {
        let dir = self.records();
        let mut images = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let path = entry.map_err(StoreError::io("list", &dir))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read_record(&path) {
                Ok(image) => images.extend(image),
                Err(error) => tracing::warn!(%error, "image left out"),
            }
        }
        Ok(images)
    }
}

/// False when there was none.
fn remove_record(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(StoreError::io("remove", path)(source)),
    }
}

fn read_record(path: &Path) -> Result<Option<Image>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => {
            let image = serde_json::from_slice(&bytes);
            image.map(Some).map_err(|source| StoreError::Record {
                path: path.to_owned(),
                source,
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io {
            step: "read",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Tells credentials apart without keeping them in a map.
struct SecretKey<'a>(&'a RegistryAuth);

impl std::fmt::Debug for SecretKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret = match self.0 {
            RegistryAuth::Anonymous => return f.write_str("anonymous"),
            RegistryAuth::Basic(user, password) => format!("{user}\0{password}"),
            RegistryAuth::Bearer(token) => token.clone(),
        };
        write!(f, "{}", Digest::of(secret.as_bytes()))
    }
}

/// Sweeps the store if nobody else has it open, and keeps a shared lock on it.
fn lock_and_sweep(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.map_err(StoreError::io("open", &path))?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        sweep::sweep(layout)?;
    }
    ingest::expire(layout, ingest::KEPT)?;
    rustix::fs::flock(&lock, FlockOperation::LockShared)
        .map_err(|e| StoreError::io("lock", &path)(e.into()))?;
    Ok(lock)
}

#[cfg(test)]
mod tests;

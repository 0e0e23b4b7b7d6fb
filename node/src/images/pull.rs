//! One pull, step by step: resolve, decide, fetch, unpack or compile, record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;

use super::digest::Digest;
use super::distribution::{RawManifest, RegistryAuth, RegistryError};
use super::error::{PullError, PullFailure, StoreError};
use super::image::{Image, ImageKind, PullStep, Pulled};
use super::ingest::{CommitError, Ingest};
use super::manifest::{self, Contents, Decision, Descriptor, Layer, Manifest, ManifestError, Resolved};
use super::reference::ImageReference;
use super::{Inner, layers, wasm};

/// Largest image configuration read into memory; real ones are a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// An index may point to an index (buildkit does not, some mirrors do); deeper is a trap.
const MAX_INDEX_DEPTH: usize = 3;
/// Bytes between two progress events of one blob.
const PROGRESS_STEP: u64 = 256 << 10;

/// How often one blob is resumed: a bad line is worth it, a registry that ends every answer early is not.
const MAX_RESUMED: usize = 5;

/// A reference resolved down to this platform's manifest.
struct Target {
    top: Digest,
    digest: Digest,
    manifest: Manifest,
    /// What was wanted of an index that has both kinds.
    choice: Option<ImageKind>,
    /// The manifest and the indexes above it.
    documents: Vec<(Digest, Bytes)>,
}

/// Pulls `reference` and tells listeners how it ended.
pub(super) async fn run(
    inner: Arc<Inner>,
    reference: ImageReference,
    auth: RegistryAuth,
    wanted: ImageKind,
) -> Result<Pulled, PullError> {
    let _content_is_safe = inner.pulling.read().await;
    let pull = Pull {
        inner: &inner,
        reference: &reference,
        auth: &auth,
        wanted,
    };
    match pull.run().await {
        Ok(pulled) => {
            inner.uses.note(&pulled.image);
            inner.report(&reference, PullStep::Done);
            Ok(pulled)
        }
        Err(cause) => {
            let error = PullError::Failed {
                reference: reference.to_string(),
                cause: Arc::new(cause),
            };
            inner.report(
                &reference,
                PullStep::Failed {
                    message: error.to_string(),
                },
            );
            Err(error)
        }
    }
}

struct Pull<'a> {
    inner: &'a Arc<Inner>,
    reference: &'a ImageReference,
    auth: &'a RegistryAuth,
    /// Which kind is taken where there are both.
    wanted: ImageKind,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Pulled, PullFailure> {
        let target = self.resolve().await?;
        let config = self.config(&target.manifest.config).await?;
        let decision =
            manifest::decide(&target.manifest, &config, manifest::native_arch()).map_err(|source| {
                PullFailure::Manifest {
                    digest: target.digest.clone(),
                    source,
                }
            })?;
        self.announce(&target.manifest);
        let (layers, module) = match &decision.contents {
            Contents::Module(module) => (Vec::new(), Some(self.module(module).await?)),
            Contents::Layers(layers) => self.layers(&decision, layers).await?,
        };
        let waited = match &module {
            Some(module) => self.compile(module).await?,
            None => Duration::ZERO,
        };
        for (digest, bytes) in &target.documents {
            self.keep(digest, bytes)?;
        }
        let image = self.image(&target, decision, layers, module);
        if self.inner.options.keeps_access {
            self.inner.close(&image)?;
        }
        self.inner.record(&image)?;
        Ok(Pulled { image, waited })
    }

    fn image(
        &self,
        target: &Target,
        decision: Decision,
        layers: Vec<Digest>,
        module: Option<Digest>,
    ) -> Image {
        let parts = || std::iter::once(&target.manifest.config).chain(&target.manifest.layers);
        let documents = target.documents.iter().map(|(digest, _)| digest.clone());
        Image {
            reference: self.reference.to_string(),
            id: target.manifest.config.digest.clone(),
            digest: target.top.clone(),
            repo_digest: self.reference.pinned(&target.top),
            manifest: target.digest.clone(),
            size: parts().map(|part| part.size).fold(0, u64::saturating_add),
            kind: decision.kind,
            choice: target.choice,
            config: decision.config,
            blobs: parts()
                .map(|part| part.digest.clone())
                .chain(documents)
                .chain(module.clone())
                .collect(),
            layers,
            module,
        }
    }

    /// Follows the reference through indexes to this platform's manifest.
    async fn resolve(&self) -> Result<Target, PullFailure> {
        let mut id = self.reference.manifest_id();
        let (mut documents, mut choice) = (Vec::new(), None);
        for _ in 0..MAX_INDEX_DEPTH {
            let RawManifest {
                media_type,
                digest,
                bytes,
            } = self
                .inner
                .client
                .manifest(self.reference, &id, self.auth)
                .await
                .map_err(|source| PullFailure::Resolve {
                    reference: self.reference.to_string(),
                    source,
                })?;
            let wrong = |source| PullFailure::Manifest {
                digest: digest.clone(),
                source,
            };
            documents.push((digest.clone(), bytes.clone()));
            match manifest::parse(&bytes, &media_type).map_err(wrong)? {
                Resolved::Image(manifest) => {
                    let top = documents[0].0.clone();
                    return Ok(Target {
                        top,
                        digest,
                        manifest: *manifest,
                        choice,
                        documents,
                    });
                }
                Resolved::Index(entries) => {
                    let chosen = manifest::choose(&entries, manifest::native_arch(), self.wanted);
                    let (entry, decided) = chosen.map_err(wrong)?;
                    choice = choice.or(decided);
                    id = entry.digest.to_string();
                }
            }
        }
        let digest = documents
            .pop()
            .map_or_else(|| Digest::of(&[]), |(digest, _)| digest);
        Err(PullFailure::Manifest {
            digest,
            source: ManifestError::Nested,
        })
    }

    fn announce(&self, manifest: &Manifest) {
        let total_bytes = manifest
            .layers
            .iter()
            .map(|layer| layer.size)
            .fold(0, u64::saturating_add);
        self.inner.report(
            self.reference,
            PullStep::Resolved {
                blobs: manifest.layers.len(),
                total_bytes,
            },
        );
    }

    async fn config(&self, config: &Descriptor) -> Result<Vec<u8>, PullFailure> {
        self.fetch(config, MAX_CONFIG_BYTES, "image config").await?;
        let path = self.inner.layout.blob(&config.digest);
        Ok(std::fs::read(&path).map_err(StoreError::io("read", &path))?)
    }

    async fn module(&self, module: &Descriptor) -> Result<Digest, PullFailure> {
        self.fetch(module, self.inner.options.limits.module_bytes, "Wasm module")
            .await?;
        Ok(wasm::by_its_usual_name(&self.inner.layout, &module.digest)?)
    }

    /// Fetches and unpacks all layers; for a Wasm image of this shape, takes the module out of them.
    async fn layers(
        &self,
        decision: &Decision,
        layers: &[Layer],
    ) -> Result<(Vec<Digest>, Option<Digest>), PullFailure> {
        let limit = self.inner.options.limits.parallel_layers.max(1);
        let layer = |layer: &Layer| {
            let layer = layer.clone();
            async move { self.layer(&layer).await }
        };
        // Boxed: a borrowing closure over an iterator is more than the compiler proves for a `Send` future.
        let work: Vec<_> = layers.iter().map(|l| Box::pin(layer(l))).collect();
        futures::stream::iter(work)
            .buffer_unordered(limit)
            .try_collect::<Vec<()>>()
            .await?;
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let limit = self.inner.options.limits.module_bytes;
        let module = match decision.kind {
            ImageKind::Native => None,
            ImageKind::Wasm => Some(wasm::extract(
                &self.inner.layout,
                &diff_ids,
                &decision.config,
                limit,
            )?),
        };
        Ok((diff_ids, module))
    }

    async fn layer(&self, layer: &Layer) -> Result<(), PullFailure> {
        if self.inner.layout.layer(&layer.diff_id).is_dir() {
            self.is_here(&layer.blob);
            return layers::link(&self.inner.layout, &layer.diff_id).map_err(PullFailure::from);
        }
        self.fetch(&layer.blob, self.inner.options.limits.blob_bytes, "layer")
            .await?;
        let _only_one = self.inner.locks.lock(&format!("layer {}", layer.diff_id)).await;
        self.inner.report(
            self.reference,
            PullStep::Unpacking {
                layer: layer.blob.digest.clone(),
            },
        );
        let (inner, layer) = (self.inner.clone(), layer.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            layers::unpack_once(&inner.layout, &layer, &inner.options.limits.unpack)
        });
        joined(unpacking).await
    }

    async fn compile(&self, module: &Digest) -> Result<Duration, PullFailure> {
        if self.inner.options.wasm_shim.is_empty() {
            return Ok(Duration::ZERO);
        }
        self.inner.report(
            self.reference,
            PullStep::Compiling {
                module: module.clone(),
            },
        );
        Ok(wasm::compile(self.inner, module).await?)
    }

    /// Makes sure a blob is in the store.
    async fn fetch(&self, blob: &Descriptor, limit: u64, what: &'static str) -> Result<(), PullFailure> {
        let failed = |source| PullFailure::Fetch {
            digest: blob.digest.clone(),
            source,
        };
        if blob.size > limit {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return Err(failed(RegistryError::TooLarge { what, limit }));
        }
        let _only_one = self.inner.locks.lock(&format!("blob {}", blob.digest)).await;
        let path = self.inner.layout.blob(&blob.digest);
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == blob.size) {
            self.is_here(blob);
            return Ok(());
        }
        loop {
            let ingest = self.download(blob).await.map_err(failed)?;
            let resumed = ingest.is_resumed();
            let path = path.clone();
            let committing = tokio::task::spawn_blocking(move || ingest.commit());
            match committing.await {
                Ok(Ok(())) => return Ok(()),
                // The part that was kept may be what is wrong; it is gone now.
                Ok(Err(CommitError::Digest { .. })) if resumed => {}
                Ok(Err(CommitError::Digest { expected, actual })) => {
                    return Err(failed(RegistryError::DigestMismatch { expected, actual }));
                }
                Ok(Err(CommitError::Io(source))) => return Err(StoreError::io("write", &path)(source).into()),
                Err(error) => return Err(panicked(path, &error)),
            }
        }
    }

    /// What need not be fetched counts as fetched.
    fn is_here(&self, blob: &Descriptor) {
        let step = PullStep::Fetching {
            blob: blob.digest.clone(),
            done: blob.size,
            total: blob.size,
        };
        self.inner.report(self.reference, step);
    }

    /// Brings a blob into the store. A connection that breaks is made again for what is missing, as long as every one brings
    /// something.
    async fn download(&self, blob: &Descriptor) -> Result<Ingest, RegistryError> {
        let mut ingest = self.take_up(blob).await?;
        let mut again = 0;
        while ingest.written() < blob.size {
            let before = ingest.written();
            match self.stream(blob, &mut ingest).await {
                Ok(()) => break,
                Err(RegistryError::Transport { url, message }) => {
                    again += 1;
                    if ingest.written() <= before || again > MAX_RESUMED {
                        return Err(RegistryError::Transport { url, message });
                    }
                    tracing::info!(
                        message,
                        at = ingest.written(),
                        "a blob is asked for again from where it broke off"
                    );
                }
                Err(RegistryError::Status { status, .. })
                    if status == StatusCode::RANGE_NOT_SATISFIABLE && before > 0 =>
                {
                    ingest.restart().map_err(unwritten)?;
                }
                Err(error @ RegistryError::SizeMismatch { .. }) => {
                    ingest.discard();
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        let (expected, actual) = (blob.size, ingest.written());
        if actual == expected {
            return Ok(ingest);
        }
        ingest.discard();
        Err(RegistryError::SizeMismatch { expected, actual })
    }

    /// What an earlier pull left of a blob, or its beginning.
    async fn take_up(&self, blob: &Descriptor) -> Result<Ingest, RegistryError> {
        let (inner, digest, size) = (self.inner.clone(), blob.digest.clone(), blob.size);
        let work = tokio::task::spawn_blocking(move || Ingest::begin(&inner.layout, &digest, size));
        let ingest = work.await.unwrap_or_else(|error| Err(error.into()));
        let ingest = ingest.map_err(unwritten)?;
        if ingest.is_resumed() {
            let (blob, done, total) = (blob.digest.clone(), ingest.written(), size);
            tracing::info!(%blob, at = done, "what an earlier pull left is gone on with");
            self.inner
                .report(self.reference, PullStep::Fetching { blob, done, total });
        }
        Ok(ingest)
    }

    /// Streams what is missing of a blob, hashing; stops at the first byte too many.
    async fn stream(&self, blob: &Descriptor, ingest: &mut Ingest) -> Result<(), RegistryError> {
        let client = &self.inner.client;
        let mut response = client
            .blob(self.reference, &blob.digest, ingest.written(), self.auth)
            .await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            ingest.restart().map_err(unwritten)?;
        }
        let mut reported = ingest.written();
        loop {
            let chunk = response.chunk().await.map_err(|error| RegistryError::Transport {
                url: format!("{}/blobs/{}", self.reference.repository(), blob.digest),
                message: error.to_string(),
            })?;
            let Some(chunk) = chunk else { return Ok(()) };
            let actual = ingest.written() + chunk.len() as u64;
            if actual > blob.size {
                return Err(RegistryError::SizeMismatch {
                    expected: blob.size,
                    actual,
                });
            }
            ingest.write(&chunk).map_err(unwritten)?;
            if actual - reported >= PROGRESS_STEP || actual == blob.size {
                reported = actual;
                let step = PullStep::Fetching {
                    blob: blob.digest.clone(),
                    done: actual,
                    total: blob.size,
                };
                self.inner.report(self.reference, step);
            }
        }
    }

    /// Stores a manifest or index beside the blobs it names.
    fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), PullFailure> {
        let path = self.inner.layout.blob(digest);
        if path.exists() {
            return Ok(());
        }
        Ok(super::content::write_atomically(&path, bytes).map_err(StoreError::io("write", &path))?)
    }
}

fn unwritten(source: std::io::Error) -> RegistryError {
    RegistryError::Io {
        step: "write to the image store",
        source,
    }
}

/// Awaits work on a blocking thread.
async fn joined<T>(work: tokio::task::JoinHandle<Result<T, PullFailure>>) -> Result<T, PullFailure> {
    match work.await {
        Ok(result) => result,
        Err(error) => Err(panicked(PathBuf::from("layer"), &error)),
    }
}

fn panicked(path: PathBuf, error: &tokio::task::JoinError) -> PullFailure {
    StoreError::Io {
        step: "finish work on",
        path,
        source: std::io::Error::other(error.to_string()),
    }
    .into()
}

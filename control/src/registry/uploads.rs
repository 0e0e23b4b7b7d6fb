//! Blob uploads: sessions that take bytes in one or several requests and become a blob when the digest fits
//! (distribution-spec, "Pushing blobs"). Bounded in number, size and idle time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::disk::Disk;
use super::error::{ApiError, Code};
use super::names::{Digest, Name};
use super::{Registry, empty, method_not_allowed, query};

/// Sessions at a time: a client uses a handful per image.
const MAX_SESSIONS: usize = 256;
/// A session nobody touched for this long is given up.
const IDLE: Duration = Duration::from_secs(3600);
/// Largest blob; the node refuses larger layers too.
const MAX_BLOB_BYTES: u64 = 32 << 30;
/// A body that brings nothing for this long is broken.
const STALL: Duration = Duration::from_secs(60);

/// One upload.
struct Session {
    name: Name,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
}

struct Slot {
    touched: Mutex<Instant>,
    session: tokio::sync::Mutex<Session>,
}

/// All uploads under way.
pub struct Uploads {
    disk: Arc<Disk>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

impl Uploads {
    pub fn new(disk: Arc<Disk>) -> Self {
        Self {
            disk,
            slots: Mutex::default(),
        }
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self, name: Name) -> Result<String, ApiError> {
        if self.slots().len() >= MAX_SESSIONS {
            self.expire().await;
        }
        let id = uuid::Uuid::new_v4().to_string();
        let path = self.disk.uploads().join(&id);
        let file = File::create_new(&path).await?;
        let session = Session {
            name,
            path,
            file,
            hasher: Sha256::new(),
            written: 0,
        };
        let slot = Slot {
            touched: Mutex::new(Instant::now()),
            session: tokio::sync::Mutex::new(session),
        };
        let full = {
            let mut slots = self.slots();
            let full = slots.len() >= MAX_SESSIONS;
            if !full {
                slots.insert(id.clone(), Arc::new(slot));
            }
            full
        };
        match full {
            false => Ok(id),
            true => {
                tokio::fs::remove_file(self.disk.uploads().join(&id)).await?;
                Err(ApiError::new(
                    Code::TooManyRequests,
                    "too many uploads at a time; try again later",
                ))
            }
        }
    }

    /// The session `id` of the repository.
    async fn get(&self, name: &Name, id: &str) -> Result<Arc<Slot>, ApiError> {
        let unknown = || ApiError::new(Code::BlobUploadUnknown, format!("no upload {id} in {name}"));
        let slot = self.slots().get(id).cloned().ok_or_else(unknown)?;
        *slot.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if slot.session.lock().await.name != *name {
            return Err(unknown());
        }
        Ok(slot)
    }

    async fn forget(&self, id: &str) {
        self.slots().remove(id);
        let path = self.disk.uploads().join(id);
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "upload left behind");
        }
    }

    /// Gives up what was idle too long.
    pub async fn expire(&self) {
        let idle = |slot: &Slot| {
            slot.touched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .elapsed()
                > IDLE
        };
        let old: Vec<String> = self
            .slots()
            .iter()
            .filter(|(_, slot)| idle(slot))
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            self.forget(&id).await;
        }
    }
}

impl Session {
    /// Appends a body. What arrived before an error stays, so that the client can go on from there.
    async fn append(&mut self, body: Body) -> Result<(), ApiError> {
        let mut stream = body.into_data_stream();
        loop {
            let next = tokio::time::timeout(STALL, stream.next()).await;
            let next = next.map_err(|_| ApiError::new(Code::BlobUploadInvalid, "the upload stalled"))?;
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(|error| ApiError::new(Code::BlobUploadInvalid, error.to_string()))?;
            if self.written + chunk.len() as u64 > MAX_BLOB_BYTES {
                return Err(ApiError::new(
                    Code::SizeInvalid,
                    format!("blob exceeds {MAX_BLOB_BYTES} bytes"),
                ));
            }
            self.file.write_all(&chunk).await?;
            self.hasher.update(&chunk);
            self.written += chunk.len() as u64;
        }
        Ok(())
    }

    /// Verifies the digest and makes the file a blob of the repository.
    async fn commit(&mut self, disk: Arc<Disk>, expected: Digest) -> Result<(), ApiError> {
        let actual = Digest::finish(self.hasher.clone());
        if actual != expected {
            return Err(ApiError::new(
                Code::DigestInvalid,
                format!("content is {actual}, not {expected}"),
            ));
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        let (name, path) = (self.name.clone(), self.path.clone());
        super::blobs::blocking(move || disk.commit_blob(&name, &expected, &path)).await
    }
}

/// `POST /v2/NAME/blobs/uploads/`: mounts a blob another repository has, takes one whole, or opens a session.
pub async fn start(registry: &Registry, name: Name, request: Request) -> Result<Response, ApiError> {
    let uri = request.uri().clone();
    if let Some(mount) = query(&uri, "mount") {
        let digest: Digest = mount.parse()?;
        let from = query(&uri, "from").map(|from| from.parse::<Name>()).transpose()?;
        if mount_blob(registry, &name, from, &digest).await? {
            return created(&name, &digest);
        }
    }
    let digest = query(&uri, "digest")
        .map(|digest| digest.parse::<Digest>())
        .transpose()?;
    let id = registry.uploads.begin(name.clone()).await?;
    match digest {
        None => accepted(&name, &id, 0),
        Some(digest) => {
            let slot = registry.uploads.get(&name, &id).await?;
            let result = finish(registry, &slot, digest, request.into_body()).await;
            registry.uploads.forget(&id).await;
            result
        }
    }
}

/// Mounting takes only what `from` has: knowing a digest is not the right to read it.
async fn mount_blob(
    registry: &Registry,
    name: &Name,
    from: Option<Name>,
    digest: &Digest,
) -> Result<bool, ApiError> {
    let Some(from) = from else { return Ok(false) };
    let (disk, name, digest) = (registry.disk.clone(), name.clone(), digest.clone());
    super::blobs::blocking(move || match disk.has_blob(&from, &digest) {
        true => disk.link_blob(&name, &digest).map(|()| true),
        false => Ok(false),
    })
    .await
}

/// Everything on an open session.
pub async fn answer(
    registry: &Registry,
    name: Name,
    id: &str,
    request: Request,
) -> Result<Response, ApiError> {
    let slot = registry.uploads.get(&name, id).await?;
    let method = request.method().clone();
    match method {
        Method::GET | Method::HEAD => {
            let written = slot.session.lock().await.written;
            progress(StatusCode::NO_CONTENT, &name, id, written)
        }
        Method::PATCH => {
            let mut session = slot.session.lock().await;
            check_range(request.headers(), session.written)?;
            session.append(request.into_body()).await?;
            accepted(&name, id, session.written)
        }
        Method::PUT => {
            let missing = || ApiError::new(Code::DigestInvalid, "the digest parameter is missing");
            let digest = query(request.uri(), "digest").ok_or_else(missing)?.parse()?;
            let written = slot.session.lock().await.written;
            check_range(request.headers(), written)?;
            let result = finish(registry, &slot, digest, request.into_body()).await;
            registry.uploads.forget(id).await;
            result
        }
        Method::DELETE => {
            registry.uploads.forget(id).await;
            empty(StatusCode::NO_CONTENT, &[])
        }
        _ => Err(method_not_allowed(&method)),
    }
}

async fn finish(registry: &Registry, slot: &Slot, digest: Digest, body: Body) -> Result<Response, ApiError> {
    let mut session = slot.session.lock().await;
    session.append(body).await?;
    session.commit(registry.disk.clone(), digest.clone()).await?;
    created(&session.name, &digest)
}

/// A chunk that says where it belongs must belong at the end (`Content-Range: START-END`).
fn check_range(headers: &HeaderMap, written: u64) -> Result<(), ApiError> {
    let Some(range) = headers.get(header::CONTENT_RANGE) else {
        return Ok(());
    };
    let text = range.to_str().unwrap_or_default();
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let start = text.split('-').next().and_then(|start| start.parse::<u64>().ok());
    match start == Some(written) {
        true => Ok(()),
        false => Err(ApiError::new(
            Code::Range,
            format!("chunk {text:?} does not continue at {written}"),
        )),
    }
}

fn created(name: &Name, digest: &Digest) -> Result<Response, ApiError> {
    let headers = [
        ("location", format!("/v2/{name}/blobs/{digest}")),
        ("docker-content-digest", digest.to_string()),
    ];
    empty(StatusCode::CREATED, &headers)
}

fn accepted(name: &Name, id: &str, written: u64) -> Result<Response, ApiError> {
    progress(StatusCode::ACCEPTED, name, id, written)
}

fn progress(status: StatusCode, name: &Name, id: &str, written: u64) -> Result<Response, ApiError> {
    let headers = [
        ("location", format!("/v2/{name}/blobs/uploads/{id}")),
        ("range", format!("0-{}", written.saturating_sub(1))),
        ("docker-upload-uuid", id.to_owned()),
    ];
    empty(status, &headers)
}

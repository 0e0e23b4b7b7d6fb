//! The bytes of an object of `wasi:blobstore` on their way from a guest to a file.
//!
//! Owns how much waits for the disk. Refuses to know where the file goes in the end. Bytes are written by the Pod's
//! blocking threads, one piece after the other.

use super::folder::{Folder, Refused, Unfinished};
use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// Bytes that wait for the disk, at most.
const WAITING: usize = 64 << 10;

/// The file that an object is, until it has its name.
#[derive(Debug)]
pub struct Body {
    file: File,
    unfinished: Mutex<Option<Unfinished>>,
    state: Mutex<State>,
    changed: Notify,
    /// One of those that may be on their way at once.
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct State {
    waiting: BytesMut,
    writing: bool,
    flushing: bool,
    failed: Option<Refused>,
}

impl Body {
    /// Nothing is written yet.
    pub fn new(unfinished: Unfinished, file: File, permit: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self {
            file,
            unfinished: Mutex::new(Some(unfinished)),
            state: Mutex::default(),
            changed: Notify::new(),
            _permit: permit,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands bytes on to the disk.
    pub fn push(self: &Arc<Self>, bytes: &[u8]) {
        let mut state = self.state();
        state.waiting.extend_from_slice(bytes);
        if !std::mem::replace(&mut state.writing, true) {
            let this = Arc::clone(self);
            tokio::task::spawn_blocking(move || this.write_all());
        }
    }

    fn write_all(&self) {
        while let Some(bytes) = self.next() {
            let result = (&self.file).write_all(&bytes);
            if let Err(error) = result {
                self.state().failed = Some(error.into());
            }
        }
    }

    /// What is to be written next; `None` when that is nothing any more.
    fn next(&self) -> Option<BytesMut> {
        let mut state = self.state();
        let next = match (state.waiting.is_empty(), &state.failed) {
            // With its memory: a body that waits for its guest holds none.
            (false, None) => Some(std::mem::take(&mut state.waiting)),
            _ => {
                state.waiting = BytesMut::new();
                state.writing = false;
                state.flushing = false;
                None
            }
        };
        drop(state);
        self.changed.notify_waiters();
        next
    }

    /// Waits until `done`.
    async fn wait<T>(&self, done: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(result) = done(&self.state()) {
                return result;
            }
            changed.await;
        }
    }

    /// Waits until all bytes are written.
    ///
    /// # Errors
    /// When some could not be.
    pub async fn written(&self) -> Result<(), Refused> {
        self.wait(|state| {
            let failed = state.failed.clone();
            (!state.writing).then(|| failed.map_or(Ok(()), Err))
        })
        .await
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When it has one already, or cannot have it.
    pub fn place(&self, folder: &Folder, name: &str) -> Result<(), Refused> {
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.take().ok_or(Refused::NotThere)?.place(folder, name)
    }
}

/// The stream a guest writes the bytes to.
pub struct Writer {
    body: Arc<Body>,
    /// Bytes that may still be written before it asks again (`wasi:io/streams`, check-write).
    permit: usize,
}

impl Writer {
    /// A stream to `body`.
    pub fn new(body: Arc<Body>) -> Self {
        Self { body, permit: 0 }
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        let room = |state: &State| state.failed.is_some() || room(state) > 0;
        self.body.wait(|state| room(state).then_some(())).await;
    }
}

/// Bytes that may be written now.
fn room(state: &State) -> usize {
    if state.flushing {
        0
    } else {
        WAITING.saturating_sub(state.waiting.len())
    }
}

#[async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let Some(left) = self.permit.checked_sub(bytes.len()) else {
            return Err(StreamError::trap("a write that its check-write did not permit"));
        };
        self.permit = left;
        self.body.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        let mut state = self.body.state();
        state.flushing = state.writing;
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let state = self.body.state();
        if let Some(failed) = &state.failed {
            return Err(StreamError::LastOperationFailed(wasmtime::Error::new(
                failed.clone(),
            )));
        }
        self.permit = room(&state);
        Ok(self.permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_body_that_waits_for_its_guest_holds_no_memory() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let (unfinished, file) = folder.begin().unwrap();
        let body = Body::new(unfinished, file, permit);
        for _ in 0..3 {
            body.push(&[7; WAITING / 2]);
            body.written().await.unwrap();
            assert_eq!(body.state().waiting.capacity(), 0);
        }
        body.place(&folder, "whole").unwrap();
        let length = std::fs::metadata(home.path().join("whole")).unwrap().len();
        assert_eq!(length, 3 * (WAITING / 2) as u64);
    }
}

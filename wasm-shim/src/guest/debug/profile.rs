//! A profile of a container's program: where its guests were when they were looked at, at each epoch.
//!
//! Owns the samples and their bounds. It is written as Firefox's profiler reads it (profiler.firefox.com), when the
//! container ends.

use super::files::Files;
use crate::engine::MAX_BACKTRACE;
use crate::engine::ticker::TICK;
use crate::guest::folder::Refused;
use crate::program::state::State;
use std::io::{BufWriter, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use wasmtime::{GuestProfiler, StoreContextMut, WasmBacktrace};

/// Samples in one profile: with one at each epoch, a minute of computing.
const MAX_SAMPLES: usize = 30_000;

/// Stack frames in all samples together; each may take some fifty bytes of the host's memory.
const MAX_FRAMES: usize = 1_000_000;

struct Recording {
    profiler: GuestProfiler,
    samples: usize,
    frames: usize,
}

/// The profile of one container, of all its instances.
pub struct Profile {
    files: Files,
    recording: Mutex<Option<Recording>>,
    full: AtomicBool,
}

impl Profile {
    /// Nothing is recorded yet.
    pub fn new(profiler: GuestProfiler, files: Files) -> Self {
        Self {
            files,
            recording: Mutex::new(Some(Recording {
                profiler,
                samples: 0,
                frames: 0,
            })),
            full: AtomicBool::new(false),
        }
    }

    /// Notes where a guest is. To be called in the middle of it.
    pub fn sample(&self, guest: &StoreContextMut<'_, State>) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let depth = WasmBacktrace::force_capture(guest).frames().len();
        let mut recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(recording) = recording.as_mut() else {
            return;
        };
        recording.samples += 1;
        recording.frames += depth;
        // How deep a stack is beyond that is not known, and so not what it would take.
        if depth < MAX_BACKTRACE {
            recording.profiler.sample(guest, TICK);
        }
        if recording.samples >= MAX_SAMPLES || recording.frames >= MAX_FRAMES {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Writes what was recorded, the first time it is called. Answers a line for people.
    pub fn finish(&self) -> Option<String> {
        let taken = self
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let recording = taken?;
        let samples = recording.samples;
        let written = self.files.write("profile", "json", |file| {
            let mut file = BufWriter::new(file);
            let finished = recording.profiler.finish(&mut file);
            finished.map_err(|error| Refused::Other(format!("{error:#}")))?;
            Ok(file.flush()?)
        });
        Some(match written {
            Ok(path) => format!("profile: {path} ({samples} samples)"),
            Err(reason) => format!("no profile: {reason}"),
        })
    }
}

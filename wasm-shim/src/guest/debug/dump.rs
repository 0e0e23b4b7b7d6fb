//! Core dumps: the memories, globals and stack of a guest that trapped, in the format of the tool conventions
//! (github.com/WebAssembly/tool-conventions, Coredump.md).
//!
//! Owns when one is written. Locals and operands are not in it: compiled code does not keep them.

use super::files::Files;
use crate::guest::folder::Refused;
use crate::program::state::State;
use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use wasmtime::{HeapType, Store, ValType, WasmCoreDump};

/// Dumps that one container writes in its life: one that traps at every request has shown what it has by then.
const MOST: u32 = 3;

/// Bytes of memories in one dump, which is put together in the host's memory, twice.
const MAX_MEMORY: usize = 128 << 20;

/// One dump at a time in this process.
static TURN: Mutex<()> = Mutex::new(());

/// The dumps of one container.
#[derive(Debug)]
pub struct Dumps {
    files: Files,
    left: AtomicU32,
}

impl Dumps {
    /// None is written yet.
    pub fn new(files: Files) -> Self {
        Self {
            files,
            left: AtomicU32::new(MOST),
        }
    }

    /// Writes the dump that came with a trap. Answers a line for people; `None` when there is no dump to write.
    ///
    /// To be called on a thread of a Pod: its other tasks go on meanwhile.
    pub fn write(&self, error: &wasmtime::Error, store: &mut Store<State>) -> Option<String> {
        let dump = error.downcast_ref::<WasmCoreDump>()?;
        let written = self.one(|| tokio::task::block_in_place(|| self.try_write(dump, store)));
        Some(written.unwrap_or_else(|reason| format!("no core dump: {reason}")))
    }

    /// One of those that are left, which still is if it is not written.
    fn one(&self, write: impl FnOnce() -> Result<String, Refused>) -> Result<String, Refused> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .map_err(|_| Refused::Other(format!("this container has written {MOST} already")))?;
        write().inspect_err(|_| {
            self.left.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn try_write(&self, dump: &WasmCoreDump, store: &mut Store<State>) -> Result<String, Refused> {
        let _turn = turn()?;
        check(dump, store)?;
        let program = store.data().command.args.first().cloned().unwrap_or_default();
        let bytes = dump.serialize(&mut *store, &program);
        let path = self
            .files
            .write("core", "wasm", |mut file| Ok(file.write_all(&bytes)?))?;
        Ok(format!("core dump: {path} ({} bytes)", bytes.len()))
    }
}

/// Is not waited for: a volume that hangs would keep other containers from their end.
fn turn() -> Result<MutexGuard<'static, ()>, Refused> {
    match TURN.try_lock() {
        Ok(turn) => Ok(turn),
        Err(TryLockError::Poisoned(turn)) => Ok(turn.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Refused::Other("another is being written".to_owned())),
    }
}

/// Whether a dump can be put together.
fn check(dump: &WasmCoreDump, store: &Store<State>) -> Result<(), Refused> {
    let memory: usize = dump.memories().iter().map(|memory| memory.data_size(store)).sum();
    if memory > MAX_MEMORY {
        return Err(Refused::Other(format!(
            "the guest has {memory} bytes of memory, more than {MAX_MEMORY}"
        )));
    }
    // wasmtime's own writer knows no others.
    let writable = |ty: &ValType| match ty {
        ValType::Ref(reference) => matches!(
            reference.heap_type().top(),
            HeapType::Extern | HeapType::Func | HeapType::Any
        ),
        _ => true,
    };
    match dump
        .globals()
        .iter()
        .all(|global| writable(global.ty(store).content()))
    {
        true => Ok(()),
        false => Err(Refused::Other(
            "a global is of a type that dumps have not".to_owned(),
        )),
    }
}

/// An error for people: all of it, but not what a core dump that comes with it would say of itself.
pub fn told(error: &wasmtime::Error) -> String {
    if !error.is::<WasmCoreDump>() {
        return format!("{error:?}");
    }
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    causes.join("\n\nCaused by:\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::folder::Folder;
    use std::fs::File;

    #[test]
    fn only_what_is_written_counts() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::new(File::open(home.path()).unwrap().into(), false);
        let dumps = Dumps::new(Files::new(folder, "/found".to_owned()));
        for _ in 0..=MOST {
            let failed = Err(Refused::Other("no space".to_owned()));
            assert_eq!(dumps.one(|| failed.clone()), failed);
        }
        for _ in 0..MOST {
            dumps.one(|| Ok(String::new())).unwrap();
        }
        assert!(dumps.one(|| panic!("one too many")).is_err());
    }

    #[test]
    fn one_that_takes_long_is_not_waited_for() {
        let held = turn().unwrap();
        assert!(turn().is_err());
        drop(held);
        drop(turn().unwrap());
    }
}

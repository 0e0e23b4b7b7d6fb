//! Two functions of `wasi:filesystem` in the place of wasmtime's: those that the kernel refuses from one mount to another.
//!
//! Owns what a guest is told then: `cross-device`, at which programs copy. wasmtime-wasi knows no such error of the kernel's
//! and says `io`; a module of preview 1 is told that still. Refuses to know mounts.

use super::state::State;
use crate::sys;
use std::os::fd::AsFd as _;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{ErrorCode, Host as _, HostDescriptor, PathFlags};

/// The instance as wasmtime-wasi defines it; a guest's own 0.2.x is matched with it.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

/// Defines the functions over those that are there.
///
/// # Errors
/// When they cannot be defined, which would be a defect of this program.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async("[method]descriptor.rename-at", |store, params| {
        Box::new(rename_at(store, params))
    })?;
    types.func_wrap_async("[method]descriptor.link-at", |store, params| {
        Box::new(link_at(store, params))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

type Directory = Resource<Descriptor>;
type Done = wasmtime::Result<(Result<(), ErrorCode>,)>;

async fn rename_at(
    mut store: StoreContextMut<'_, State>,
    (from, old, to, new): (Directory, String, Directory, String),
) -> Done {
    let state = store.data_mut();
    let (source, target) = (same(&from), same(&to));
    let done = state.filesystem().rename_at(source, old, target, new).await;
    told(state, done, &from, &to)
}

async fn link_at(
    mut store: StoreContextMut<'_, State>,
    (from, flags, old, to, new): (Directory, PathFlags, String, Directory, String),
) -> Done {
    let state = store.data_mut();
    let (source, target) = (same(&from), same(&to));
    let done = state.filesystem().link_at(source, flags, old, target, new).await;
    told(state, done, &from, &to)
}

/// The same handle, borrowed.
fn same(handle: &Directory) -> Directory {
    Resource::new_borrow(handle.rep())
}

fn told(state: &mut State, done: FsResult<()>, from: &Directory, to: &Directory) -> Done {
    let Err(error) = done else { return Ok((Ok(()),)) };
    let code = state.filesystem().convert_error_code(error)?;
    match code {
        ErrorCode::Io if mount(state, from) != mount(state, to) => Ok((Err(ErrorCode::CrossDevice),)),
        other => Ok((Err(other),)),
    }
}

/// The mount through which a directory is seen, as far as that is known.
fn mount(state: &mut State, directory: &Directory) -> Option<u64> {
    match state.table().get(&same(directory)) {
        Ok(Descriptor::Dir(directory)) => sys::mount_of(directory.dir.as_fd()).ok().flatten(),
        _ => None,
    }
}

//! Two functions of `wasi:filesystem` in the place of wasmtime's: those that the kernel refuses from one mount to another.
//!
//! Owns what a guest is told then: `cross-device`, at which programs copy. wasmtime-wasi knows no such error of the kernel's
//! and says `io`; a module of preview 1 is told that still. Refuses to know mounts.

use super::state::State;
use crate::sys;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
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
    let names = (old.clone(), new.clone());
    let done = state.filesystem().rename_at(source, old, target, new).await;
    told(state, done, (&from, &names.0), (&to, &names.1))
}

async fn link_at(
    mut store: StoreContextMut<'_, State>,
    (from, flags, old, to, new): (Directory, PathFlags, String, Directory, String),
) -> Done {
    let state = store.data_mut();
    let (source, target) = (same(&from), same(&to));
    let names = (old.clone(), new.clone());
    let done = state.filesystem().link_at(source, flags, old, target, new).await;
    told(state, done, (&from, &names.0), (&to, &names.1))
}

/// The same handle, borrowed.
fn same(handle: &Directory) -> Directory {
    Resource::new_borrow(handle.rep())
}

/// A directory, and a name below it.
type Place<'a> = (&'a Directory, &'a str);

fn told(state: &mut State, done: FsResult<()>, from: Place<'_>, to: Place<'_>) -> Done {
    let Err(error) = done else { return Ok((Ok(()),)) };
    let code = state.filesystem().convert_error_code(error)?;
    match code {
        ErrorCode::Io if mount(state, from) != mount(state, to) => Ok((Err(ErrorCode::CrossDevice),)),
        other => Ok((Err(other),)),
    }
}

/// The mount in which a place is, as far as that is known.
fn mount(state: &mut State, (directory, name): Place<'_>) -> Option<u64> {
    match state.table().get(&same(directory)) {
        Ok(Descriptor::Dir(directory)) => mount_above(directory.dir.as_fd(), name),
        _ => None,
    }
}

/// An image's root has mounts in it: what counts is the directory that a name is in.
fn mount_above(directory: BorrowedFd<'_>, name: &str) -> Option<u64> {
    let above = Path::new(name)
        .parent()
        .filter(|path| !path.as_os_str().is_empty());
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH);
    let above = openat2(directory, above.unwrap_or(Path::new(".")), how).ok()?;
    sys::mount_of(above.as_fd()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_that_of_the_directory_a_name_is_in() {
        let root = std::fs::File::open("/").unwrap();
        let at = |name| mount_above(root.as_fd(), name);
        assert_eq!(at("proc"), at("none"));
        assert!(at("proc/self").is_some());
        assert_ne!(at("proc/self"), at("none"));
        assert_eq!(at("none/x"), None);
    }
}

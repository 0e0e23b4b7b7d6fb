//! Compiled code that belongs to no image of the store: of modules in the files of Linux images, of commands that users ran, of
//! images that are gone. Refuses to know what is compiled, and how.

use std::collections::HashSet;
use std::fs::{self, DirEntry};
use std::time::{Duration, SystemTime};

use super::content::Layout;
use super::error::StoreError;

/// Code is there for a moment before whoever had it made has opened it.
pub const A_MOMENT: Duration = Duration::from_secs(600);

/// Removes what nobody has opened within `idle` (wasm-shim sets the time of what it opens). Who runs it has it mapped.
pub fn expire(layout: &Layout, idle: Duration) -> Result<(), StoreError> {
    let images = layout.images()?;
    let modules = images.iter().filter_map(|image| image.module.as_ref());
    let owned: HashSet<String> = modules.map(|module| format!("{}.cwasm", module.hex())).collect();
    let cache = layout.wasm_cache();
    for engine in fs::read_dir(&cache).map_err(StoreError::io("list", &cache))? {
        let engine = engine.map_err(StoreError::io("list", &cache))?.path();
        if !engine.is_dir() {
            continue;
        }
        for file in fs::read_dir(&engine).map_err(StoreError::io("list", &engine))? {
            let file = file.map_err(StoreError::io("list", &engine))?;
            let is_owned = file.file_name().to_str().is_some_and(|name| owned.contains(name));
            if !is_owned && is_idle(&file, idle) {
                fs::remove_file(file.path()).map_err(StoreError::io("remove", &file.path()))?;
            }
        }
    }
    Ok(())
}

fn is_idle(file: &DirEntry, idle: Duration) -> bool {
    let opened = file.metadata().and_then(|found| found.modified());
    // One of tomorrow is of a clock that was wrong; it waits.
    opened.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= idle))
}

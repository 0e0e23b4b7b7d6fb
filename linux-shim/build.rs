//! Tells the library which sources it is made from, so that two programs can tell whether they are of one build; and has
//! the programs linked so that they start soon.

mod link;

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// What the shim and its contract with the agent are made from.
const SOURCES: [&str; 3] = ["src", "../node/shim-api/src", "../go-values/src"];

fn main() -> io::Result<()> {
    let mut files = BTreeSet::new();
    for directory in SOURCES {
        println!("cargo:rerun-if-changed={directory}");
        collect(Path::new(directory), &mut files)?;
    }
    let mut hash = DefaultHasher::new();
    for file in files {
        file.hash(&mut hash);
        fs::read(&file)?.hash(&mut hash);
    }
    println!("cargo:rustc-env=AMPHIPOD_SOURCES={:016x}", hash.finish());
    println!("cargo:rerun-if-changed=link.rs");
    link::options();
    Ok(())
}

fn collect(directory: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.insert(entry.path());
        }
    }
    Ok(())
}

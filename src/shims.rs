//! Which programs a node runs as its shims.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use amphipod_node::NodeOptions;
use anyhow::{Context, Result};
use nix::unistd::{AccessFlags, access};

/// The shim as a program of its own, beside this one.
const LINUX_SHIM: &str = "amphipod-linux-shim";

/// This program's own subcommand.
pub fn own(word: &str) -> Result<Vec<OsString>> {
    NodeOptions::own_shim(word).with_context(|| format!("finding this program to run its {word}"))
}

/// The small program beside this one where it is of the same build, else this program's own subcommand: it does the
/// same and takes 2.5 MiB more per Pod.
pub fn linux() -> Result<Vec<OsString>> {
    let own = own("linux-shim")?;
    let beside = own
        .first()
        .map(|program| Path::new(program).with_file_name(LINUX_SHIM));
    Ok(
        match beside.filter(|beside| is_same_build(beside) && can_be_executed(beside)) {
            Some(beside) => vec![beside.into_os_string()],
            None => own,
        },
    )
}

/// Whether a program is a shim made from the sources this program's is made from.
fn is_same_build(shim: &Path) -> bool {
    match File::open(shim).and_then(|file| amphipod_linux_shim::is_same_build(&file)) {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!(?shim, "not used: it is of another build than this program");
            false
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(?shim, %error, "not used: it cannot be read");
            false
        }
    }
}

/// Not where its mode or its mount forbids it.
fn can_be_executed(shim: &Path) -> bool {
    access(shim, AccessFlags::X_OK)
        .inspect_err(|error| tracing::warn!(?shim, %error, "not used: it cannot be executed"))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shim_of_the_same_build_is_preferred() {
        let home = tempfile::tempdir().unwrap();
        let shim = home.path().join(LINUX_SHIM);
        assert!(!is_same_build(&shim), "nothing is there");
        std::fs::write(
            &shim,
            format!("#!/bin/sh\necho '{}'\n", amphipod_linux_shim::BUILD),
        )
        .unwrap();
        assert!(!is_same_build(&shim), "what only says so is none");
        // These tests are of the same sources too.
        std::fs::copy(std::env::current_exe().unwrap(), &shim).unwrap();
        assert!(is_same_build(&shim));
    }

    #[test]
    fn a_shim_that_cannot_be_executed_is_not_preferred() {
        let shim = tempfile::NamedTempFile::new().unwrap();
        assert!(!can_be_executed(shim.path()), "its mode");
        assert!(can_be_executed(&std::env::current_exe().unwrap()));
    }
}

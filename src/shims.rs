//! Which programs a node runs as its shims.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use amphipod_node::NodeOptions;
use anyhow::{Context, Result};

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
    Ok(match beside.filter(|beside| is_same_build(beside)) {
        Some(beside) => vec![beside.into_os_string()],
        None => own,
    })
}

/// Whether a program is a shim made from the sources this program's is made from.
fn is_same_build(shim: &Path) -> bool {
    match Command::new(shim).arg("-v").output() {
        Ok(said) if said.stdout.trim_ascii() == amphipod_linux_shim::BUILD.as_bytes() => true,
        Ok(_) => {
            tracing::warn!(?shim, "not used: it is of another build than this program");
            false
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(?shim, %error, "not used: it cannot be run");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_shim_of_the_same_build_is_preferred() {
        let home = tempfile::tempdir().unwrap();
        let shim = home.path().join(LINUX_SHIM);
        assert!(!is_same_build(&shim), "nothing is there");
        let say = |text: &str| {
            std::fs::write(&shim, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
            std::fs::set_permissions(&shim, std::fs::Permissions::from_mode(0o755)).unwrap();
            is_same_build(&shim)
        };
        assert!(say(amphipod_linux_shim::BUILD));
        assert!(!say("0.0.1+0123456789abcdef"));
        assert!(!say(""));
    }
}

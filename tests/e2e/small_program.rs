//! `amphipod linux-shim oci`: which program does what is asked. Only where programs carry their C library (`linux-shim/src/sys/small.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{AMPHIPOD, is_root};

/// A directory with `amphipod`, and beside it what is said to be the small program.
struct Programs(tempfile::TempDir);

impl Programs {
    /// What lies beside is `amphipod` again: it has no command `oci`, so it is seen which of the two was asked. Links, as a file that
    /// was just written may still be open in what another test is starting, and cannot be executed then.
    fn new() -> Self {
        let dir =
            tempfile::tempdir_in(Path::new(AMPHIPOD).parent().expect("a directory")).expect("a directory");
        for name in ["amphipod", "amphipod-linux-shim"] {
            fs::hard_link(AMPHIPOD, dir.path().join(name)).expect("a link");
        }
        Self(dir)
    }

    fn beside(&self) -> PathBuf {
        self.0.path().join("amphipod-linux-shim")
    }

    fn says_its_version(&self) -> bool {
        let words = ["linux-shim", "oci", "--version"];
        let output = Command::new(self.0.path().join("amphipod")).args(words).output();
        let output = output.expect("the program runs");
        output.status.success() && output.stdout.starts_with(b"amphipod-oci version")
    }
}

/// Another file, as if made of other sources.
fn change_the_build(program: &Path) {
    let mut bytes = fs::read(program).expect("the program");
    fs::remove_file(program).expect("a link");
    let name = b"Amphipod\0\0\0\0";
    let at = bytes.windows(name.len()).position(|part| part == name);
    bytes[at.expect("a note") + name.len()] ^= 1;
    fs::write(program, bytes).expect("the program");
}

#[test]
fn a_program_of_the_same_build_is_become_and_no_other() {
    if !is_root("small_program") {
        return;
    }
    let programs = Programs::new();
    assert!(!programs.says_its_version(), "it became the one beside it");
    change_the_build(&programs.beside());
    assert!(programs.says_its_version(), "of another build");
    fs::write(programs.beside(), "#!/bin/sh\n").expect("a script");
    assert!(programs.says_its_version(), "no program");
    fs::remove_file(programs.beside()).expect("it is there");
    assert!(programs.says_its_version(), "nothing there");
}

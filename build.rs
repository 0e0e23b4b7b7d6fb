//! Has the relocations of the programs packed (`DT_RELR`): unpacked, 350,000 of them are 8 MiB which the loader reads whenever the
//! program starts, as a command line too, and which stay in its memory. Only where the C library understands them.

use std::env;
use std::process::Command;

/// The first glibc whose loader reads `DT_RELR` (its NEWS, 2.36).
const UNDERSTOOD_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // What another machine has is not known here.
    let is_for_here = env::var("HOST").is_ok() && env::var("HOST") == env::var("TARGET");
    if is_for_here && glibc().is_some_and(|version| version >= UNDERSTOOD_SINCE) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// This machine's glibc, as `getconf` has it: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

//! Part of build scripts: what the linker is told for the programs of this package and of `amphipod`, whose starts are counted in
//! tenths of a millisecond. Refuses to know what is linked.

use std::env;
use std::process::Command;

/// The first glibc that reads `DT_RELR` (its NEWS, 2.36).
const RELR_SINCE: (u32, u32) = (2, 36);

pub fn options() {
    if is_for_here() && glibc().is_some_and(|version| version >= RELR_SINCE) {
        // Unpacked, the 120,000 relocations of `amphipod` are 3 MiB to be read whenever it starts.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if has_entry() {
        println!("cargo:rustc-link-arg-bins=-Wl,-e,amphipod_start");
    }
}

/// What another machine has is not known here.
fn is_for_here() -> bool {
    env::var("HOST").is_ok() && env::var("HOST") == env::var("TARGET")
}

/// This machine's glibc, as `getconf` has it: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether `src/sys/entry.rs` is part of the library: by the same conditions as there.
fn has_entry() -> bool {
    let has =
        |name: &str, wanted: &str| env::var(name).is_ok_and(|all| all.split(',').any(|one| one == wanted));
    has("CARGO_CFG_TARGET_ARCH", "x86_64")
        && has("CARGO_CFG_TARGET_ENV", "gnu")
        && has("CARGO_CFG_TARGET_FEATURE", "crt-static")
}

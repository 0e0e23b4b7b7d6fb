//! The only place with `unsafe`: system calls no kept crate wraps. Each wrapper takes and gives safe types.
#![allow(unsafe_code)]

pub mod bpf;
pub mod clone;
#[cfg(all(target_arch = "x86_64", target_env = "gnu", target_feature = "crt-static"))]
mod entry;
pub mod mark;
pub mod mount;
pub mod names;
pub mod process;
pub mod scheduling;
#[cfg(all(target_arch = "x86_64", target_env = "gnu", target_feature = "crt-static"))]
mod small;
pub mod socket;

use std::io;

/// Turns a raw result into the errno it carries.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

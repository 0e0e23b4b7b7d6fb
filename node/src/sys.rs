//! The node's only unsafe code. Owns system interfaces no crate offers safely; knows nothing of their use.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets a task wait until a descriptor can be read. Must be called within a tokio runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is closed only when it is dropped, which the AsyncFd that owns it does
    // last, and always names the same descriptor.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

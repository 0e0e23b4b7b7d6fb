//! Network devices of the host given to a container (`linux.netDevices`): moved into its network namespace, renamed, with
//! the addresses they had, and up if they were.
//!
//! Owns the order of it. Refuses to know when, and how the kernel is asked (see [`crate::route`]).

use std::fs::File;
use std::io;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::route::Route;
use crate::sys::clone::{CloneError, SingleThread, spawn};

/// A device by its name on the host, and its name in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    pub name: String,
    pub renamed: String,
}

/// Why a device was not given.
#[derive(Debug, thiserror::Error)]
pub enum NetDeviceError {
    #[error("cannot make a process to move network devices: {0}")]
    Clone(#[from] CloneError),
    #[error("cannot wait for the process that moves network devices: {0}")]
    Wait(nix::errno::Errno),
    #[error("cannot move a network device: {0}")]
    Move(String),
}

/// `IFNAMSIZ` without the NUL (linux/if.h).
const NAME_LIMIT: usize = 15;
/// Whether the kernel takes this as the name of a device (`dev_valid_name`).
pub fn is_name(name: &str) -> bool {
    let plain = |c: char| !(c == '/' || c == ':' || c.is_whitespace());
    (1..=NAME_LIMIT).contains(&name.len()) && name != "." && name != ".." && name.chars().all(plain)
}

/// Gives the devices to the network namespace of a process. A child does it: it goes there, and does not come back.
pub fn give(devices: &[NetDevice], to: Pid) -> Result<(), NetDeviceError> {
    if devices.is_empty() {
        return Ok(());
    }
    let (ours, theirs) =
        std::os::unix::net::UnixStream::pair().map_err(|e| NetDeviceError::Move(e.to_string()))?;
    let single = SingleThread::check()?;
    let child = spawn(&single, 0, None, |_| match move_all(devices, to) {
        Ok(()) => 0,
        // The parent says that it failed, if it cannot be told of what.
        Err(text) => io::Write::write_all(&mut &theirs, text.as_bytes()).map_or(2, |()| 1),
    })?;
    drop(theirs);
    let ended = waitpid(child, None).map_err(NetDeviceError::Wait)?;
    if ended == WaitStatus::Exited(child, 0) {
        return Ok(());
    }
    let mut text = String::new();
    let read = io::Read::read_to_string(&mut &ours, &mut text);
    Err(NetDeviceError::Move(match read {
        Ok(_) if !text.is_empty() => text,
        _ => format!("{ended:?}"),
    }))
}

fn move_all(devices: &[NetDevice], to: Pid) -> Result<(), String> {
    let step = |what: &str, name: &str, error: io::Error| format!("{what} {name:?}: {error}");
    let there =
        File::open(format!("/proc/{to}/ns/net")).map_err(|e| step("open the namespace of", "it", e))?;
    let host = Route::open().map_err(|e| step("ask for", "rtnetlink", e))?;
    let mut moved = Vec::new();
    for device in devices {
        let fail = |error| step("device", &device.name, error);
        let index = if_nametoindex(device.name.as_str()).map_err(|e| fail(e.into()))?;
        let up = host.is_up(index).map_err(fail)?;
        let addresses = host.addresses(index).map_err(fail)?;
        host.move_to(index, &there, &device.renamed).map_err(fail)?;
        moved.push((device, up, addresses));
    }
    setns(&there, CloneFlags::CLONE_NEWNET).map_err(|e| step("enter the namespace of", "it", e.into()))?;
    let container = Route::open().map_err(|e| step("ask for", "rtnetlink", e))?;
    for (device, up, addresses) in moved {
        let fail = |error| step("device", &device.renamed, error);
        let index = if_nametoindex(device.renamed.as_str()).map_err(|e| fail(e.into()))?;
        for address in &addresses {
            container.add(index, address).map_err(fail)?;
        }
        if up {
            container.bring_up(index).map_err(fail)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_the_kernel_takes() {
        for good in ["eth0", "a", "fifteen-letters"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters!"] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}

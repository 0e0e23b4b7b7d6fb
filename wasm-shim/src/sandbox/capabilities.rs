//! Capabilities (capabilities(7)): of a thread, each has its own.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// What guests of root are served with, as far as their container has it: files of volumes belong to anybody, and ports may be
/// low. Landlock says which files.
pub const OF_GUESTS: [Capability; 3] = [
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_NET_BIND_SERVICE,
];

/// What the service needs: others' networks and mounts of its own, files of anybody, priorities and limits of its threads.
pub const OF_SERVICE: &[Capability] = &[
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_NICE,
    Capability::CAP_SYS_RESOURCE,
];

/// What the nursery has beside, for guests' threads to become their users.
pub const OF_NURSERY: &[Capability] = &[Capability::CAP_SETGID, Capability::CAP_SETUID];

/// Gives up all capabilities but `kept`, as far as they are there.
///
/// # Errors
/// As `capset(2)`.
pub fn keep_only(kept: &[Capability]) -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = kept
        .iter()
        .copied()
        .filter(|one| permitted.contains(one))
        .collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)
}

/// Whether the calling thread has the capability that opens other namespaces.
pub fn can_administer() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false)
}

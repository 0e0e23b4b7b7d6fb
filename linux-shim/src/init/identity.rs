//! Who the container's process is: limits, user, groups, capabilities, privileges.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};

use super::channel::ChildEnd;
use super::error::{During, InitError};
use super::warn::Warnings;
use crate::id_map::IdMaps;
use crate::seccomp::Filter;
use crate::sys::process::install_filter;

/// The five sets, as config.json gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub bounding: CapsHashSet,
    pub effective: CapsHashSet,
    pub permitted: CapsHashSet,
    pub inheritable: CapsHashSet,
    pub ambient: CapsHashSet,
}

/// Everything about the process's identity.
#[derive(Debug, Clone)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The groups are those of whoever runs this, which a user may need to reach his own files.
    pub keeps_groups: bool,
    pub umask: u32,
    pub capabilities: Capabilities,
    pub no_new_privileges: bool,
    pub rlimits: Vec<(Resource, u64, u64)>,
    pub oom_score_adj: Option<i32>,
    /// Compiled filters, in the order they are to be installed.
    pub seccomp: Vec<Filter>,
}

/// Limits that need privileges the host may have taken from us: then they stay, and that is said.
pub fn set_rlimits(identity: &Identity, warnings: &mut Warnings) -> Result<(), InitError> {
    for (resource, soft, hard) in &identity.rlimits {
        match setrlimit(*resource, *soft, *hard) {
            Ok(()) => {}
            Err(nix::errno::Errno::EPERM) => {
                warnings.add(format!(
                    "{resource:?} stays as it is: this host does not allow raising it"
                ));
            }
            Err(errno) => return Err(errno).during(|| format!("set {resource:?} to {soft}:{hard}")),
        }
    }
    Ok(())
}

/// Done while the host's procfs is there: the container's own may be read-only or absent.
pub fn set_oom_score(score: Option<i32>, warnings: &mut Warnings) -> Result<(), InitError> {
    let Some(score) = score else { return Ok(()) };
    match in_sight(|| fs::write("/proc/self/oom_score_adj", score.to_string())) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied) => {
            warnings.add(format!(
                "oom_score_adj stays as it is: this host does not allow {score}"
            ));
            Ok(())
        }
        other => other.during(|| format!("set oom_score_adj to {score}")),
    }
}

/// Does what needs the files of this process in `/proc`. As long as it hides from others they are root's, which an
/// ordinary user, or root of a user namespace, is not: if it fails for that, it is done again in sight. To be called
/// only before a namespace of others is joined.
pub fn in_sight<T>(work: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            nix::sys::prctl::set_dumpable(true)?;
            let done = work();
            nix::sys::prctl::set_dumpable(false)?;
            done
        }
        done => done,
    }
}

/// Lets the user open its standard streams by name (`/dev/stdout`).
pub fn own_streams(identity: &Identity, streams: &[BorrowedFd<'_>]) {
    give(streams, identity.uid);
}

/// As [`own_streams`] for the user of a user namespace, who can be given what is the host's only from outside of it.
pub fn give_streams(identity: &Identity, maps: &IdMaps, streams: &[BorrowedFd<'_>]) {
    if let Some(uid) = maps.user_outside(identity.uid) {
        give(streams, uid);
    }
}

fn give(streams: &[BorrowedFd<'_>], uid: u32) {
    for stream in streams.iter().filter(|s| !is_hosts_device(**s)) {
        // Files that belong to others stay theirs: a stream is of use without being owned.
        let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

/// `/dev/null` and its like are everybody's; only a terminal is somebody's own.
fn is_hosts_device(stream: BorrowedFd<'_>) -> bool {
    let kind = fstat(stream).map(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT);
    kind == Ok(SFlag::S_IFCHR) && !std::io::IsTerminal::is_terminal(&stream)
}

/// Becomes the user. Filters come later: [`install_filters_with_listener`], [`install_late_filters`].
pub fn become_user(identity: &Identity, warnings: &mut Warnings) -> Result<(), InitError> {
    drop_bounding(&identity.capabilities.bounding)?;
    nix::sys::prctl::set_keepcaps(true).during(|| "keep capabilities across the change of user".into())?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if !identity.keeps_groups {
        set_groups(&identity.groups)?;
    }
    setresgid(gid, gid, gid).during(|| format!("become group {gid}"))?;
    setresuid(uid, uid, uid).during(|| format!("become user {uid}"))?;
    nix::sys::prctl::set_keepcaps(false).during(|| "let go of capabilities".into())?;
    set_capabilities(&identity.capabilities, identity.keeps_admin(), warnings)?;
    if identity.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().during(|| "set no_new_privs".into())?;
    }
    Ok(())
}

fn set_groups(numbers: &[u32]) -> Result<(), InitError> {
    let groups: Vec<Gid> = numbers.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        Err(nix::errno::Errno::EPERM) if groups.is_empty() && may_set_groups() => Ok(()),
        done => done.during(|| format!("set additional groups {numbers:?}")),
    }
}

/// With the capability, the kernel refuses to set groups only where that is denied to a whole user namespace, because
/// just one's own id is mapped.
fn may_set_groups() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_SETGID).unwrap_or(false)
}

impl Capabilities {
    /// What the kernel refuses whatever it lets one have (capabilities(7)) is the configuration's own mistake, for which every
    /// runtime ends in the kernel's refusal.
    fn fit_together(&self) -> Result<(), InitError> {
        within(&self.effective, &self.permitted, "effective, but not permitted")?;
        within(
            &self.inheritable,
            &self.bounding,
            "inheritable, but not in the bounding set",
        )
    }
}

fn within(set: &CapsHashSet, limit: &CapsHashSet, what: &str) -> Result<(), InitError> {
    let mut beyond: Vec<String> = set.difference(limit).map(ToString::to_string).collect();
    beyond.sort();
    match beyond.is_empty() {
        true => Ok(()),
        false => Err(nix::errno::Errno::EPERM)
            .during(|| format!("unable to apply caps ({what}: {})", beyond.join(", "))),
    }
}

impl Identity {
    fn filters_are_late(&self) -> bool {
        !self.seccomp.iter().any(Filter::notifies)
    }

    /// Without `no_new_privs` a filter needs CAP_SYS_ADMIN. Until it is installed the process has that, which nobody
    /// else can use: it runs nothing of the container's, and cannot be traced from there, being not dumpable.
    fn keeps_admin(&self) -> bool {
        !self.no_new_privileges && !self.seccomp.is_empty()
    }
}

/// Installs the filters that nothing but the program is to be under.
pub fn install_late_filters(identity: &Identity) -> Result<(), InitError> {
    if !identity.filters_are_late() {
        return Ok(());
    }
    identity
        .seccomp
        .iter()
        .try_for_each(|filter| install(filter).map(drop))?;
    if identity.keeps_admin() {
        let_go_of_admin(&identity.capabilities)?;
    }
    Ok(())
}

fn let_go_of_admin(wanted: &Capabilities) -> Result<(), InitError> {
    let sets = [
        (CapSet::Effective, &wanted.effective),
        (CapSet::Permitted, &wanted.permitted),
    ];
    for (set, _) in sets
        .iter()
        .filter(|(_, w)| !w.contains(&Capability::CAP_SYS_ADMIN))
    {
        caps::drop(None, *set, Capability::CAP_SYS_ADMIN)
            .map_err(|e| failed("let go of CAP_SYS_ADMIN", &e))?;
    }
    Ok(())
}

/// A listener must have its descriptor before the program runs, and a call it is asked about waits for its answer:
/// filters with one come when there is nothing left to do but to wait for the word and to execute.
pub fn install_filters_with_listener(identity: &Identity, channel: &ChildEnd) -> Result<(), InitError> {
    if identity.filters_are_late() {
        return Ok(());
    }
    for filter in &identity.seccomp {
        if let Some(listener) = install(filter)? {
            channel
                .listener(listener.as_fd())
                .during(|| "hand the seccomp listener on".into())?;
        }
    }
    if identity.keeps_admin() {
        let_go_of_admin(&identity.capabilities)?;
    }
    Ok(())
}

fn install(filter: &Filter) -> Result<Option<OwnedFd>, InitError> {
    install_filter(&filter.program, filter.flags).during(|| "install the seccomp filter".into())
}

fn failed(step: &str, error: &caps::errors::CapsError) -> InitError {
    InitError::Step {
        step: step.into(),
        source: io::Error::other(error.to_string()),
    }
}

fn drop_bounding(keep: &CapsHashSet) -> Result<(), InitError> {
    for capability in caps::runtime::thread_all_supported().difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability)
            .map_err(|e| failed(&format!("drop {capability} for good"), &e))?;
    }
    Ok(())
}

/// Sets what can be had of the sets, and says what cannot.
fn set_capabilities(
    wanted: &Capabilities,
    with_admin: bool,
    warnings: &mut Warnings,
) -> Result<(), InitError> {
    wanted.fit_together()?;
    let own = |set| caps::read(None, set).map_err(|e| failed("read own capabilities", &e));
    let held = own(CapSet::Permitted)?;
    let (given, said) = grantable(wanted, &held, &own(CapSet::Bounding)?);
    said.into_iter().for_each(|text| warnings.add(text));
    let admin =
        (with_admin && held.contains(&Capability::CAP_SYS_ADMIN)).then_some(Capability::CAP_SYS_ADMIN);
    let for_now = |set: &CapsHashSet| set.iter().copied().chain(admin).collect::<CapsHashSet>();
    // Effective must fit into permitted at every moment: it is emptied first and filled last.
    let steps = [
        (CapSet::Effective, CapsHashSet::new()),
        (CapSet::Inheritable, given.inheritable),
        (CapSet::Permitted, for_now(&given.permitted)),
        (CapSet::Effective, for_now(&given.effective)),
    ];
    for (set, value) in &steps {
        caps::set(None, *set, value).map_err(|e| failed(&format!("set {set:?} capabilities"), &e))?;
    }
    caps::clear(None, CapSet::Ambient).map_err(|e| failed("clear ambient capabilities", &e))?;
    for capability in given.ambient {
        caps::raise(None, CapSet::Ambient, capability)
            .map_err(|e| failed(&format!("raise {capability} to ambient"), &e))?;
    }
    Ok(())
}

/// Which of the capabilities the kernel lets a process have that holds these, and within this bounding set (capabilities(7)),
/// and what is to be said of the others. What cannot be granted (in a container, on a trimmed host) is to be a warning (OCI
/// runtime-spec, "Linux Process").
fn grantable(
    wanted: &Capabilities,
    held: &CapsHashSet,
    bounding: &CapsHashSet,
) -> (Capabilities, Vec<String>) {
    let mut said = Vec::new();
    let mut limited = |set: &CapsHashSet, limit: &CapsHashSet, why: &str| {
        let mut missing: Vec<String> = set.difference(limit).map(ToString::to_string).collect();
        missing.sort();
        if !missing.is_empty() {
            said.push(format!("{why}: {}", missing.join(", ")));
        }
        set.intersection(limit).copied().collect::<CapsHashSet>()
    };
    let asked = wanted.permitted.union(&wanted.inheritable).copied().collect();
    let has = limited(&asked, held, "not given, because the shim has them not itself");
    let held_of = |set: &CapsHashSet| set.intersection(&has).copied().collect::<CapsHashSet>();
    let inheritable = limited(
        &held_of(&wanted.inheritable),
        bounding,
        "not inheritable, because not in the bounding set",
    );
    let permitted = held_of(&wanted.permitted);
    let both = permitted.intersection(&inheritable).copied().collect();
    let ambient = limited(
        &wanted.ambient,
        &both,
        "not ambient, because not both permitted and inheritable",
    );
    let given = Capabilities {
        bounding: wanted.bounding.clone(),
        effective: held_of(&wanted.effective),
        permitted,
        inheritable,
        ambient,
    };
    (given, said)
}

/// `HOME` for a user without one in its environment: its entry in the container's passwd, or `/`.
pub fn home_of(uid: u32) -> String {
    let passwd = read_small(Path::new("/etc/passwd")).unwrap_or_default();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(|home| (*home).to_owned()))?
    });
    entry
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".into())
}

/// A passwd file of an image is not ours: a device or an endless file must not hold the start up.
const PASSWD_LIMIT: u64 = 1 << 20;

fn read_small(path: &Path) -> io::Result<String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(PASSWD_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOWN: Capability = Capability::CAP_CHOWN;
    const FOWNER: Capability = Capability::CAP_FOWNER;
    const KILL: Capability = Capability::CAP_KILL;

    #[test]
    fn ambient_is_what_is_permitted_and_inheritable() {
        let all: CapsHashSet = [CHOWN, FOWNER, KILL].into();
        let wanted = Capabilities {
            permitted: [CHOWN, KILL].into(),
            inheritable: [CHOWN, FOWNER].into(),
            ambient: all.clone(),
            ..Default::default()
        };
        let (given, said) = grantable(&wanted, &all, &all);
        assert_eq!(given.ambient, [CHOWN].into());
        assert_eq!(
            said,
            ["not ambient, because not both permitted and inheritable: CAP_FOWNER, CAP_KILL"]
        );
    }

    #[test]
    fn what_this_host_has_not_is_said() {
        let wanted = Capabilities {
            bounding: [CHOWN, KILL].into(),
            effective: [CHOWN].into(),
            permitted: [CHOWN, KILL].into(),
            inheritable: [CHOWN, KILL].into(),
            ambient: [CHOWN, KILL].into(),
        };
        let (given, said) = grantable(&wanted, &[CHOWN, KILL].into(), &[CHOWN].into());
        let fitting = Capabilities {
            inheritable: [CHOWN].into(),
            ambient: [CHOWN].into(),
            ..wanted.clone()
        };
        assert_eq!((given, said.len()), (fitting, 2), "{said:?}");
        let (given, said) = grantable(&wanted, &CapsHashSet::new(), &CapsHashSet::new());
        let nothing = Capabilities {
            bounding: wanted.bounding.clone(),
            ..Default::default()
        };
        assert_eq!(given, nothing);
        assert!(
            said.iter().any(|text| text.contains("CAP_CHOWN, CAP_KILL")),
            "{said:?}"
        );
    }

    #[test]
    fn sets_that_do_not_fit_together_are_refused() {
        let sets =
            |bounding: &[Capability], effective: &[Capability], inheritable: &[Capability]| Capabilities {
                bounding: bounding.iter().copied().collect(),
                effective: effective.iter().copied().collect(),
                permitted: [CHOWN].into(),
                inheritable: inheritable.iter().copied().collect(),
                ambient: [KILL].into(),
            };
        let table = [
            (sets(&[CHOWN], &[CHOWN], &[CHOWN]), ""),
            (sets(&[], &[CHOWN], &[]), ""),
            (
                sets(&[], &[CHOWN], &[CHOWN]),
                "inheritable, but not in the bounding set: CAP_CHOWN",
            ),
            (
                sets(&[CHOWN], &[CHOWN, FOWNER], &[]),
                "effective, but not permitted: CAP_FOWNER",
            ),
        ];
        for (wanted, said) in table {
            let answer = wanted
                .fit_together()
                .map_err(|e| e.to_string())
                .err()
                .unwrap_or_default();
            assert_eq!(answer.contains("not permitted"), !said.is_empty(), "{answer}");
            assert!(answer.contains(said), "{answer}");
        }
    }
}

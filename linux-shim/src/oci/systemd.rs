//! systemd as the manager of cgroups (`--systemd-cgroup`): a container is a transient scope, its limits are properties of
//! the scope, and what is below it is ours (`Delegate=`, systemd.scope(5)).
//!
//! A scope begins with a process. `systemd-run` asks for one with itself in it, waits until it is there, and becomes what
//! it is told: a program that says so, and waits until the container's own process is beside it. So nothing here
//! speaks D-Bus, and the path of the cgroup is what the kernel says of that process.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use amphipod_shim_api::cgroup::{Limits, properties};

use super::Call;
use crate::rootless::Standing;

/// There while systemd is the first process of the host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Who says that the scope is there and keeps it until its input ends.
const KEEPER: [&str; 3] = ["/bin/sh", "-c", "echo; exec cat"];
/// What systemd says of a unit it does not know.
const ABSENT: &str = "not-found";
/// What systemd says of a failure is no longer than this.
const SAID_LIMIT: u64 = 4096;

/// Why systemd did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    #[error("systemd is to manage the container's cgroup, but it does not run this host")]
    Absent,
    #[error("cgroupsPath {0:?} is not of the form slice:prefix:name, as systemd's cgroups need it")]
    Path(String),
    #[error("cannot run {program}: {source}")]
    Run {
        program: &'static str,
        source: io::Error,
    },
    #[error("{program}: {said}")]
    Refused { program: &'static str, said: String },
    #[error("systemd has a unit {0:?} already")]
    Taken(String),
    #[error("systemd told of a scope whose cgroup is not to be found")]
    NoCgroup,
    #[error(
        "you may not move processes from your own cgroup to those of your systemd; run this below it \
         (systemd-run --user --scope …)"
    )]
    Outside,
}

/// True where systemd can be the manager.
pub fn is_running() -> bool {
    Path::new(BOOTED).is_dir()
}

/// A unit asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Nothing leaves systemd's own choice.
    slice: Option<String>,
    pub name: String,
}

impl Unit {
    /// Reads `slice:prefix:name`; nothing is asked for by an empty path.
    pub fn parse(cgroups_path: &str, prefix: &str, id: &str) -> Result<Self, SystemdError> {
        let parts: Vec<&str> = cgroups_path.split(':').collect();
        let (slice, prefix, name) = match parts[..] {
            [""] => ("", prefix, id),
            [slice, prefix, name] if !name.is_empty() => (slice, prefix, name),
            _ => return Err(SystemdError::Path(cgroups_path.into())),
        };
        // systemd-run would write others another way, and the unit would not be called what it is called here.
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
        let named = [slice, prefix, name].concat().chars().all(legal);
        if !named || !(slice.is_empty() || slice.ends_with(".slice")) {
            return Err(SystemdError::Path(cgroups_path.into()));
        }
        let dash = if prefix.is_empty() { "" } else { "-" };
        Ok(Self {
            slice: Some(slice).filter(|s| !s.is_empty()).map(str::to_owned),
            name: format!("{prefix}{dash}{name}.scope"),
        })
    }
}

/// A scope that is kept until this is dropped, or until it has processes of its own.
#[derive(Debug)]
pub struct Scope {
    keeper: Child,
    /// Below the hierarchy's mount.
    pub path: String,
}

impl Scope {
    /// Has a scope made; it is there when this returns.
    pub fn start(call: &Call, unit: &Unit, limits: &Limits) -> Result<Self, SystemdError> {
        const PROGRAM: &str = "systemd-run";
        if !is_running() {
            return Err(SystemdError::Absent);
        }
        // Most units that are there systemd refuses to make anew, but not its own `init.scope`.
        if load_state(call, &unit.name)? != ABSENT {
            return Err(SystemdError::Taken(unit.name.clone()));
        }
        let run = |source| SystemdError::Run {
            program: PROGRAM,
            source,
        };
        let mut command = manager(call, PROGRAM);
        command
            .args(["--scope", "--quiet", "--collect", "--unit", &unit.name])
            .args(["--property", "Delegate=yes"])
            .args(["--description", "container of amphipod"]);
        if let Some(slice) = &unit.slice {
            command.args(["--slice", slice]);
        }
        for property in properties(limits) {
            command.args(["--property", &property]);
        }
        let mut keeper = command
            .args(KEEPER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(run)?;
        let mut word = [0];
        let heard = match keeper.stdout.as_mut() {
            Some(said) => said.read(&mut word).map_err(run)?,
            None => 0,
        };
        let mut this = Self {
            keeper,
            path: String::new(),
        };
        if heard == 0 {
            return Err(this.refusal(PROGRAM));
        }
        this.path = cgroup_of(this.keeper.id()).ok_or(SystemdError::NoCgroup)?;
        Ok(this)
    }

    fn refusal(&mut self, program: &'static str) -> SystemdError {
        let mut said = String::new();
        if let Some(errors) = self.keeper.stderr.take() {
            // What cannot be read is not told.
            let _ = errors.take(SAID_LIMIT).read_to_string(&mut said);
        }
        SystemdError::Refused {
            program,
            said: said.trim().into(),
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // One that was killed with the container has ended too.
        let _ = self.keeper.wait();
    }
}

/// Has limits of a running container changed.
pub fn update(call: &Call, unit: &str, limits: &Limits) -> Result<(), SystemdError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let words = ["set-property", "--runtime", unit];
    let properties = properties.iter().map(String::as_str);
    systemctl(call, words.into_iter().chain(properties)).map(drop)
}

/// Ends a scope whose processes have been killed. To be called while its cgroup is there: systemd does not learn of the
/// end of one that others remove.
pub fn stop(call: &Call, unit: &str) -> Result<(), SystemdError> {
    match systemctl(call, ["stop", unit].into_iter()) {
        // It has seen by itself that nobody is left.
        Err(SystemdError::Refused { .. }) if load_state(call, unit)? == ABSENT => Ok(()),
        done => done.map(drop),
    }
}

fn load_state(call: &Call, unit: &str) -> Result<String, SystemdError> {
    let words = ["show", "--value", "--property", "LoadState", unit];
    systemctl(call, words.into_iter())
}

/// Answers what it said.
fn systemctl<'a>(call: &Call, words: impl Iterator<Item = &'a str>) -> Result<String, SystemdError> {
    const PROGRAM: &str = "systemctl";
    let run = |source| SystemdError::Run {
        program: PROGRAM,
        source,
    };
    let output = manager(call, PROGRAM).args(words).output().map_err(run)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(SystemdError::Refused {
            program: PROGRAM,
            said: text(&output.stderr),
        }),
    }
}

/// Root asks the host's systemd, everybody else his own.
fn manager(call: &Call, program: &str) -> Command {
    let mut command = Command::new(program);
    command.args((call.standing != Standing::Root).then_some("--user"));
    command
}

fn cgroup_of(pid: u32) -> Option<String> {
    parse_cgroup(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The one hierarchy of v2, or systemd's own of v1.
fn parse_cgroup(text: &str) -> Option<String> {
    let named = text.lines().find_map(|l| l.split_once(":name=systemd:"));
    let unified = text.lines().find_map(|l| l.strip_prefix("0::"));
    let path = named.map(|(_, path)| path).or(unified)?;
    path.ends_with(".scope").then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_runc_names_them() {
        let unit = |path| Unit::parse(path, "amphipod-oci", "c1").map(|u| (u.slice, u.name));
        assert_eq!(
            unit("machine.slice:libpod:abc").unwrap(),
            (Some("machine.slice".into()), "libpod-abc.scope".into())
        );
        assert_eq!(unit(":p:n").unwrap(), (None, "p-n.scope".into()));
        assert_eq!(unit("a.slice::n").unwrap().1, "n.scope");
        assert_eq!(unit("").unwrap(), (None, "amphipod-oci-c1.scope".into()));
        for bad in [
            "/a/b",
            "a:b",
            "a:b:",
            "a:b:c:d",
            "a:b:c",
            "a b.slice:p:c",
            ":p:$x",
            ":p:a/b",
        ] {
            assert!(unit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_scope_is_found_on_v1_and_v2() {
        let v2 = "0::/machine.slice/x.scope\n";
        assert_eq!(parse_cgroup(v2).unwrap(), "/machine.slice/x.scope");
        let v1 = "3:cpu:/\n1:name=systemd:/system.slice/x.scope\n0::/\n";
        assert_eq!(parse_cgroup(v1).unwrap(), "/system.slice/x.scope");
        assert_eq!(parse_cgroup("0::/user.slice\n"), None);
    }
}

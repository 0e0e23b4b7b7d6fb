//! The smaller parts of a process and its surroundings in config.json: hooks, scheduling, labels. Pure but for asking
//! which security modules the host has.

use std::path::Path;
use std::time::Duration;

use nix::sched::CpuSet;
use oci_spec::runtime::{
    Hook as OciHook, IOPriorityClass, Linux, LinuxMemoryPolicy, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler as OciScheduler, Spec,
};

use crate::hooks::{Hook, Hooks};
use crate::init::labels::{Labels, has_apparmor, has_selinux};
use crate::init::memory::{self, MemoryPolicy};
use crate::init::scheduling::{Scheduler, Scheduling};
use crate::net_devices::{NetDevice, is_name};
use crate::spec::SpecError;

/// All hooks. Those of `prestart` come before those of `createRuntime`, which replaced them. Those outside of the
/// container's root are where the bundle is, as with crun; those inside where the program will be. The specification does
/// not say what one has that names no environment: what runs on the host's files has ours, never one that an image may have
/// chosen (CVE-2025-23266), and what runs in the container that of its program, as with runc.
pub fn hooks(spec: &Spec, bundle: &Path) -> Result<Hooks, SpecError> {
    let Some(given) = spec.hooks() else {
        return Ok(Hooks::default());
    };
    let read = |list: &Option<Vec<OciHook>>, dir: Option<&Path>| {
        let read = list.iter().flatten().map(|given| hook(given, dir));
        read.collect::<Result<Vec<_>, _>>()
    };
    let outside = |list| read(list, Some(bundle));
    let mut runtime = outside(given.prestart())?;
    runtime.extend(outside(given.create_runtime())?);
    let mut start_container = read(given.start_container(), None)?;
    for hook in &mut start_container {
        hook.env.get_or_insert_with(|| process_env(spec));
    }
    Ok(Hooks {
        runtime,
        create_container: outside(given.create_container())?,
        start_container,
        poststart: outside(given.poststart())?,
        poststop: outside(given.poststop())?,
    })
}

/// That of the container's program.
fn process_env(spec: &Spec) -> Vec<String> {
    let process = spec.process().as_ref();
    process.and_then(|p| p.env().clone()).unwrap_or_default()
}

fn hook(hook: &OciHook, dir: Option<&Path>) -> Result<Hook, SpecError> {
    if !hook.path().is_absolute() {
        return Err(SpecError::Missing("absolute path of a hook"));
    }
    let timeout = match hook.timeout().map(u64::try_from) {
        None => None,
        Some(Ok(seconds)) if seconds > 0 => Some(seconds),
        Some(_) => return Err(SpecError::Missing("hook timeout above zero")),
    };
    Ok(Hook {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        dir: dir.map(Path::to_path_buf),
        timeout: timeout.map(Duration::from_secs),
    })
}

/// Labels the host can enforce; others are refused.
pub fn labels(process: &Process) -> Result<Labels, SpecError> {
    let given = |label: &Option<String>| label.clone().filter(|l| !l.is_empty());
    let apparmor = given(process.apparmor_profile()).filter(|p| p != "unconfined" || has_apparmor());
    let selinux = given(process.selinux_label());
    if apparmor.is_some() && !has_apparmor() {
        return Err(SpecError::Unsupported(
            "an AppArmor profile on a host without AppArmor".into(),
        ));
    }
    if selinux.is_some() && !has_selinux() {
        return Err(SpecError::Unsupported(
            "an SELinux label on a host without SELinux".into(),
        ));
    }
    Ok(Labels { apparmor, selinux })
}

/// Scheduler, I/O priority and processors.
pub fn scheduling(process: &Process) -> Result<Scheduling, SpecError> {
    let io_priority = match process.io_priority() {
        Some(asked) => Some(io_priority(asked.class(), asked.priority())?),
        None => None,
    };
    let affinity = process.exec_cpu_affinity().as_ref();
    let initial = affinity.and_then(|a| a.initial().as_deref()).map(cpu_set);
    let last = affinity
        .and_then(|a| a.cpu_affinity_final().as_deref())
        .map(cpu_set);
    let (initial, last) = (initial.transpose()?, last.transpose()?);
    Ok(Scheduling {
        scheduler: process.scheduler().as_ref().map(scheduler),
        io_priority,
        processors: last.or(initial),
        initial_processors: initial,
    })
}

/// A NUMA policy in the numbers of linux/mempolicy.h.
pub fn memory_policy(asked: &LinuxMemoryPolicy) -> Result<MemoryPolicy, SpecError> {
    let mode = match asked.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
    };
    let list = asked.nodes().as_deref().unwrap_or_default();
    Ok(MemoryPolicy {
        mode: asked
            .flags()
            .iter()
            .flatten()
            .map(flag)
            .fold(mode, |all, f| all | f),
        nodes: memory::nodes(list).ok_or_else(|| SpecError::Nodes(list.into()))?,
    })
}

/// Network devices to move, in the order of their names; `own` says that there is a namespace to move them to.
pub fn net_devices(linux: &Linux, own: bool) -> Result<Vec<NetDevice>, SpecError> {
    let mut all = Vec::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let renamed = device.name().as_deref().filter(|n| !n.is_empty()).unwrap_or(name);
        if let Some(bad) = [name.as_str(), renamed].into_iter().find(|n| !is_name(n)) {
            return Err(SpecError::NetDevice(bad.into()));
        }
        all.push(NetDevice {
            name: name.clone(),
            renamed: renamed.into(),
        });
    }
    if !all.is_empty() && !own {
        return Err(SpecError::Missing(
            "network namespace of its own for its network devices",
        ));
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Levels of a class (ioprio_set(2)).
const IO_LEVELS: std::ops::Range<i64> = 0..8;

fn io_priority(class: IOPriorityClass, level: i64) -> Result<u16, SpecError> {
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(level) {
        Ok(number) if IO_LEVELS.contains(&level) => Ok((class << 13) | number),
        _ => Err(SpecError::Missing("I/O priority between 0 and 7")),
    }
}

fn scheduler(asked: &OciScheduler) -> Scheduler {
    let policy = match asked.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    Scheduler {
        policy,
        flags: asked.flags().iter().flatten().map(flag).fold(0, |all, f| all | f),
        nice: asked.nice().unwrap_or(0),
        priority: asked.priority().and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        runtime: asked.runtime().unwrap_or(0),
        deadline: asked.deadline().unwrap_or(0),
        period: asked.period().unwrap_or(0),
    }
}

/// A list such as `0-3,7` (cpuset(7)).
fn cpu_set(list: &str) -> Result<CpuSet, SpecError> {
    let fail = || SpecError::Processors(list.into());
    let mut set = CpuSet::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| fail());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= CpuSet::count() {
            return Err(fail());
        }
        for cpu in first..=last {
            set.set(cpu).map_err(|_| fail())?;
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &str) -> Process {
        let text = format!(r#"{{"cwd":"/","user":{{"uid":0,"gid":0}},{json}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn processors_are_lists_of_ranges() {
        let set = cpu_set("0-2,5").unwrap();
        let seen: Vec<usize> = (0..8).filter(|n| set.is_set(*n).unwrap()).collect();
        assert_eq!(seen, [0, 1, 2, 5]);
        for bad in ["", "a", "3-1", "0-99999", "1,,2"] {
            assert!(cpu_set(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn priorities_and_policies_are_the_kernels_numbers() {
        let got = scheduling(&process(
            r#""ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":3},
               "scheduler":{"policy":"SCHED_BATCH","nice":5,"flags":["SCHED_FLAG_RECLAIM"]}"#,
        ))
        .unwrap();
        assert_eq!(got.io_priority, Some((3 << 13) | 3));
        let scheduler = got.scheduler.unwrap();
        assert_eq!((scheduler.policy, scheduler.nice, scheduler.flags), (3, 5, 2));
        let bad = process(r#""ioPriority":{"class":"IOPRIO_CLASS_BE","priority":9}"#);
        assert!(scheduling(&bad).is_err());
    }

    #[test]
    fn a_hooks_timeout_is_above_zero() {
        let read = |timeout: &str| {
            let json = format!(r#"{{"path":"/h"{timeout}}}"#);
            hook(&serde_json::from_str(&json).unwrap(), None).map(|h| h.timeout)
        };
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read(r#","timeout":2"#).unwrap(), Some(Duration::from_secs(2)));
        for bad in ["0", "-1"] {
            assert!(read(&format!(r#","timeout":{bad}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_confinement_the_host_has_not_is_refused() {
        if has_apparmor() || has_selinux() {
            return eprintln!("skipped: this host has a security module");
        }
        assert!(labels(&process(r#""apparmorProfile":"strict""#)).is_err());
        assert!(labels(&process(r#""selinuxLabel":"a:b:c""#)).is_err());
        let none = labels(&process(r#""apparmorProfile":"unconfined""#)).unwrap();
        assert_eq!(none, Labels::default());
    }
}

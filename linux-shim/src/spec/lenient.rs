//! What is wrong in a config.json and shall not stop a container: it is put right, and said. Pure.
//!
//! A capability nobody knows is to be a warning (OCI runtime-spec, "Linux Process"). A relative destination of a mount
//! is one of `/` to runc and crun, and was to older versions of the specification. A process without a user is root to
//! both. Not wrong, but unknown to the library that reads it, is how the specification spells some flags.

use std::path::Path;

use oci_spec::runtime::{Capability, Spec};
use serde::Deserialize;
use serde_json::{Value, json};

/// Flags of a scheduler as the specification spells them (config.md, "Process"), and as they can be read.
const FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Whether [`mend`] would change what this was read from. What it changes of processes cannot be read at all.
pub fn is_to_be_mended(spec: &Spec) -> bool {
    let mut mounts = spec.mounts().iter().flatten();
    mounts.any(|mount| !mount.destination().as_os_str().is_empty() && !mount.destination().has_root())
}

/// Changes a config.json; answers what is to be said of it, which is nothing where that means what was meant.
pub fn mend(config: &mut Value) -> Vec<String> {
    let mut said = config.get_mut("process").map(mend_process).unwrap_or_default();
    let mounts = config.get_mut("mounts").and_then(Value::as_array_mut);
    let destinations = mounts
        .into_iter()
        .flatten()
        .filter_map(|mount| mount.get_mut("destination"));
    said.extend(destinations.filter_map(mend_destination));
    said
}

/// What is asked for of a cgroup and has no effect, to be said: what kernels do not limit any more, and on v2 what only v1
/// has and is left out there, as by runc.
pub fn without_effect(spec: &Spec, is_v2: bool) -> Vec<String> {
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let cpu = resources.and_then(|r| r.cpu().as_ref());
    let memory = resources.and_then(|r| r.memory().as_ref());
    let asked = |number: Option<i64>| number.is_some_and(|n| n > 0);
    let realtime =
        cpu.is_some_and(|c| asked(c.realtime_runtime()) || c.realtime_period().is_some_and(|p| p > 0));
    let of_v1 = [
        ("cpu.realtimeRuntime and realtimePeriod", realtime),
        ("memory.kernelTCP", memory.is_some_and(|m| asked(m.kernel_tcp()))),
        (
            "memory.swappiness",
            memory.is_some_and(|m| m.swappiness().is_some()),
        ),
        (
            "memory.disableOOMKiller",
            memory.is_some_and(|m| m.disable_oom_killer() == Some(true)),
        ),
    ];
    let of_none = [
        ("memory.kernel", memory.is_some_and(|m| asked(m.kernel()))),
        (
            "memory.useHierarchy: false",
            memory.is_some_and(|m| m.use_hierarchy() == Some(false)),
        ),
    ];
    let all = of_v1.into_iter().filter(|_| is_v2).chain(of_none);
    all.filter(|(_, is_asked)| *is_asked)
        .map(|(name, _)| format!("linux.resources.{name} changes nothing on this host"))
        .collect()
}

/// Changes its `process`, or one of an exec.
pub fn mend_process(process: &mut Value) -> Vec<String> {
    name_user(process);
    spell_flags(process);
    take_unknown_capabilities(process).into_iter().collect()
}

fn name_user(process: &mut Value) {
    if let Some(process) = process.as_object_mut()
        && process.get("user").is_none_or(Value::is_null)
    {
        process.insert("user".into(), json!({"uid": 0, "gid": 0}));
    }
}

fn spell_flags(process: &mut Value) {
    let flags = process.pointer_mut("/scheduler/flags");
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, readable)) = FLAGS.iter().find(|(specified, _)| *flag == **specified) {
            *flag = json!(readable);
        }
    }
}

fn take_unknown_capabilities(process: &mut Value) -> Option<String> {
    let mut unknown: Vec<String> = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| {
            let (known, text) = (Capability::deserialize(name).is_ok(), name.as_str());
            let strange = text.filter(|_| !known).map(str::to_owned);
            let keeps = strange.is_none();
            unknown.extend(strange.filter(|name| !unknown.contains(name)));
            keeps
        });
    }
    // In runc's words, for which logs are searched.
    let said = format!(
        "ignoring unknown or unavailable capabilities: [{}]",
        unknown.join(" ")
    );
    (!unknown.is_empty()).then_some(said)
}

fn mend_destination(destination: &mut Value) -> Option<String> {
    let relative = destination
        .as_str()
        .filter(|d| !d.is_empty() && !d.starts_with('/'))?;
    let absolute = Path::new("/").join(relative).display().to_string();
    let said =
        format!("the mount at {relative:?} should have an absolute destination: {absolute:?} is taken");
    *destination = absolute.into();
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_capabilities_are_taken_out_and_said_once() {
        let mut process = json!({"user": {}, "capabilities": {"bounding": ["CAP_CHOWN", "CAP_FOO"], "permitted": ["CAP_FOO", "kill"],
            "ambient": null}});
        let said = mend_process(&mut process);
        assert!(said.len() == 1 && said[0].contains("CAP_FOO"), "{said:?}");
        let left = json!({"bounding": ["CAP_CHOWN"], "permitted": ["kill"], "ambient": null});
        assert_eq!(process["capabilities"], left);
    }

    #[test]
    fn relative_destinations_are_of_the_root() {
        let mut config =
            json!({"mounts": [{"destination": "a/b"}, {"destination": "/c"}, {"destination": ""}]});
        assert_eq!(mend(&mut config).len(), 1);
        let mounts = json!([{"destination": "/a/b"}, {"destination": "/c"}, {"destination": ""}]);
        assert_eq!(config["mounts"], mounts);
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let said = |resources: Value, is_v2| {
            let config = json!({"ociVersion": "1.0.2", "linux": {"resources": resources}});
            without_effect(&serde_json::from_value(config).unwrap(), is_v2)
        };
        let old = json!({"memory": {"kernel": 1, "kernelTCP": 1, "swappiness": 0, "disableOOMKiller": true,
            "useHierarchy": false}, "cpu": {"realtimeRuntime": 1}});
        assert_eq!((said(old.clone(), false).len(), said(old, true).len()), (2, 6));
        let usual =
            json!({"memory": {"limit": 1, "kernel": -1, "disableOOMKiller": false}, "cpu": {"shares": 2}});
        assert!(said(usual, true).is_empty() && said(json!({}), true).is_empty());
    }

    /// What is no object at all is for the parser to refuse.
    #[test]
    fn odd_shapes_are_left_alone() {
        for odd in [
            json!({}),
            json!({"process": 1, "mounts": {}}),
            json!({"process": {"user": {}, "capabilities": [1], "scheduler": {"flags": {}}}}),
            json!(7),
        ] {
            let mut config = odd.clone();
            assert!(mend(&mut config).is_empty());
            assert_eq!(config, odd);
        }
    }
}

//! Devices: what is made in `/dev`, and the rules of who may open what.
use super::SpecError;
use crate::init::devices::{self, Device};
use amphipod_shim_api::cgroup::Limits;
use nix::sys::stat::SFlag;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxResources};
use std::collections::HashSet;

pub(super) fn device(oci: &LinuxDevice) -> Result<Device, SpecError> {
    let kind = match oci.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(SpecError::Unsupported(format!(
                "a device of no type at {:?}",
                oci.path()
            )));
        }
    };
    Ok(Device {
        path: oci.path().clone(),
        kind,
        major: oci.major().cast_unsigned(),
        minor: oci.minor().cast_unsigned(),
        mode: oci.file_mode().unwrap_or(0o666) & 0o7777,
        uid: oci.uid().unwrap_or(0),
        gid: oci.gid().unwrap_or(0),
    })
}

/// Making nodes, where nothing else is allowed: opening them is another matter.
const MAKING_NODES: [&str; 2] = ["c *:* m", "b *:* m"];
/// The console and terminals, which every container may use beyond the default nodes.
const TERMINALS: [&str; 3] = ["c 5:1 rwm", "c 136:* rwm", "c 5:2 rwm"];

/// The bundle's rules in their order, then what a container cannot do without. A rule for all devices (`a`), either way,
/// clears what stood before it; with none everything is denied first. A bundle that allows everything without exception
/// (privileged) has no rules at all. A node of `linux.devices` is there and no more: rules alone say who may open it.
pub(super) fn device_rules(asked: &[(bool, String)]) -> Vec<(bool, String)> {
    let last = asked.iter().rposition(|(_, rule)| rule == "a");
    let (all, further) = match last.and_then(|at| asked[at..].split_first()) {
        Some(((all, _), further)) => (*all, further),
        None => (false, asked),
    };
    if all && further.iter().all(|(allow, _)| *allow) {
        return Vec::new();
    }
    let allowed = |rule: &str| (true, rule.to_owned());
    let mut rules = vec![(all, "a".to_owned())];
    rules.extend_from_slice(further);
    if !all {
        rules.extend(MAKING_NODES.map(allowed));
    }
    rules.extend(TERMINALS.map(allowed));
    rules.extend(devices::defaults().map(|d| (true, format!("c {}:{} rwm", d.major, d.minor))));
    keep_last(rules)
}

/// Of the same rules the last counts.
fn keep_last(mut rules: Vec<(bool, String)>) -> Vec<(bool, String)> {
    let mut seen = HashSet::new();
    rules.reverse();
    rules.retain(|rule| seen.insert(rule.clone()));
    rules.reverse();
    rules
}

/// What is to change of a running container's limits. Not its devices: callers send their whole configuration, whose rules do
/// not have what every container needs, and the rules in force would be gone for a moment. runc leaves them too.
pub fn changes(resources: &LinuxResources) -> Limits {
    Limits {
        devices: Vec::new(),
        ..Limits::from(resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules come to beside those every container has: `+` allows, `-` denies.
    fn rules(asked: &[&str]) -> Vec<String> {
        let asked: Vec<_> = asked
            .iter()
            .map(|r| (r.starts_with('+'), r[1..].to_owned()))
            .collect();
        let implied = device_rules(&[]);
        let made = device_rules(&asked);
        let own = made
            .iter()
            .filter(|rule| rule.1 == "a" || !implied.contains(rule));
        own.map(|(allow, rule)| format!("{}{rule}", if *allow { '+' } else { '-' }))
            .collect()
    }

    #[test]
    fn devices_are_denied_unless_a_rule_allows_them() {
        assert_eq!(rules(&[]), ["-a"]);
        assert_eq!(rules(&["-a", "+c 10:200 r"]), ["-a", "+c 10:200 r"]);
        assert!(device_rules(&[]).contains(&(true, "c 1:3 rwm".into())));
        assert!(device_rules(&[]).contains(&(true, "c *:* m".into())));
    }

    #[test]
    fn a_rule_for_all_clears_what_stood_before_it() {
        let none: [&str; 0] = [];
        assert_eq!(rules(&["-a", "+a"]), none);
        assert_eq!(rules(&["-c 1:11 rwm", "+a", "+c 1:3 r"]), none);
        assert_eq!(rules(&["+a", "-a"]), ["-a"]);
        assert_eq!(rules(&["+c 1:11 r", "-a", "+c 10:200 r"]), ["-a", "+c 10:200 r"]);
        assert_eq!(rules(&["-a", "+a", "-c 1:11 rwm"]), ["+a", "-c 1:11 rwm"]);
    }

    /// Whoever denies one after all were allowed means making it too.
    #[test]
    fn an_exception_is_not_allowed_again_by_what_is_always_allowed() {
        let rules = device_rules(&[(true, "a".into()), (false, "c 1:11 rwm".into())]);
        assert!(!rules.contains(&(true, "c *:* m".into())));
    }

    #[test]
    fn the_order_is_kept_and_the_last_of_the_same_counts() {
        let back_and_forth = ["-a", "+c 1:11 r", "-c 1:11 r", "+c 1:11 r"];
        assert_eq!(rules(&back_and_forth), ["-a", "-c 1:11 r", "+c 1:11 r"]);
        let denied = device_rules(&[(true, "c 1:3 rwm".into()), (false, "c 1:3 rwm".into())]);
        let at = |allow| denied.iter().position(|r| *r == (allow, "c 1:3 rwm".into()));
        assert!(at(false) < at(true), "the default nodes are everybody's");
    }
}

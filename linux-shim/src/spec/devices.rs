//! Devices: what is made in `/dev`, and the rules of who may open what.
use super::SpecError;
use crate::init::devices::{self, Device};
use nix::sys::stat::SFlag;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
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

/// What every container may use beyond the default nodes: making nodes (opening them is another matter), the
/// console, terminals.
const ALWAYS_ALLOWED: [&str; 5] = ["c *:* m", "b *:* m", "c 5:1 rwm", "c 136:* rwm", "c 5:2 rwm"];

/// Everything is denied first, then the bundle's rules, then what a container cannot do without. A bundle that
/// allows everything (privileged) has no rules at all.
pub(super) fn device_rules(asked: &[(bool, String)], nodes: &[Device]) -> Vec<(bool, String)> {
    if asked.iter().any(|(allow, rule)| *allow && rule == "a") {
        return Vec::new();
    }
    let node = |d: &Device| {
        let letter = if d.kind == SFlag::S_IFBLK { 'b' } else { 'c' };
        (true, format!("{letter} {}:{} rwm", d.major, d.minor))
    };
    let mut seen = HashSet::new();
    let mut rules = vec![(false, "a".to_owned())];
    rules.extend(asked.iter().filter(|(_, rule)| rule != "a").cloned());
    rules.extend(ALWAYS_ALLOWED.map(|rule| (true, rule.to_owned())));
    rules.extend(
        devices::defaults()
            .iter()
            .chain(nodes)
            .filter(|d| d.kind != SFlag::S_IFIFO)
            .map(node),
    );
    rules.retain(|rule| seen.insert(rule.clone()));
    rules
}

//! Whose files a container's guests make and may read: the user, the groups and the capabilities of its process.
//!
//! Owns the reading of them. Refuses to know how a thread becomes somebody.

use crate::sandbox::{Identity, Rights};
use oci_spec::runtime::{Capability, Process};

/// Who a native process with this configuration would be after its exec (capabilities(7)): root has what it is given of
/// capabilities, any other user nothing. Without a word of capabilities root has those of files and ports.
pub fn of(process: &Process) -> Identity {
    let user = process.user();
    let given = process.capabilities().as_ref();
    let effective = given.map(|sets| sets.effective().clone().unwrap_or_default());
    let has = |one| effective.as_ref().is_none_or(|all| all.contains(&one));
    Identity {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        rights: Rights {
            any_file: has(Capability::DacOverride),
            others_files: has(Capability::Fowner),
            low_ports: has(Capability::NetBindService),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(process: Value) -> Identity {
        let mut whole = json!({"cwd": "/"});
        whole
            .as_object_mut()
            .unwrap()
            .extend(process.as_object().unwrap().clone());
        of(&serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn who_a_process_is() {
        let rights = |any_file, others_files, low_ports| Rights {
            any_file,
            others_files,
            low_ports,
        };
        let user = |user: Value| read(json!({ "user": user }));
        let root = user(json!({"uid": 0, "gid": 0}));
        assert_eq!((root.uid, root.gid, root.groups.len()), (0, 0, 0));
        assert_eq!(root.rights, rights(true, true, true));
        let other = user(json!({"uid": 1000, "gid": 3000, "additionalGids": [2000, 4000]}));
        assert_eq!((other.uid, other.gid), (1000, 3000));
        assert_eq!(other.groups, [2000, 4000]);
        for (effective, expected) in [
            (json!([]), rights(false, false, false)),
            (json!(["CAP_CHOWN", "CAP_FOWNER"]), rights(false, true, false)),
            (
                json!(["CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"]),
                rights(true, false, true),
            ),
        ] {
            let read = read(json!({"user": {"uid": 0, "gid": 0}, "capabilities": {"effective": effective}}));
            assert_eq!(read.rights, expected, "{effective}");
        }
        let none = read(json!({"user": {"uid": 0, "gid": 0}, "capabilities": {}}));
        assert_eq!(none.rights, rights(false, false, false));
    }
}

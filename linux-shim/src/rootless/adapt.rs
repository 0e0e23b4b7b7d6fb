//! What becomes of a config.json of an ordinary user. Pure: the configuration and what the user has go in; what can be
//! had, and words about what is different, come out. What cannot be had at all is refused, as crun and runc do.

use serde_json::{Value, json};

use super::subordinate::Facts;
use super::write::is_only;
use crate::id_map::Range;

/// See [`adapt_layers`].
const USER_ATTRIBUTES: &str = "userxattr";

/// A configuration no ordinary user can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootlessError {
    #[error(
        "config.json maps other ids than your own, which needs newuidmap and newgidmap (Debian package uidmap)"
    )]
    NoHelpers,
    #[error(
        "process.user.{0} is {1}, which is mapped to no id of the host's; you have no subordinate ids for it"
    )]
    Unmapped(&'static str, u64),
    #[error(
        "process.user.additionalGids cannot be set where only your own id is mapped (setgroups is denied there)"
    )]
    Groups,
    #[error("linux.resources: limits need cgroups that are delegated to you; none are ({0})")]
    Limits(String),
    #[error("containers that share their processes are for root alone")]
    SharedProcesses,
    #[error("where would records of containers be? Set XDG_RUNTIME_DIR or give --root")]
    NoRoot,
}

/// Changes `config`, an OCI runtime configuration, and answers what is to be said about it.
pub fn adapt(config: &mut Value, user: &Facts) -> Result<Vec<String>, RootlessError> {
    let mut said = Vec::new();
    let process = config["process"]["user"].clone();
    let Some(linux) = config.get_mut("linux").filter(|linux| linux.is_object()) else {
        return Ok(said);
    };
    if namespace(linux, "user").is_none() {
        push(&mut linux["namespaces"], json!({"type": "user"}));
        said.push("the container gets a user namespace: without root there is none without one".into());
    }
    let joins = namespace(linux, "user").is_some_and(|n| n["path"].as_str().is_some_and(|p| !p.is_empty()));
    if !joins {
        map_ids(linux, &process, user, &mut said)?;
    }
    let maps = Maps {
        users: ranges(&linux["uidMappings"]),
        groups: ranges(&linux["gidMappings"]),
    };
    if !joins {
        maps.check(&process, user)?;
    }
    let own = ["network", "ipc", "pid"].map(|kind| namespace(linux, kind).is_some());
    for mount in config["mounts"].as_array_mut().into_iter().flatten() {
        borrow(mount, own, &mut said);
        if !joins {
            drop_unmapped(mount, &maps, &mut said);
        }
    }
    Ok(said)
}

fn namespace<'a>(linux: &'a Value, kind: &str) -> Option<&'a Value> {
    let all = linux["namespaces"].as_array()?;
    all.iter().find(|n| n["type"] == kind)
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

/// Maps where none are given: the user to root and his subordinate ids to the others, or his own id alone.
fn map_ids(
    linux: &mut Value,
    process: &Value,
    user: &Facts,
    said: &mut Vec<String>,
) -> Result<(), RootlessError> {
    let given = |name: &str| linux[name].as_array().is_some_and(|maps| !maps.is_empty());
    if given("uidMappings") || given("gidMappings") {
        return Ok(());
    }
    if user.may_map_many() {
        linux["uidMappings"] = with_subordinates(user.uid, &user.users);
        linux["gidMappings"] = with_subordinates(user.gid, &user.groups);
        return Ok(());
    }
    let single = |inside: &Value, own: u32| json!([{"containerID": inside.as_u64().unwrap_or(0), "hostID": own, "size": 1}]);
    linux["uidMappings"] = single(&process["uid"], user.uid);
    linux["gidMappings"] = single(&process["gid"], user.gid);
    let why = match user.helpers {
        true => "you have no subordinate ids (/etc/subuid, /etc/subgid)",
        false => "newuidmap and newgidmap are not installed (Debian package uidmap)",
    };
    said.push(format!(
        "{why}: the container has one user and one group, files of others belong to nobody there, and your own further \
         groups stay with it"
    ));
    Ok(())
}

fn with_subordinates(own: u32, ranges: &[(u32, u32)]) -> Value {
    let mut maps = vec![json!({"containerID": 0, "hostID": own, "size": 1})];
    let mut next = 1_u32;
    for (first, count) in ranges {
        // More than 32 bits of ids are of no use.
        let count = (*count).min(u32::MAX - next);
        maps.push(json!({"containerID": next, "hostID": first, "size": count}));
        next += count;
    }
    maps.into()
}

fn ranges(maps: &Value) -> Vec<Range> {
    let number = |map: &Value, name: &str| map[name].as_u64().and_then(|n| u32::try_from(n).ok());
    let range = |map: &Value| {
        Some(Range {
            inside: number(map, "containerID")?,
            outside: number(map, "hostID")?,
            size: number(map, "size")?,
        })
    };
    maps.as_array().into_iter().flatten().filter_map(range).collect()
}

struct Maps {
    users: Vec<Range>,
    groups: Vec<Range>,
}

fn contains(ranges: &[Range], id: u64) -> bool {
    let within = |r: &Range| (u64::from(r.inside)..u64::from(r.inside) + u64::from(r.size)).contains(&id);
    ranges.iter().any(within)
}

impl Maps {
    /// Refuses what would fail in the middle.
    fn check(&self, process: &Value, user: &Facts) -> Result<(), RootlessError> {
        let single = is_only(&self.users, user.uid) && is_only(&self.groups, user.gid);
        if !single && !user.helpers {
            return Err(RootlessError::NoHelpers);
        }
        let groups: Vec<u64> = process["additionalGids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect();
        if single && !groups.is_empty() {
            return Err(RootlessError::Groups);
        }
        let id = |name: &str| process[name].as_u64().unwrap_or(0);
        if !contains(&self.users, id("uid")) {
            return Err(RootlessError::Unmapped("uid", id("uid")));
        }
        if !contains(&self.groups, id("gid")) {
            return Err(RootlessError::Unmapped("gid", id("gid")));
        }
        match groups.into_iter().find(|group| !contains(&self.groups, *group)) {
            Some(group) => Err(RootlessError::Unmapped("additionalGids", group)),
            None => Ok(()),
        }
    }
}

/// Changes a mount's options: without root an overlay keeps what it notes of files in attributes that users may write
/// (`userxattr`, Linux 5.11).
pub fn adapt_layers(kind: &str, options: &mut Vec<String>) {
    if kind == "overlay" && !options.iter().any(|option| option == USER_ATTRIBUTES) {
        options.push(USER_ATTRIBUTES.to_owned());
    }
}

/// A file system of a namespace the container shares with the host is the host's: only its own mount can be shown.
fn borrow(mount: &mut Value, [network, ipc, pid]: [bool; 3], said: &mut Vec<String>) {
    let (source, what) = match mount["type"].as_str() {
        Some("sysfs") if !network => ("/sys", "network"),
        Some("mqueue") if !ipc => ("/dev/mqueue", "IPC"),
        Some("proc") if !pid => ("/proc", "PID"),
        _ => return,
    };
    let attributes = mount["options"].as_array().cloned().unwrap_or_default();
    let mut options = vec![json!("rbind")];
    if attributes.iter().any(|o| o == "ro") {
        options.push(json!("rro"));
    }
    options.extend(attributes);
    said.push(format!(
        "{} shows the host's {source}: the container has no {what} namespace of its own",
        mount["destination"].as_str().unwrap_or_default()
    ));
    mount["type"] = json!("bind");
    mount["source"] = json!(source);
    mount["options"] = options.into();
}

/// A file system cannot belong to an id that is mapped to none.
fn drop_unmapped(mount: &mut Value, maps: &Maps, said: &mut Vec<String>) {
    if !matches!(mount["type"].as_str(), Some("devpts" | "tmpfs")) {
        return;
    }
    let at = mount["destination"].as_str().unwrap_or_default().to_owned();
    let Some(options) = mount["options"].as_array_mut() else {
        return;
    };
    options.retain(|option| {
        let Some((name, id)) = option.as_str().and_then(|o| o.split_once('=')) else {
            return true;
        };
        let ranges = match name {
            "uid" => &maps.users,
            "gid" => &maps.groups,
            _ => return true,
        };
        let kept = id.parse().is_ok_and(|id| contains(ranges, id));
        if !kept {
            said.push(format!(
                "{at} is mounted without {name}={id}, which is mapped to no id of the host's"
            ));
        }
        kept
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(subordinate: bool) -> Facts {
        let ranges = if subordinate {
            vec![(100_000, 65_536)]
        } else {
            Vec::new()
        };
        Facts {
            uid: 1000,
            gid: 1001,
            users: ranges.clone(),
            groups: ranges,
            helpers: true,
        }
    }

    fn config(namespaces: &[&str]) -> Value {
        let namespaces: Vec<Value> = namespaces.iter().map(|n| json!({"type": n})).collect();
        json!({
            "process": {"user": {"uid": 0, "gid": 0}},
            "mounts": [
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
                {"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "gid=5"]},
            ],
            "linux": {"namespaces": namespaces},
        })
    }

    #[test]
    fn subordinate_ids_are_all_mapped() {
        let mut config = config(&["mount", "user", "network"]);
        assert_eq!(adapt(&mut config, &user(true)), Ok(vec![]));
        let maps = json!([
            {"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 65_536},
        ]);
        assert_eq!(config["linux"]["uidMappings"], maps);
        assert_eq!(config["linux"]["gidMappings"][0]["hostID"], 1001);
        assert_eq!(config["mounts"][1]["options"], json!(["newinstance", "gid=5"]));
        assert_eq!(config["mounts"][0]["type"], "sysfs");
    }

    #[test]
    fn without_them_the_own_id_is_who_the_program_runs_as() {
        let mut config = config(&["mount", "user"]);
        config["process"]["user"] = json!({"uid": 33, "gid": 34});
        let said = adapt(&mut config, &user(false)).unwrap();
        assert_eq!(said.len(), 3, "{said:?}");
        let map = |inside: u32, outside: u32| json!([{"containerID": inside, "hostID": outside, "size": 1}]);
        assert_eq!(config["linux"]["uidMappings"], map(33, 1000));
        assert_eq!(config["linux"]["gidMappings"], map(34, 1001));
        assert_eq!(config["mounts"][0]["source"], "/sys");
        assert_eq!(
            config["mounts"][0]["options"],
            json!(["rbind", "rro", "nosuid", "ro"])
        );
        assert_eq!(config["mounts"][1]["options"], json!(["newinstance"]));
    }

    #[test]
    fn overlays_keep_their_notes_where_users_may() {
        let options = |kind| {
            let mut options = vec!["lowerdir=/a".to_owned()];
            adapt_layers(kind, &mut options);
            adapt_layers(kind, &mut options);
            options.join(",")
        };
        assert_eq!(options("overlay"), "lowerdir=/a,userxattr");
        assert_eq!(options("bind"), "lowerdir=/a");
    }

    #[test]
    fn a_missing_user_namespace_is_added_and_said() {
        let mut config = config(&["mount", "network"]);
        let said = adapt(&mut config, &user(true)).unwrap();
        assert!(said[0].contains("user namespace"), "{said:?}");
        assert!(namespace(&config["linux"], "user").is_some());
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let refused = |change: fn(&mut Value), user: &Facts| {
            let mut config = config(&["mount", "user", "network"]);
            change(&mut config);
            adapt(&mut config, user).unwrap_err()
        };
        let groups: fn(&mut Value) = |c| c["process"]["user"]["additionalGids"] = json!([7]);
        assert_eq!(refused(groups, &user(false)), RootlessError::Groups);
        let beyond: fn(&mut Value) = |c| c["process"]["user"]["uid"] = json!(65_537);
        assert_eq!(
            refused(beyond, &user(true)),
            RootlessError::Unmapped("uid", 65_537)
        );
        let many: fn(&mut Value) = |c| {
            c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
            c["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        };
        let without = Facts {
            helpers: false,
            ..user(true)
        };
        assert_eq!(refused(many, &without), RootlessError::NoHelpers);
    }

    #[test]
    fn a_joined_user_namespace_has_its_own_maps() {
        let mut config = config(&["mount", "network"]);
        push(
            &mut config["linux"]["namespaces"],
            json!({"type": "user", "path": "/proc/1/ns/user"}),
        );
        assert_eq!(adapt(&mut config, &user(false)), Ok(vec![]));
        assert!(config["linux"]["uidMappings"].is_null());
    }
}

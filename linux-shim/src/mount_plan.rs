//! What the mounts of a config.json mean: options parsed into attributes, propagation and file system data.
//!
//! Pure: decides, mounts nothing. Option names are those of the OCI runtime specification and mount(8).

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;

use crate::id_map::{IdMapError, IdMaps};
use crate::sys::mount::Attributes;

/// The bits that together say how access times are kept (`MOUNT_ATTR__ATIME`).
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Bind {
        path: PathBuf,
        recursive: bool,
    },
    Filesystem {
        kind: String,
        source: Option<String>,
        options: Vec<(String, Option<String>)>,
    },
    /// The container's own cgroups, whatever the host's layout is, or those of v2 alone.
    Cgroup {
        unified: bool,
    },
    /// No new mount: attributes of the one already there, and options of its file system.
    Remount {
        options: Vec<(String, Option<String>)>,
    },
}

/// A bind mount through which ids are seen by other numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMapped {
    /// `None` takes the container's own maps.
    pub maps: Option<IdMaps>,
    pub recursive: bool,
}

/// One mount, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlan {
    pub source: Source,
    pub destination: PathBuf,
    pub attributes: Attributes,
    /// Attributes of the mount and everything below it (`rro` and its kin).
    pub recursive: Attributes,
    pub propagation_recursive: bool,
    pub id_mapped: Option<IdMapped>,
    /// A new tmpfs begins with what the image has at its place (`tmpcopyup`).
    pub copy_up: bool,
}

/// A mount that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountPlanError {
    #[error("mount at {0:?}: the destination must be an absolute path")]
    Relative(PathBuf),
    #[error("mount at {0:?}: a bind mount needs a source")]
    NoSource(PathBuf),
    #[error("mount at {0:?}: no type is given and it is no bind mount")]
    NoType(PathBuf),
    #[error("mount at {0:?}: only a bind mount can be idmapped, and only a tmpfs can begin with a copy")]
    Misplaced(PathBuf),
    #[error("mount at {0:?}: nothing can be mounted on the container's root")]
    OnRoot(PathBuf),
    #[error("mount at {0:?}: {1}")]
    Maps(PathBuf, IdMapError),
}

/// What a mount's words are relative to.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Where a bind mount's source is, unless it is absolute.
    pub bundle: &'a Path,
    /// The container's maps.
    pub ids: Option<&'a IdMaps>,
    /// What SELinux is to call the files of new file systems.
    pub label: Option<&'a str>,
}

/// Reads one mount of config.json.
pub fn parse(mount: &Mount, around: Around<'_>) -> Result<MountPlan, MountPlanError> {
    let destination = mount.destination().clone();
    if !destination.is_absolute() {
        return Err(MountPlanError::Relative(destination));
    }
    let mut options = Options::default();
    for option in mount.options().iter().flatten() {
        options.add(option);
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    if options.remount {
        // A mount(2) that changes a bind mount takes no options of its file system, which may be the host's.
        let data = std::mem::take(&mut options.data);
        let source = Source::Remount {
            options: if options.bind.is_some() { Vec::new() } else { data },
        };
        return Ok(options.plan(source, destination, None));
    }
    if is_root(&destination) {
        return Err(MountPlanError::OnRoot(destination));
    }
    let maps = options
        .maps(mount, around.ids)
        .map_err(|e| MountPlanError::Maps(destination.clone(), e))?;
    let id_mapped = match (options.id_mapped, maps) {
        (None, None) => None,
        (recursive, maps) => Some(IdMapped {
            maps,
            recursive: recursive.unwrap_or_default(),
        }),
    };
    let source = if options.bind.is_some() || kind == "bind" {
        let path = mount.source().as_ref().filter(|p| !p.as_os_str().is_empty());
        let path = path.ok_or_else(|| MountPlanError::NoSource(destination.clone()))?;
        Source::Bind {
            path: around.bundle.join(path),
            recursive: options.bind.unwrap_or(true),
        }
    } else if kind == "cgroup" || kind == "cgroup2" {
        Source::Cgroup {
            unified: kind == "cgroup2",
        }
    } else if kind.is_empty() || kind == "none" {
        return Err(MountPlanError::NoType(destination));
    } else {
        let source = mount.source().as_ref().map(|s| s.to_string_lossy().into_owned());
        Source::Filesystem {
            kind: kind.into(),
            source,
            options: labelled(std::mem::take(&mut options.data), kind, around.label),
        }
    };
    let bind = matches!(source, Source::Bind { .. });
    let tmpfs = matches!(&source, Source::Filesystem { kind, .. } if kind == "tmpfs");
    if (id_mapped.is_some() && !bind) || (options.copy_up && !tmpfs) {
        return Err(MountPlanError::Misplaced(destination));
    }
    Ok(options.plan(source, destination, id_mapped))
}

/// What is mounted there would not be seen: the root is entered by what is below it.
fn is_root(destination: &Path) -> bool {
    let depth = destination.components().fold(0_usize, |depth, part| match part {
        Component::Normal(_) => depth + 1,
        Component::ParentDir => depth.saturating_sub(1),
        _ => depth,
    });
    depth == 0
}

/// The kernel's own file systems have labels of their own, and that of message queues takes none.
fn labelled(
    mut options: Vec<(String, Option<String>)>,
    kind: &str,
    label: Option<&str>,
) -> Vec<(String, Option<String>)> {
    let has_own =
        matches!(kind, "proc" | "sysfs" | "mqueue") || options.iter().any(|(key, _)| key == "context");
    if let Some(label) = label.filter(|_| !has_own) {
        options.push(("context".into(), Some(label.into())));
    }
    options
}

#[derive(Default)]
struct Options {
    /// `Some(recursive)` once bind or rbind was seen.
    bind: Option<bool>,
    /// `Some(recursive)` once idmap or ridmap was seen.
    id_mapped: Option<bool>,
    /// What follows `idmap=` or `ridmap=`.
    id_words: Option<String>,
    remount: bool,
    copy_up: bool,
    attributes: Attributes,
    recursive: Attributes,
    propagation_recursive: bool,
    data: Vec<(String, Option<String>)>,
}

impl Options {
    fn plan(self, source: Source, destination: PathBuf, id_mapped: Option<IdMapped>) -> MountPlan {
        MountPlan {
            source,
            destination,
            attributes: self.attributes,
            recursive: self.recursive,
            propagation_recursive: self.propagation_recursive,
            id_mapped,
            copy_up: self.copy_up,
        }
    }

    /// Those of `uidMappings` and `gidMappings`, else of the words of the option (crun's).
    fn maps(&self, mount: &Mount, own: Option<&IdMaps>) -> Result<Option<IdMaps>, IdMapError> {
        let maps = IdMaps::parse(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref())?;
        match (maps, &self.id_words) {
            (None, Some(words)) => IdMaps::of_words(words, own).map(Some),
            (maps, _) => Ok(maps),
        }
    }

    fn add(&mut self, option: &str) {
        if let Some((name @ ("idmap" | "ridmap"), words)) = option.split_once('=') {
            self.id_words = Some(words.to_owned());
            return self.add(name);
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.id_mapped = Some(self.id_mapped.unwrap_or(false)),
            "ridmap" => self.id_mapped = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            // What is so without being asked for, and what no file system knows of any more. podman 5.4 ends
            // the options of its tmpfs with an empty one.
            "" | "defaults" | "loud" | "silent" | "iversion" | "noiversion" => {}
            _ => self.add_other(option),
        }
    }

    fn add_other(&mut self, option: &str) {
        if let Some(propagation) = propagation(option) {
            self.attributes.propagation = propagation;
            self.propagation_recursive = option.starts_with('r');
        } else if let Some(change) = attribute(option) {
            merge(&mut self.attributes, change);
        } else if let Some(change) = option.strip_prefix('r').and_then(attribute) {
            merge(&mut self.recursive, change);
        } else {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (option, None),
            };
            self.data.push((key.to_owned(), value));
        }
    }
}

/// Options that are understood, as `features` lists them (those of a file system's own are passed to it).
pub const KNOWN_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// The propagation an option or `linux.rootfsPropagation` names.
pub fn propagation(name: &str) -> Option<u64> {
    let flag = match name {
        "private" | "rprivate" => libc::MS_PRIVATE,
        "slave" | "rslave" => libc::MS_SLAVE,
        "shared" | "rshared" => libc::MS_SHARED,
        "unbindable" | "runbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some(flag)
}

/// Bits to set and to clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, ATIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, ATIME),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => (0, ATIME),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        _ => return None,
    })
}

/// The later option wins.
fn merge(into: &mut Attributes, (set, clear): (u64, u64)) {
    into.set = (into.set & !clear) | set;
    into.clear = (into.clear & !(set & !ATIME)) | clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<MountPlan, MountPlanError> {
        labelled_plan(json, None)
    }

    fn labelled_plan(json: &str, label: Option<&str>) -> Result<MountPlan, MountPlanError> {
        let around = Around {
            bundle: Path::new("/bundle"),
            ids: None,
            label,
        };
        parse(&serde_json::from_str(json).unwrap(), around)
    }

    #[test]
    fn a_label_is_of_new_file_systems_but_the_kernels_own() {
        let context = |kind: &str, options: &str| {
            let json =
                format!(r#"{{"destination":"/v","type":"{kind}","source":"/s","options":[{options}]}}"#);
            match labelled_plan(&json, Some("a:b:c:s0:c1,c2")).unwrap().source {
                Source::Filesystem { mut options, .. } => options.pop(),
                _ => None,
            }
        };
        let given = |label: &str| Some(("context".to_owned(), Some(label.to_owned())));
        assert_eq!(context("tmpfs", ""), given("a:b:c:s0:c1,c2"));
        assert_eq!(context("tmpfs", r#""context=x:y:z""#), given("x:y:z"));
        for unlabelled in ["proc", "sysfs", "mqueue", "bind"] {
            assert_eq!(context(unlabelled, ""), None, "{unlabelled}");
        }
    }

    #[test]
    fn a_remount_has_options_of_a_file_system_but_not_of_a_bind_mount() {
        let options = |options: &str| {
            let json = format!(r#"{{"destination":"/v","type":"tmpfs","options":["remount",{options}]}}"#);
            plan(&json).unwrap()
        };
        let size = vec![("size".to_owned(), Some("1m".to_owned()))];
        assert_eq!(
            options(r#""ro","size=1m""#).source,
            Source::Remount { options: size }
        );
        let bind = options(r#""ro","bind","size=1m""#);
        assert_eq!(bind.source, Source::Remount { options: vec![] });
        assert_eq!(bind.attributes.set, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn an_id_map_may_be_words_of_the_option() {
        let json =
            r#"{"destination":"/v","source":"/s","options":["rbind","ridmap=uids=0-1-10;gids=5-6-7"]}"#;
        let id_mapped = plan(json).unwrap().id_mapped.unwrap();
        let maps = id_mapped.maps.unwrap();
        assert!(id_mapped.recursive);
        assert_eq!((maps.users[0].outside, maps.groups[0].size), (1, 7));
        let bad = json.replace("5-6-7", "5-6");
        assert!(matches!(plan(&bad), Err(MountPlanError::Maps(..))));
    }

    #[test]
    fn an_option_of_no_letters_asks_for_nothing() {
        let json =
            r#"{"destination":"/run","type":"tmpfs","source":"tmpfs","options":["rw","","mode=755",""]}"#;
        let Source::Filesystem { options, .. } = plan(json).unwrap().source else {
            panic!("no file system");
        };
        assert_eq!(options, [("mode".to_owned(), Some("755".to_owned()))]);
    }

    #[test]
    fn a_tmpfs_keeps_its_data() {
        let p = plan(
            r#"{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","size=64k"]}"#,
        )
        .unwrap();
        assert_eq!(
            p.attributes.set,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME
        );
        let Source::Filesystem { kind, options, .. } = p.source else {
            panic!("{p:?}")
        };
        assert_eq!(kind, "tmpfs");
        assert_eq!(
            options,
            [
                ("mode".into(), Some("755".into())),
                ("size".into(), Some("64k".into()))
            ]
        );
    }

    #[test]
    fn binds_and_propagation() {
        let p = plan(
            r#"{"destination":"/v","type":"bind","source":"/s","options":["rbind","rprivate","ro","rro"]}"#,
        )
        .unwrap();
        assert_eq!(
            p.source,
            Source::Bind {
                path: "/s".into(),
                recursive: true
            }
        );
        assert_eq!(
            (p.attributes.propagation, p.propagation_recursive),
            (libc::MS_PRIVATE, true)
        );
        assert_eq!(
            (p.attributes.set, p.recursive.set),
            (libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_RDONLY)
        );
        let p = plan(r#"{"destination":"/v","source":"s","options":["bind","ro","rw"]}"#).unwrap();
        assert_eq!(
            p.source,
            Source::Bind {
                path: "/bundle/s".into(),
                recursive: false
            }
        );
        assert_eq!(
            (p.attributes.set, p.attributes.clear),
            (0, libc::MOUNT_ATTR_RDONLY)
        );
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let at = |p: &str| PathBuf::from(p);
        let cases = [
            (
                r#"{"destination":"v","type":"proc"}"#,
                MountPlanError::Relative(at("v")),
            ),
            (
                r#"{"destination":"/v","type":"bind"}"#,
                MountPlanError::NoSource(at("/v")),
            ),
            (r#"{"destination":"/v"}"#, MountPlanError::NoType(at("/v"))),
            (
                r#"{"destination":"/v/../.","type":"bind","source":"/s"}"#,
                MountPlanError::OnRoot(at("/v/../.")),
            ),
            (
                r#"{"destination":"/v","type":"tmpfs","options":["idmap"]}"#,
                MountPlanError::Misplaced(at("/v")),
            ),
        ];
        for (json, error) in cases {
            assert_eq!(plan(json), Err(error));
        }
    }
}

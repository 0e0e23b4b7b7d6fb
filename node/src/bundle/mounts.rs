//! The mounts of a container: the kernel's file systems as every runtime gives them, the Pod's own files,
//! its volumes. Pure; sources were made before.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

/// A host path shown inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    /// What is mounted below it is read-only too (KEP-3857).
    pub recursive: bool,
    pub propagation: Propagation,
    /// It shows the ids of the container's users as it is.
    pub idmapped: bool,
}

/// `mountPropagation` of a volume mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    #[default]
    None,
    HostToContainer,
    Bidirectional,
}

impl Bind {
    pub fn new(source: impl Into<PathBuf>, destination: impl Into<PathBuf>, read_only: bool) -> Self {
        Bind {
            source: source.into(),
            destination: destination.into(),
            read_only,
            recursive: false,
            propagation: Propagation::None,
            idmapped: false,
        }
    }

    /// Where the container has ids of its own (`own_ids`), what belongs to 0 there belongs to its root (OCI runtime-spec, `idmap`).
    fn mount(&self, own_ids: bool) -> Mount {
        let propagation = match self.propagation {
            Propagation::None => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = match (self.read_only, self.recursive) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        let map = (own_ids && !self.idmapped).then_some("idmap");
        let options: Vec<&str> = ["rbind", propagation, access].into_iter().chain(map).collect();
        let mut mount = mount(&self.destination, "bind", &options);
        mount.set_source(Some(self.source.clone()));
        mount
    }
}

fn mount(destination: &Path, kind: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(kind.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// The kernel's file systems, as containerd mounts them for a Kubernetes container.
fn kernel(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let of = |at: &str, kind: &str, options: &[&str]| mount(Path::new(at), kind, options);
    vec![
        of("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        of(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        of(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        of("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        of("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        of(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ]
}

/// All mounts of a native container, which may have ids of its own: `files` unless a volume takes their place, then volumes,
/// outer before inner.
pub fn native(files: &[Bind], volumes: &[Bind], privileged: bool, own_ids: bool) -> Vec<Mount> {
    let mut all = kernel(privileged);
    all.extend(binds(files, volumes, own_ids));
    all
}

/// The files by which a Wasm guest knows others; the rest of what native containers get has no place in it.
const NAMES: &[&str] = &["/etc/hosts", "/etc/resolv.conf"];

/// The mounts of a Wasm container whose root is its image: all that is no kernel's.
pub fn rooted(files: &[Bind], volumes: &[Bind]) -> Vec<Mount> {
    let is_kernels = |file: &&Bind| file.destination == Path::new("/dev/shm");
    let files: Vec<Bind> = files.iter().filter(|file| !is_kernels(file)).cloned().collect();
    binds(&files, volumes, false)
}

/// The mounts of a Wasm container without a root: every directory becomes a preopen, there is no kernel to show.
pub fn wasm(files: &[Bind], volumes: &[Bind]) -> Vec<Mount> {
    let is_names = |file: &&Bind| NAMES.iter().any(|path| file.destination == Path::new(path));
    let names: Vec<Bind> = files.iter().filter(is_names).cloned().collect();
    binds(&names, volumes, false)
}

fn binds(files: &[Bind], volumes: &[Bind], own_ids: bool) -> Vec<Mount> {
    let free = |file: &&Bind| volumes.iter().all(|v| v.destination != file.destination);
    let mut chosen: Vec<&Bind> = files.iter().filter(free).chain(volumes).collect();
    chosen.sort_by_key(|bind| bind.destination.components().count());
    chosen.into_iter().map(|bind| bind.mount(own_ids)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_before_inner_and_volumes_win() {
        let files = [
            Bind::new("/pod/hosts", "/etc/hosts", false),
            Bind::new("/pod/name", "/etc/hostname", false),
        ];
        let volumes = [
            Bind::new("/v/1", "/data/inner", true),
            Bind::new("/v/2", "/data", false),
            Bind::new("/v/3", "/etc/hosts", true),
        ];
        let made: Vec<_> = binds(&files, &volumes, false)
            .iter()
            .map(|m| {
                (
                    m.destination().display().to_string(),
                    m.source().clone().unwrap().display().to_string(),
                )
            })
            .collect();
        let expected = [
            ("/data", "/v/2"),
            ("/etc/hostname", "/pod/name"),
            ("/data/inner", "/v/1"),
            ("/etc/hosts", "/v/3"),
        ];
        assert_eq!(made, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn read_only_reaches_as_far_as_was_asked() {
        let option = |read_only, recursive| {
            let mut bind = Bind::new("/v", "/d", read_only);
            bind.recursive = recursive;
            bind.mount(false).options().clone().unwrap_or_default().pop()
        };
        assert_eq!(option(false, false).as_deref(), Some("rw"));
        assert_eq!(option(true, false).as_deref(), Some("ro"));
        assert_eq!(option(true, true).as_deref(), Some("rro"));
    }

    #[test]
    fn ids_are_mapped_once() {
        for (own_ids, idmapped, expected) in [
            (false, false, false),
            (true, false, true),
            (false, true, false),
            (true, true, false),
        ] {
            let mut bind = Bind::new("/v", "/d", true);
            bind.idmapped = idmapped;
            let options = bind.mount(own_ids).options().clone().unwrap_or_default();
            let is_mapped = options.iter().any(|option| option == "idmap");
            assert_eq!(is_mapped, expected, "{own_ids} {idmapped}");
        }
    }
}

//! Names of units: how a cluster's, a Pod's and a container's are called, and where their cgroups are. Pure.

/// What is asked of systemd where nothing names a slice.
const DEFAULT_SLICE: &str = "system.slice";
/// Slices.
const SLICE: &str = ".slice";

/// A unit asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Nothing leaves systemd's own choice.
    pub slice: Option<String>,
    pub name: String,
}

impl Unit {
    /// Reads `slice:prefix:name`, as runc has it in `linux.cgroupsPath`; `None` when it is not of that form, or has what
    /// unit names have not.
    pub fn parse(cgroups_path: &str) -> Option<Self> {
        let parts: Vec<&str> = cgroups_path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return None;
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
        let named = [slice, prefix, name].concat().chars().all(legal);
        if name.is_empty() || !named || !(slice.is_empty() || slice.ends_with(SLICE)) {
            return None;
        }
        let dash = if prefix.is_empty() { "" } else { "-" };
        Some(Self {
            slice: Some(slice).filter(|s| !s.is_empty()).map(str::to_owned),
            name: format!("{prefix}{dash}{name}.scope"),
        })
    }

    /// Its cgroup below the hierarchy's mount, when the host's systemd has made it.
    pub fn path(&self) -> String {
        let slice = self.slice.as_deref().unwrap_or(DEFAULT_SLICE);
        format!("{}/{}", slice_path(slice), self.name)
    }
}

/// Where a slice's cgroup is: `a-b.slice` is below `a.slice` (systemd.slice(5)).
pub fn slice_path(slice: &str) -> String {
    let stem = slice.strip_suffix(SLICE).unwrap_or(slice);
    let ends = stem.match_indices('-').map(|(at, _)| at);
    ends.chain([stem.len()])
        .filter(|end| *end > 0)
        .map(|end| format!("/{}{SLICE}", &stem[..end]))
        .collect()
}

/// A dash in a slice's name means another slice above it, so that names lose theirs, as with the kubelet.
fn flat(name: &str) -> String {
    name.replace('-', "_")
}

/// The slice of a whole cluster: `amphipod-4478f600` has `amphipod_4478f600.slice`.
pub fn cluster_slice(cluster: &str) -> String {
    format!("{}{SLICE}", flat(cluster))
}

/// The slice of a Pod, in its cluster's.
pub fn pod_slice(cluster: &str, uid: &str) -> String {
    format!("{}-pod{}{SLICE}", flat(cluster), flat(uid))
}

/// `linux.cgroupsPath` of a container of a Pod.
pub fn container(cluster: &str, uid: &str, id: &str) -> String {
    format!("{}:cri:{id}", pod_slice(cluster, uid))
}

/// The scope of something of a cluster that is in no Pod.
pub fn cluster_scope(cluster: &str, name: &str) -> Unit {
    Unit {
        slice: Some(cluster_slice(cluster)),
        name: format!("{}-{name}.scope", flat(cluster)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_as_runc_names_them() {
        let unit = |path| Unit::parse(path).map(|u| (u.slice, u.name));
        assert_eq!(
            unit("machine.slice:libpod:abc").unwrap(),
            (Some("machine.slice".into()), "libpod-abc.scope".into())
        );
        assert_eq!(unit(":p:n").unwrap(), (None, "p-n.scope".into()));
        assert_eq!(unit("a.slice::n").unwrap().1, "n.scope");
        for bad in [
            "",
            "/a/b",
            "a:b",
            "a:b:",
            "a:b:c:d",
            "a:b:c",
            "a b.slice:p:c",
            ":p:$x",
            ":p:a/b",
        ] {
            assert!(unit(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn cgroups_are_where_systemd_makes_them() {
        let unit = Unit::parse(&container("amphipod-12ab", "0a-1b", "c1")).unwrap();
        assert_eq!(
            unit.path(),
            "/amphipod_12ab.slice/amphipod_12ab-pod0a_1b.slice/cri-c1.scope"
        );
        assert_eq!(Unit::parse(":p:n").unwrap().path(), "/system.slice/p-n.scope");
        assert_eq!(slice_path("a-b-c.slice"), "/a.slice/a-b.slice/a-b-c.slice");
        assert_eq!(
            cluster_scope("amphipod-12ab", "shim-0").path(),
            "/amphipod_12ab.slice/amphipod_12ab-shim-0.scope"
        );
    }
}

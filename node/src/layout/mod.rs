//! Where a node keeps what: the one place that knows it. By default all is below the node's own directory, so that several agents on
//! a host share nothing; `--root-dir` and `--pod-logs-dir`, upstream's names, lead to where drivers of volumes and collectors of logs
//! look (`/var/lib/kubelet`, `/var/log/pods`). Refuses to know what is in the files.

mod claim;

use std::path::{Path, PathBuf};

pub use claim::{Claim, LayoutError};

/// Upstream's name of the directory of links beside the one of logs, if that has upstream's name too.
const LINKS: &str = "containers";
const LOGS_OF_PODS: &str = "pods";

/// The directories of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    data: PathBuf,
    /// Elsewhere than the data.
    root: Option<PathBuf>,
    logs: Option<PathBuf>,
}

impl Layout {
    /// All below `data`, which is `DATA/node`.
    pub fn below(data: PathBuf) -> Self {
        Layout {
            data,
            root: None,
            logs: None,
        }
    }

    /// With what was said on the command line, in absolute paths.
    pub fn with(self, root: Option<PathBuf>, logs: Option<PathBuf>) -> Self {
        let logs_below = self.data.join("logs");
        Layout {
            root: root.filter(|root| *root != self.data),
            logs: logs.filter(|logs| *logs != logs_below),
            data: self.data,
        }
    }

    /// What is the agent's alone.
    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn images(&self) -> PathBuf {
        self.data.join("images")
    }

    /// Volumes of the class local-path.
    pub fn storage(&self) -> PathBuf {
        self.data.join("storage")
    }

    /// What upstream's kubelet calls so.
    pub fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or(&self.data)
    }

    /// A directory for each Pod, by its uid.
    pub fn pods(&self) -> PathBuf {
        self.root().join("pods")
    }

    /// Where sockets of CSI drivers' registrars are.
    pub fn registration(&self) -> PathBuf {
        self.root().join("plugins_registry")
    }

    pub fn plugins(&self) -> PathBuf {
        self.root().join("plugins")
    }

    /// Where CSI drivers stage volumes.
    pub fn staging(&self) -> PathBuf {
        self.plugins().join("kubernetes.io/csi")
    }

    /// Where devices of `local` volumes are mounted, each by its PersistentVolume's name.
    pub fn devices(&self) -> PathBuf {
        self.plugins().join("kubernetes.io/local-volume/mounts")
    }

    /// Seccomp profiles of the node's own.
    pub fn seccomp(&self) -> PathBuf {
        self.root().join("seccomp")
    }

    /// A directory for each Pod, `<namespace>_<name>_<uid>`, in it one for each container.
    pub fn logs(&self) -> PathBuf {
        self.logs.clone().unwrap_or_else(|| self.data.join("logs"))
    }

    pub fn logs_of(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs().join(format!("{namespace}_{name}_{uid}"))
    }

    /// Whether logs are elsewhere, perhaps beside others'.
    pub fn shares_logs(&self) -> bool {
        self.logs.is_some()
    }

    /// Whether Pods are elsewhere than in the data, perhaps beside others'.
    pub fn shares_root(&self) -> bool {
        self.root.is_some()
    }

    /// Directories that were given, of which one lies in another, or in the data, or the other way round: what is removed of
    /// the one would be the other's.
    pub fn overlapping(&self) -> Option<(&Path, &Path)> {
        let all: Vec<&Path> = [Some(&self.data), self.root.as_ref(), self.logs.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect();
        let pairs = all
            .iter()
            .enumerate()
            .flat_map(|(at, one)| all[at + 1..].iter().map(move |other| (*one, *other)));
        pairs
            .into_iter()
            .find(|(one, other)| one.starts_with(other) || other.starts_with(one))
    }

    /// Where a link to each container's log is made; nowhere unless the logs are in a directory `pods`, where upstream has them.
    pub fn links(&self) -> Option<PathBuf> {
        let logs = self.logs.as_ref().filter(|logs| logs.ends_with(LOGS_OF_PODS))?;
        Some(logs.parent()?.join(LINKS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_look_for_is_where_it_was_said() {
        let own = || Layout::below("/d/node".into());
        let said = |root: &str, logs: &str| own().with(Some(root.into()), Some(logs.into()));
        let usual = said("/var/lib/kubelet", "/var/log/pods");
        for (layout, pods, log, links) in [
            (own(), "/d/node/pods", "/d/node/logs/n_p_u", None),
            (
                usual.clone(),
                "/var/lib/kubelet/pods",
                "/var/log/pods/n_p_u",
                Some("/var/log/containers"),
            ),
            (said("/k", "/l"), "/k/pods", "/l/n_p_u", None),
        ] {
            assert_eq!(layout.pods(), Path::new(pods));
            assert_eq!(layout.logs_of("n", "p", "u"), Path::new(log));
            assert_eq!(layout.links().as_deref(), links.map(Path::new));
        }
        assert_eq!(
            usual.registration(),
            Path::new("/var/lib/kubelet/plugins_registry")
        );
        assert_eq!(usual.images(), Path::new("/d/node/images"));
        assert_eq!(said("/d/node", "/d/node/logs"), own(), "the same in more words");
    }

    #[test]
    fn what_lies_in_another_is_known() {
        for (root, logs, overlap) in [
            (None, None, false),
            (Some("/var/lib/kubelet"), Some("/var/log/pods"), false),
            (None, Some("/d/nodes"), false),
            (None, Some("/d/node/images"), true),
            (None, Some("/d"), true),
            (Some("/d"), None, true),
            (Some("/d/node/storage"), None, true),
            (Some("/k"), Some("/k/pods"), true),
            (Some("/k"), Some("/k"), true),
        ] {
            let layout =
                Layout::below("/d/node".into()).with(root.map(PathBuf::from), logs.map(PathBuf::from));
            assert_eq!(layout.overlapping().is_some(), overlap, "{root:?} {logs:?}");
        }
    }
}

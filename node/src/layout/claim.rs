//! Whose a directory is that others know too: one agent's at a time, and one cluster's as long as its Pods are there. The data
//! directory has a lock of its own, whoever starts the agent holds it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Layout;
use crate::files::write_atomic;
use crate::pods::record::subdirectories;
use crate::pods::sandbox::POD_FILE;

/// Beside the Pods: the name of the cluster that they are of.
const OWNER: &str = ".amphipod";

/// Why a node cannot keep its things where it was told to.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("--root-dir {} is in use by another running agent: give each its own", .0.display())]
    InUse(PathBuf),
    #[error("--root-dir {} holds Pods of {owner}: give another directory, or end them there first", root.display())]
    Foreign { root: PathBuf, owner: String },
    #[error(
        "--root-dir {} leads elsewhere by a symbolic link, which drivers of volumes do not see: give the directory itself, or mount it \
         there (mount --bind)", .0.display()
    )]
    Link(PathBuf),
    #[error("{} and {} lie within one another: give --root-dir and --pod-logs-dir directories of their own", .0.display(), .1.display())]
    Overlap(PathBuf, PathBuf),
    #[error(
        "this node has Pods with {flag} {}, which would lose what they have there: give {flag} as it was, or end them first \
         (`amphipod down`)", was.display()
    )]
    Moved { flag: &'static str, was: PathBuf },
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LayoutError + 'a {
    move |source| LayoutError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

/// Held while an agent runs; nobody else's starts with the same directory.
#[derive(Debug)]
pub struct Claim {
    _held: Option<File>,
}

impl Layout {
    /// Whether a node of this cluster that was as `before` may be so now. Makes nothing: to be asked before anything is written down.
    ///
    /// # Errors
    /// All but what is found only when directories are made.
    pub fn check(&self, before: &Layout, cluster: &str) -> Result<(), LayoutError> {
        if let Some((one, other)) = self.overlapping() {
            return Err(LayoutError::Overlap(one.to_owned(), other.to_owned()));
        }
        if before.is_of(cluster)? && before.has_pods()? {
            for (flag, was, now) in [
                ("--root-dir", before.root().to_owned(), self.root().to_owned()),
                ("--pod-logs-dir", before.logs(), self.logs()),
            ] {
                if was != now {
                    return Err(LayoutError::Moved { flag, was });
                }
            }
        }
        self.lock(cluster).map(drop)
    }

    /// Makes the directories, and has them for this agent.
    ///
    /// # Errors
    /// [`LayoutError`], unless it is `Moved`.
    pub async fn claim(&self, cluster: &str) -> Result<Claim, LayoutError> {
        for dir in [self.root().to_owned(), self.logs()] {
            make(&dir, 0o750)?;
        }
        let claim = self.lock(cluster)?;
        for dir in [self.pods(), self.plugins(), self.registration()] {
            make(&dir, 0o750)?;
        }
        if let Some(links) = self.links() {
            make(&links, 0o755)?;
        }
        if !self.is_of(cluster)? {
            let mark = self.root().join(OWNER);
            let marked = write_atomic(&mark, cluster.into()).await;
            marked.map_err(at("write", &mark))?;
        }
        Ok(claim)
    }

    /// Gives up a root without Pods, with the directories in it that nobody has anything in.
    ///
    /// # Errors
    /// When it cannot be removed whose it is.
    pub fn release(&self) -> Result<(), LayoutError> {
        if self.root.is_none() {
            return Ok(());
        }
        for dir in [self.devices(), self.staging(), self.registration()] {
            let mut empty = Some(dir.as_path());
            // The root itself is whoever's who gave it; what is left in others is theirs.
            while let Some(dir) = empty.filter(|dir| *dir != self.root()) {
                empty = match fs::remove_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => None,
                    _ => dir.parent(),
                };
            }
        }
        let mark = self.root().join(OWNER);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &mark)(error)),
            _ => Ok(()),
        }
    }

    /// Whether Pods there are this cluster's. Those below its own data always are.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_of(&self, cluster: &str) -> Result<bool, LayoutError> {
        Ok(self.root.is_none() || self.owner()?.as_deref() == Some(cluster))
    }

    fn owner(&self) -> Result<Option<String>, LayoutError> {
        let mark = self.root().join(OWNER);
        match fs::read_to_string(&mark) {
            Ok(owner) => Ok(Some(owner)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &mark)(error)),
        }
    }

    fn has_pods(&self) -> Result<bool, LayoutError> {
        let pods = self.pods();
        Ok(!subdirectories(&pods).map_err(at("list", &pods))?.is_empty())
    }

    /// Whether there are Pods of a program that writes down no `pod.json`, as this one does before anything else of a Pod is made: of a
    /// kubelet, that was here in the meantime perhaps.
    fn has_foreign_pods(&self) -> Result<bool, LayoutError> {
        let pods = self.pods();
        for pod in subdirectories(&pods).map_err(at("list", &pods))? {
            let has_things = !subdirectories(&pod).map_err(at("list", &pod))?.is_empty();
            if has_things && !pod.join(POD_FILE).exists() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Of a directory that is not there nobody has anything.
    fn lock(&self, cluster: &str) -> Result<Claim, LayoutError> {
        let Some(root) = self.root.as_ref().filter(|root| root.exists()) else {
            return Ok(Claim { _held: None });
        };
        if fs::canonicalize(root).map_err(at("find", root))? != *root {
            return Err(LayoutError::Link(root.clone()));
        }
        let dir = File::open(root).map_err(at("open", root))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(LayoutError::InUse(root.clone())),
            Err(errno) => return Err(at("lock", root)(errno.into())),
        }
        let foreign = |owner: Option<String>| LayoutError::Foreign {
            root: root.clone(),
            owner: owner.unwrap_or_else(|| "another program, a kubelet perhaps".to_owned()),
        };
        if !self.is_of(cluster)? && self.has_pods()? {
            return Err(foreign(self.owner()?));
        }
        if self.has_foreign_pods()? {
            return Err(foreign(None));
        }
        Ok(Claim { _held: Some(dir) })
    }
}

/// Nothing is done to one that is there. Those above it that are missing are made the same, as upstream's are.
fn make(dir: &Path, mode: u32) -> Result<(), LayoutError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(dir);
    made.map_err(at("make", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Place(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().canonicalize().unwrap().join(name)
        }

        fn layout(&self, root: Option<&str>, logs: Option<&str>) -> Layout {
            let path = |name: Option<&str>| name.map(|name| self.path(name));
            Layout::below(self.path("data")).with(path(root), path(logs))
        }

        fn pod(layout: &Layout) {
            fs::create_dir_all(layout.pods().join("uid")).unwrap();
        }
    }

    #[tokio::test]
    async fn a_directory_is_one_agents_and_its_pods_one_clusters() {
        let place = Place::new();
        let layout = place.layout(Some("kubelet"), None);
        layout.check(&layout, "a").unwrap();
        assert!(!place.path("kubelet").exists(), "a check makes nothing");
        let held = layout.claim("a").await.unwrap();
        assert!(layout.registration().is_dir() && layout.plugins().is_dir());
        for claimed in [layout.claim("b").await.map(drop), layout.check(&layout, "b")] {
            assert!(matches!(claimed, Err(LayoutError::InUse(_))), "{claimed:?}");
        }
        drop(held);
        // Without Pods it is anybody's next.
        drop(layout.claim("b").await.unwrap());
        drop(layout.claim("a").await.unwrap());
        Place::pod(&layout);
        let refused = layout.claim("b").await.unwrap_err().to_string();
        assert!(refused.contains("holds Pods of a:"), "{refused}");
        assert!(layout.is_of("a").unwrap() && !layout.is_of("b").unwrap());
        layout.claim("a").await.unwrap();
        layout.release().unwrap();
        let left = fs::read_dir(place.path("kubelet")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["pods"]);
        // A kubelet writes down no such thing.
        let refused = layout.check(&layout, "a").unwrap_err().to_string();
        assert!(refused.contains("a kubelet perhaps"), "{refused}");
    }

    #[tokio::test]
    async fn a_node_with_pods_stays_where_it_is() {
        let place = Place::new();
        let (own, kubelet) = (place.layout(None, None), place.layout(Some("kubelet"), None));
        let logs = place.layout(None, Some("log/pods"));
        drop(own.claim("a").await.unwrap());
        for now in [&kubelet, &logs] {
            now.check(&own, "a").unwrap();
        }
        Place::pod(&own);
        own.check(&own, "a").unwrap();
        for (now, flag) in [(&kubelet, "--root-dir"), (&logs, "--pod-logs-dir")] {
            let refused = now.check(&own, "a").unwrap_err().to_string();
            let words = format!("give {flag} as it was, or end them first");
            assert!(refused.contains(&words), "{refused}");
        }
        // Where it is to go are others' Pods, or its start was refused before: they are not its own.
        Place::pod(&kubelet);
        let other = place.layout(Some("other"), None);
        other.check(&kubelet, "a").unwrap();
    }

    #[tokio::test]
    async fn a_kubelets_pods_are_not_taken_for_ones_own() {
        let place = Place::new();
        let layout = place.layout(Some("kubelet"), None);
        drop(layout.claim("a").await.unwrap());
        let ours = layout.pods().join("ours");
        fs::create_dir_all(ours.join("containers")).unwrap();
        fs::write(ours.join(POD_FILE), "{}").unwrap();
        drop(layout.claim("a").await.unwrap());
        fs::create_dir_all(layout.pods().join("theirs/volumes")).unwrap();
        let refused = layout.claim("a").await.unwrap_err().to_string();
        assert!(refused.contains("a kubelet perhaps"), "{refused}");
    }

    #[tokio::test]
    async fn directories_within_one_another_are_refused() {
        let place = Place::new();
        let layout = place.layout(Some("kubelet"), Some("kubelet/pods"));
        let refused = layout.check(&place.layout(None, None), "a").unwrap_err();
        assert!(matches!(refused, LayoutError::Overlap(..)), "{refused}");
        assert!(!place.path("kubelet").exists());
    }

    #[tokio::test]
    async fn links_are_refused() {
        let place = Place::new();
        fs::create_dir(place.path("disk")).unwrap();
        std::os::unix::fs::symlink(place.path("disk"), place.path("kubelet")).unwrap();
        let claimed = place.layout(Some("kubelet"), None).claim("a").await.map(drop);
        assert!(matches!(claimed, Err(LayoutError::Link(_))), "{claimed:?}");
        assert!(fs::read_dir(place.path("disk")).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn links_to_logs_are_beside_them() {
        let place = Place::new();
        drop(place.layout(None, Some("log/pods")).claim("a").await.unwrap());
        assert!(place.path("log/containers").is_dir() && place.path("data/pods").is_dir());
    }
}

//! Pods of files on this node (static Pods): a directory of manifests, or one file, looked at every second. Owns what is
//! wanted of them; refuses to know how Pods run and how the API server is told of them (`pods/mirror.rs`).

mod defaults;
pub mod manifest;

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between two looks: a changed file is taken up as soon as people notice.
const INTERVAL: Duration = Duration::from_secs(1);

/// The largest manifest; upstream's.
const LIMIT: u64 = 10 << 20;

/// The wanted Pods by `namespace/name`; `None` before the first look.
pub type Wanted = Option<BTreeMap<String, Arc<Pod>>>;

/// What tells that a file may have changed.
type Trace = (PathBuf, u64, Option<SystemTime>);

/// Follows `path` until `shutdown`.
pub async fn run(path: PathBuf, node: String, wanted: watch::Sender<Wanted>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    let mut seen: Option<Vec<Trace>> = None;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let (path, node, before) = (path.clone(), node.clone(), seen.clone());
        let looked = tokio::task::spawn_blocking(move || look(&path, &node, before.as_ref())).await;
        match looked {
            Ok(Ok(Some((traces, pods)))) => {
                seen = Some(traces);
                wanted.send_replace(Some(pods));
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the manifests of static Pods cannot be read; those that run stay");
                wanted
                    .send_if_modified(|wanted| wanted.is_none() && wanted.insert(BTreeMap::new()).is_empty());
            }
            Err(error) => tracing::error!(%error, "looking at the manifests of static Pods failed"),
        }
    }
}

/// The Pods of all manifests, if anything changed since `before`.
#[expect(clippy::type_complexity, reason = "one caller, which takes it apart")]
fn look(
    path: &Path,
    node: &str,
    before: Option<&Vec<Trace>>,
) -> io::Result<Option<(Vec<Trace>, BTreeMap<String, Arc<Pod>>)>> {
    let files = files(path)?;
    let traces: Vec<Trace> = files
        .iter()
        .map(|(path, facts)| (path.clone(), facts.len(), facts.modified().ok()))
        .collect();
    if before == Some(&traces) {
        return Ok(None);
    }
    let mut pods = BTreeMap::new();
    for (path, facts) in files {
        match read(&path, &facts, node) {
            Ok(pod) => {
                let name = manifest::full_name(&pod);
                if pods.insert(name.clone(), Arc::new(pod)).is_some() {
                    tracing::warn!(path = %path.display(), name, "two manifests are of one Pod; this one counts");
                }
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "a manifest makes no static Pod"),
        }
    }
    Ok(Some((traces, pods)))
}

fn read(path: &Path, facts: &Metadata, node: &str) -> Result<Pod, String> {
    if facts.len() > LIMIT {
        return Err(format!("it is larger than {LIMIT} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    manifest::parse(&text, path, node, Timestamp::now()).map_err(|error| error.to_string())
}

/// The files there are, in order; those whose names begin with a dot do not count. A path that does not exist has none.
fn files(path: &Path) -> io::Result<Vec<(PathBuf, Metadata)>> {
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if facts.is_file() {
        return Ok(vec![(path.to_owned(), facts)]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        // One that went away meanwhile is seen by the next look.
        let Ok(facts) = fs::metadata(entry.path()) else {
            continue;
        };
        if facts.is_file() {
            files.push((entry.path(), facts));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    #[test]
    fn a_look_tells_of_changes_only_and_skips_what_is_no_pod() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("web.yaml"), POD).unwrap();
        fs::write(dir.path().join(".swap"), POD.replace("web", "swap")).unwrap();
        fs::write(dir.path().join("broken"), "][").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let (traces, pods) = look(dir.path(), "n", None).unwrap().unwrap();
        assert_eq!(pods.keys().collect::<Vec<_>>(), ["default/web-n"]);
        assert!(look(dir.path(), "n", Some(&traces)).unwrap().is_none());
        fs::remove_file(dir.path().join("web.yaml")).unwrap();
        let (_, pods) = look(dir.path(), "n", Some(&traces)).unwrap().unwrap();
        assert!(pods.is_empty());
        assert!(
            look(&dir.path().join("none"), "n", None)
                .unwrap()
                .unwrap()
                .1
                .is_empty()
        );
    }
}

//! Links to containers' logs by name of Pod and container, as upstream's kubelet makes them in `/var/log/containers` for those who
//! collect logs: `POD_NAMESPACE_CONTAINER-ID.log`. They go with the logs. Nothing depends on them but who collects.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::record::{Record, load_all};
use crate::layout::Layout;

/// Of a name on ext4, without the ending.
const LONGEST: usize = 255 - ENDING.len();
const ENDING: &str = ".log";

/// As upstream cuts what is too long.
fn name(record: &Record) -> String {
    let Record {
        pod_name,
        pod_namespace,
        container,
        id,
        ..
    } = record;
    let mut name = format!("{pod_name}_{pod_namespace}_{container}-{id}");
    name.truncate(LONGEST);
    name + ENDING
}

/// Links to the log of a container that has started, where this node has such links.
pub fn make(layout: &Layout, record: &Record) {
    let Some(dir) = layout.links() else { return };
    let link = dir.join(name(record));
    let made = match symlink(&record.log_path, &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    if let Err(error) = made {
        tracing::warn!(%error, link = %link.display(), "who collects logs will not find a container's");
    }
}

/// Removes the link to the log of a container that is gone. A name that was cut may be another's.
pub fn forget(layout: &Layout, record: &Record) {
    let Some(dir) = layout.links() else { return };
    let link = dir.join(name(record));
    if !fs::read_link(&link).is_ok_and(|log| log == record.log_path) {
        return;
    }
    if let Err(error) = fs::remove_file(&link) {
        tracing::warn!(%error, link = %link.display(), "a link to a log that is gone stays");
    }
}

/// The same of the attempt in `dir`, where there are links at all.
pub fn forget_attempt(layout: &Layout, dir: &Path) {
    if layout.links().is_some() {
        forget_read(layout, Record::load(dir).map(|record| vec![record]), dir);
    }
}

/// The same of all attempts of a Pod that is gone, in its directory `containers`.
pub fn forget_all(layout: &Layout, containers: &Path) {
    if layout.links().is_some() {
        forget_read(layout, load_all(containers), containers);
    }
}

fn forget_read(layout: &Layout, records: io::Result<Vec<Record>>, dir: &Path) {
    match records {
        Ok(records) => records.iter().for_each(|record| forget(layout, record)),
        Err(error) => {
            tracing::debug!(%error, dir = %dir.display(), "links to logs may stay until the next start")
        }
    }
}

/// Removes links to logs of this node that are there no more: an agent that was killed may have left some.
pub fn sweep(layout: &Layout) {
    let Some(dir) = layout.links() else { return };
    let logs = layout.logs();
    let removed = fs::read_dir(&dir).and_then(|entries| {
        for entry in entries {
            let link = entry?.path();
            if fs::read_link(&link).is_ok_and(|log| log.starts_with(&logs) && !log.exists()) {
                fs::remove_file(&link)?;
            }
        }
        Ok(())
    });
    if let Err(error) = removed {
        tracing::warn!(%error, dir = %dir.display(), "links to logs that are gone stay");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::record::RECORD_FILE;
    use crate::pods::record::tests::{record, running};

    fn names(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = all
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn links_have_upstreams_names_and_go_with_logs() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout::below("/data".into()).with(None, Some(place.path().join("pods")));
        let links = layout.links().unwrap();
        fs::create_dir(&links).unwrap();
        let of = |container: &str, attempt: u32| {
            let dir = layout.logs_of("default", "p", "u").join(container);
            fs::create_dir_all(&dir).unwrap();
            let log_path = dir.join(format!("{attempt}.log"));
            fs::write(&log_path, "").unwrap();
            Record {
                log_path,
                ..record(container, attempt, running())
            }
        };
        let (first, second, other) = (of("c", 0), of("c", 1), of("other", 0));
        for record in [&first, &second, &second, &other] {
            make(&layout, record);
        }
        // Somebody else's are left alone, there or not.
        symlink("/elsewhere/0.log", links.join("q_n_c-0.log")).unwrap();
        assert_eq!(
            names(&links),
            [
                "p_default_c-c-0.log",
                "p_default_c-c-1.log",
                "p_default_other-other-0.log",
                "q_n_c-0.log"
            ]
        );
        assert_eq!(
            fs::read_link(links.join("p_default_c-c-0.log")).unwrap(),
            first.log_path
        );
        forget(&layout, &first);
        assert_eq!(names(&links).len(), 3);
        forget(&layout, &first);
        fs::remove_file(&second.log_path).unwrap();
        sweep(&layout);
        assert_eq!(names(&links), ["p_default_other-other-0.log", "q_n_c-0.log"]);
        let containers = place.path().join("containers-of-p");
        let attempt = containers.join("other/0");
        forget_attempt(&layout, &attempt);
        forget_all(&layout, &containers);
        assert_eq!(names(&links).len(), 2, "nothing was recorded");
        fs::create_dir_all(&attempt).unwrap();
        let recorded = serde_json::to_vec(&other).unwrap();
        fs::write(attempt.join(RECORD_FILE), recorded).unwrap();
        forget_all(&layout, &containers);
        assert_eq!(names(&links), ["q_n_c-0.log"]);
        make(&layout, &other);
        forget_attempt(&layout, &attempt);
        assert_eq!(names(&links), ["q_n_c-0.log"]);
        // Of a name that is one's own only.
        let theirs = Record {
            log_path: "/another/0.log".into(),
            pod_name: "q".into(),
            pod_namespace: "n".into(),
            id: "0".into(),
            ..other
        };
        let named = name(&Record {
            container: "c".into(),
            ..theirs.clone()
        });
        assert_eq!(named, "q_n_c-0.log");
        forget(
            &layout,
            &Record {
                container: "c".into(),
                ..theirs
            },
        );
        assert_eq!(names(&links), ["q_n_c-0.log"]);
    }

    #[test]
    fn long_names_are_cut_as_upstream_cuts_them() {
        let long = Record {
            pod_name: "p".repeat(253),
            ..record("c", 0, running())
        };
        let name = name(&long);
        assert!(name.len() == 255 && name.ends_with("p.log"), "{name}");
    }
}

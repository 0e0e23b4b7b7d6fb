//! Links to containers' logs by name of Pod and container, as upstream's kubelet makes them in `/var/log/containers` for those who
//! collect logs: `POD_NAMESPACE_CONTAINER-ID.log`. They go with the logs. Nothing depends on them but who collects.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::record::Record;
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

/// Removes the links to what is at `gone` or below.
pub fn forget(layout: &Layout, gone: &Path) {
    remove(layout, |log| log.starts_with(gone));
}

/// Removes links to logs of this node that are there no more: an agent that was killed may have left some.
pub fn sweep(layout: &Layout) {
    let logs = layout.logs();
    remove(layout, |log| log.starts_with(&logs) && !log.exists());
}

fn remove(layout: &Layout, goes: impl Fn(&Path) -> bool) {
    let Some(dir) = layout.links() else { return };
    let removed = fs::read_dir(&dir).and_then(|entries| {
        for entry in entries {
            let link = entry?.path();
            if fs::read_link(&link).is_ok_and(|log| goes(&log)) {
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
        fs::remove_file(&first.log_path).unwrap();
        forget(&layout, &first.log_path);
        assert_eq!(names(&links).len(), 3);
        fs::remove_file(&second.log_path).unwrap();
        sweep(&layout);
        assert_eq!(names(&links), ["p_default_other-other-0.log", "q_n_c-0.log"]);
        forget(&layout, &layout.logs_of("default", "p", "u"));
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

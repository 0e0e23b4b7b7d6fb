//! The files of core dumps and profiles: few, whole, and for their owner only.

use crate::guest::folder::{Folder, Refused};
use std::fs::File;
use std::time::SystemTime;

/// Files of one kind in a directory. The oldest makes place for the next.
const KEPT: usize = 4;

/// A directory among a container's mounts.
#[derive(Debug, Clone)]
pub struct Files {
    folder: Folder,
    /// Its path in the container.
    mount: String,
}

impl Files {
    /// What is in `folder`, mounted at `mount`.
    pub fn new(folder: Folder, mount: String) -> Self {
        Self { folder, mount }
    }

    /// Writes a file by `fill`. Answers its path in the container.
    ///
    /// # Errors
    /// When it cannot be written to its end; nothing is left of it then.
    pub fn write(
        &self,
        kind: &str,
        extension: &str,
        fill: impl FnOnce(&File) -> Result<(), Refused>,
    ) -> Result<String, Refused> {
        let (unfinished, file) = self.folder.begin()?;
        fill(&file)?;
        let name = self.next(kind, extension)?;
        unfinished.place(&self.folder, &name)?;
        Ok(format!("{}/{name}", self.mount.trim_end_matches('/')))
    }

    /// A name that is free, else that of the oldest.
    fn next(&self, kind: &str, extension: &str) -> Result<String, Refused> {
        let mut oldest = (SystemTime::now(), String::new());
        for number in 0..KEPT {
            let name = format!("{kind}-{number}.{extension}");
            let Some(file) = self.folder.file(&name)? else {
                return Ok(name);
            };
            let changed = file.metadata()?.modified()?;
            if oldest.1.is_empty() || changed < oldest.0 {
                oldest = (changed, name);
            }
        }
        Ok(oldest.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    fn files(home: &std::path::Path) -> Files {
        let folder = Folder::new(File::open(home).unwrap().into(), false);
        Files::new(folder, "/found/".to_owned())
    }

    #[test]
    fn few_are_kept_and_nobody_else_reads_them() {
        let home = tempfile::tempdir().unwrap();
        let files = files(home.path());
        let write = |text: &str| {
            let path = files.write("core", "wasm", |mut file| Ok(file.write_all(text.as_bytes())?));
            path.unwrap()
        };
        for (number, expected) in ["0", "1", "2", "3"].iter().enumerate() {
            assert_eq!(write("x"), format!("/found/core-{expected}.wasm"));
            let file = File::open(home.path().join(format!("core-{expected}.wasm"))).unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let age = Duration::from_secs(100 - [50, 10, 90, 20][number]);
            file.set_modified(SystemTime::UNIX_EPOCH + age).unwrap();
        }
        assert_eq!(write("y"), "/found/core-2.wasm");
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), KEPT);
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let failed = files(home.path()).write("core", "wasm", |mut file| {
            file.write_all(b"half")?;
            Err(Refused::Other("no more".to_owned()))
        });
        assert_eq!(failed, Err(Refused::Other("no more".to_owned())));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}

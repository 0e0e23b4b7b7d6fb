//! The registry's content on disk. Blobs are shared by all repositories; a repository's own directory says which
//! of them it has:
//!
//! ```text
//! blobs/sha256/HEX
//! uploads/ID
//! repositories/NAME/_blobs/HEX             empty
//! repositories/NAME/_manifests/HEX         the media type
//! repositories/NAME/_tags/TAG              the digest
//! repositories/NAME/_referrers/HEX/HEX     descriptor of a manifest whose subject is the first digest
//! ```

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::names::{Digest, Name, Reference};

/// Paths and small files; blocking, so called from blocking threads.
pub struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Opens or makes the directory; removes unfinished uploads and blobs no repository has.
    pub fn open(root: &Path) -> io::Result<Self> {
        let disk = Self {
            root: root.to_owned(),
        };
        for dir in [disk.blobs(), disk.repositories(), disk.uploads()] {
            fs::create_dir_all(dir)?;
        }
        disk.sweep()?;
        Ok(disk)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    pub fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    /// Where a blob's content is.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn repository(&self, name: &Name, part: &str) -> PathBuf {
        self.repositories().join(name.as_str()).join(part)
    }

    /// Whether the repository has the blob.
    pub fn has_blob(&self, name: &Name, digest: &Digest) -> bool {
        self.repository(name, "_blobs").join(digest.hex()).exists() && self.blob(digest).exists()
    }

    /// Whether the repository has the manifest.
    pub fn has_manifest(&self, name: &Name, digest: &Digest) -> bool {
        self.repository(name, "_manifests").join(digest.hex()).exists()
    }

    /// Makes a verified, synced file the blob `digest` of the repository.
    pub fn commit_blob(&self, name: &Name, digest: &Digest, file: &Path) -> io::Result<()> {
        fs::rename(file, self.blob(digest))?;
        sync_dir(&self.blobs())?;
        self.link_blob(name, digest)
    }

    /// Gives the repository a blob that is there already.
    pub fn link_blob(&self, name: &Name, digest: &Digest) -> io::Result<()> {
        write(&self.repository(name, "_blobs"), digest.hex(), b"")
    }

    /// Takes the blob from the repository; its bytes go at the next start unless others have it.
    pub fn unlink_blob(&self, name: &Name, digest: &Digest) -> io::Result<bool> {
        remove(&self.repository(name, "_blobs").join(digest.hex()))
    }

    /// Stores a manifest, then points the tag at it: a tag never names what is not there.
    pub fn put_manifest(
        &self,
        name: &Name,
        (digest, media_type, bytes): (&Digest, &str, &[u8]),
        tag: Option<&str>,
    ) -> io::Result<()> {
        write(&self.blobs(), digest.hex(), bytes)?;
        write(
            &self.repository(name, "_manifests"),
            digest.hex(),
            media_type.as_bytes(),
        )?;
        match tag {
            Some(tag) => write(
                &self.repository(name, "_tags"),
                tag,
                digest.to_string().as_bytes(),
            ),
            None => Ok(()),
        }
    }

    /// Records `descriptor` as one of those that refer to `subject`.
    pub fn put_referrer(
        &self,
        name: &Name,
        subject: &Digest,
        by: &Digest,
        descriptor: &[u8],
    ) -> io::Result<()> {
        write(
            &self.repository(name, "_referrers").join(subject.hex()),
            by.hex(),
            descriptor,
        )
    }

    /// The descriptors of the manifests that refer to `subject`, by digest.
    pub fn referrers(&self, name: &Name, subject: &Digest) -> io::Result<Vec<Vec<u8>>> {
        let dir = self.repository(name, "_referrers").join(subject.hex());
        list(&dir)?.iter().map(|file| fs::read(dir.join(file))).collect()
    }

    /// The digest a reference stands for in the repository.
    pub fn resolve(&self, name: &Name, reference: &Reference) -> io::Result<Option<Digest>> {
        match reference {
            Reference::Digest(digest) => Ok(self.has_manifest(name, digest).then(|| digest.clone())),
            Reference::Tag(tag) => {
                let text = read(&self.repository(name, "_tags").join(tag))?;
                Ok(text.and_then(|text| String::from_utf8(text).ok()?.parse().ok()))
            }
        }
    }

    /// A manifest's media type and bytes.
    pub fn manifest(&self, name: &Name, digest: &Digest) -> io::Result<Option<(String, Vec<u8>)>> {
        let Some(media_type) = read(&self.repository(name, "_manifests").join(digest.hex()))? else {
            return Ok(None);
        };
        let bytes = read(&self.blob(digest))?;
        Ok(bytes.map(|bytes| (String::from_utf8_lossy(&media_type).into_owned(), bytes)))
    }

    /// Removes a tag, or a manifest with all tags on it and its place among the referrers.
    pub fn delete_manifest(&self, name: &Name, reference: &Reference) -> io::Result<bool> {
        let digest = match reference {
            Reference::Tag(tag) => return remove(&self.repository(name, "_tags").join(tag)),
            Reference::Digest(digest) => digest,
        };
        let tags = self.repository(name, "_tags");
        for tag in list(&tags)? {
            if read(&tags.join(&tag))?.is_some_and(|text| text == digest.to_string().as_bytes()) {
                remove(&tags.join(&tag))?;
            }
        }
        let referrers = self.repository(name, "_referrers");
        for subject in list(&referrers)? {
            remove(&referrers.join(subject).join(digest.hex()))?;
        }
        remove(&self.repository(name, "_manifests").join(digest.hex()))
    }

    /// The repository's tags in order; none when there is no such repository.
    pub fn tags(&self, name: &Name) -> io::Result<Option<BTreeSet<String>>> {
        if !self.repository(name, "_manifests").exists() {
            return Ok(None);
        }
        list(&self.repository(name, "_tags")).map(Some)
    }

    /// All repositories that hold a manifest, in order.
    pub fn catalog(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        self.walk(|name, dir| {
            if !list(&dir.join("_manifests"))?.is_empty() {
                found.insert(name.to_owned());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Visits every directory below `repositories/` that may be a repository.
    fn walk(&self, mut visit: impl FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
        let mut pending = vec![(String::new(), self.repositories())];
        while let Some((name, dir)) = pending.pop() {
            for part in list(&dir)?.iter().filter(|part| !part.starts_with('_')) {
                let name = if name.is_empty() {
                    part.clone()
                } else {
                    format!("{name}/{part}")
                };
                let dir = dir.join(part);
                visit(&name, &dir)?;
                pending.push((name, dir));
            }
        }
        Ok(())
    }

    fn sweep(&self) -> io::Result<()> {
        for upload in list(&self.uploads())? {
            remove(&self.uploads().join(upload))?;
        }
        let mut used = HashSet::new();
        self.walk(|_, dir| {
            for part in ["_blobs", "_manifests"] {
                used.extend(list(&dir.join(part))?);
            }
            Ok(())
        })?;
        for blob in list(&self.blobs())?.iter().filter(|blob| !used.contains(*blob)) {
            remove(&self.blobs().join(blob))?;
        }
        Ok(())
    }
}

/// The names in a directory; none when it is not there. Files being written are left out.
fn list(dir: &Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(BTreeSet::new());
        }
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().into_string().ok();
        names.extend(name.filter(|name| !name.starts_with('.')));
    }
    Ok(names)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

/// Writes a file durably under its name, or not at all.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    let written = (|| {
        let mut file = File::create_new(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))?;
        sync_dir(dir)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
